"""Every fault of a running board ends in its named error within its time; after one that can be mended, work goes on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from systolora.board.errors import BoardLost, BoardTimeout
from systolora.emulated_board.faults import ALWAYS, Faults
from systolora.emulated_board.hardware import BoardOptions
from systolora.emulated_board.kernel import KernelOptions
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import ErrorCode, Result
from systolora.sim.functional.device import Device, DeviceError, OutOfDeviceMemory, Program
from systolora.sim.functional.randoms import random_gemm, random_quantize
from systolora.sim.functional.trials import Trial, gemm_trial, join, quantize_trial

TIMES = {"program": 0.8, "reset": 1.0}


@pytest.fixture(autouse=True)
def quiet_reload() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the core does not answer after a soft reset")
        yield


def make_trial(device: Device, seed: int = 0, accumulate: bool = False) -> Trial:
    """A QUANTIZE and a GEMM; the GEMM adds to what C holds, or does not."""
    rng = np.random.default_rng(seed)
    op = random_gemm(device.config, rng, 20, 30, 40)
    op = op.__class__(**{**vars(op), "accumulate": accumulate, "result": Result.FLOAT32})
    return join([quantize_trial(device, rng, random_quantize(rng, 9, 17)), gemm_trial(device, rng, op)])


def check_works(device: Device, seed: int) -> None:
    trial = make_trial(device, seed)
    device.run(trial.program)
    assert trial.mismatch() == ""


@pytest.mark.parametrize("ignored_resets", [0, ALWAYS])
@pytest.mark.parametrize("hang_at", [0, 1])
def test_a_hang_is_mended_and_the_program_run_again(
    open_board: Callable[..., Any], ignored_resets: int, hang_at: int
) -> None:
    faults = Faults()
    device = open_board(faults=faults, **TIMES)
    trials = [make_trial(device, seed) for seed in range(3)]
    faults.hang, faults.hang_at, faults.ignore_soft_reset = 1, hang_at, ignored_resets
    futures = [device.submit(trial.program) for trial in trials]
    assert [future.result(20).error for future in futures] == [ErrorCode.OK] * 3
    assert [trial.mismatch() for trial in trials] == [""] * 3
    assert device.retries == 1


def test_the_clock_is_right_after_the_bitstream_was_loaded_again(
    open_board: Callable[..., Any], config: ArrayConfig
) -> None:
    """On an image whose I/O PLL is not the one that the hand-off file was made for, its divisors give 2/3 of the rate."""
    import pynq

    faults = Faults()
    device = open_board(config.with_changes(clock_mhz=100.0), BoardOptions(pll_mhz=1000), faults, **TIMES)
    board, seen = device.session.device.board, []
    load = board.load

    def loading(*args: Any) -> None:
        load(*args)
        pynq.Clocks.set_pl_clk(0, 15, 1)  # as pynq 3 does; pynq 4 sets the rate
        seen.append(pynq.Clocks.fclk0_mhz)

    board.load = loading
    faults.hang = 1
    faults.ignore_soft_reset = ALWAYS
    check_works(device, 9)
    assert seen == [pytest.approx(1000 / 15, rel=0.002)]
    assert pynq.Clocks.fclk0_mhz == pytest.approx(100, rel=0.002)


def test_a_clock_that_does_not_obey_after_a_reload_loses_the_board(open_board: Callable[..., Any]) -> None:
    faults = Faults()
    device = open_board(faults=faults, **TIMES)
    trial = make_trial(device)
    faults.hang, faults.ignore_soft_reset, faults.stuck_clock_mhz = 1, ALWAYS, 100.0
    with pytest.raises(BoardLost, match=r"board, clock: the PL clock runs at 99\.999 MHz") as caught:
        device.submit(trial.program).result(20)
    assert "\n" not in str(caught.value)


def test_a_hang_that_cannot_be_repeated_says_where_it_was(open_board: Callable[..., Any]) -> None:
    faults = Faults()
    device = open_board(faults=faults, **TIMES)
    trial = make_trial(device, accumulate=True)
    program = Program(trial.program.code, trial.program.reads, trial.program.writes, {1: "grad_x of layer 3"})
    faults.hang, faults.hang_at = 1, 1
    began = time.monotonic()
    future = device.submit(program)
    with pytest.raises(
        BoardTimeout, match=r"did not finish in 0.8 s; it is at instruction 1 of 3 \(grad_x of layer 3\)"
    ) as caught:
        future.result(20)
    assert 0.8 < time.monotonic() - began < 4
    text = str(caught.value)
    assert "GEMM m=20 n=30 k=40" in text and "CTRL 0x1," in text and "program_address 0x8400" in text
    assert "a soft reset made the board work again" in text and "\n" not in text
    assert (caught.value.index, caught.value.label) == (1, "grad_x of layer 3")
    with pytest.raises(DeviceError, match="its bytes were lost with a program that hung"):
        program.writes[-1].read()
    check_works(device, 7)


def test_a_hang_that_comes_back_is_reported_after_one_retry(open_board: Callable[..., Any]) -> None:
    faults = Faults()
    device = open_board(faults=faults, **TIMES)
    trial = make_trial(device)
    faults.hang = 0
    faults.hang, faults.hang_at = 1, 1
    original = device.session.begin
    starts = []

    def begin(start: Any) -> bool:
        starts.append(start.sequence)
        if start.count == 3:
            faults.hang = 1
        return original(start)

    device.session.begin = begin
    with pytest.raises(BoardTimeout, match="lost"):
        device.submit(trial.program).result(20)
    device.session.begin = original
    assert device.retries == 1
    check_works(device, 8)


def test_a_board_that_cannot_be_mended_is_lost_and_keeps_its_buffers(open_board: Callable[..., Any]) -> None:
    faults = Faults()
    device = open_board(faults=faults, **TIMES)
    trials = [make_trial(device, seed) for seed in range(2)]
    memory = device.session.device.board.memory
    faults.hang, faults.ignore_soft_reset, faults.fail_reload = ALWAYS, ALWAYS, ALWAYS
    futures = [device.submit(trial.program) for trial in trials]
    for future in futures:
        with pytest.raises(BoardLost, match="neither a soft reset nor loading the bitstream again helped.*--resume"):
            future.result(20)
    with pytest.raises(BoardLost):
        device.submit(trials[0].program)
    with pytest.raises(BoardLost):
        device.allocate(64)
    live = memory.live_blocks
    device.close()
    assert memory.live_blocks == live, "the core may still write to them"


def test_buffers_are_given_back_when_a_healthy_board_is_closed(open_board: Callable[..., Any]) -> None:
    device = open_board()
    memory = device.session.device.board.memory
    trial = make_trial(device)
    device.run(trial.program)
    assert memory.live_blocks > 5
    del trial
    device.close()
    import gc

    gc.collect()
    assert memory.live_blocks == 0


@pytest.mark.parametrize("clear_on_read", [False, True])
def test_lost_interrupts_cost_time_but_no_program(open_board: Callable[..., Any], clear_on_read: bool) -> None:
    faults = Faults()
    options = BoardOptions(kernel=KernelOptions(clear_on_read=clear_on_read))
    device = open_board(options=options, faults=faults, interrupt_check=0.1)
    faults.lost_interrupt = 2
    for seed in range(4):
        check_works(device, seed)
    assert (device.session.lost_interrupts, device.session.polls) == (2, False)
    device.session.lost_interrupts = 0
    faults.lost_interrupt = ALWAYS
    with pytest.warns(UserWarning, match="interrupts of systolora_top_0 do not arrive; polling from now on"):
        for seed in range(3):
            check_works(device, seed)
        assert device.session.lost_interrupts == 3
    for seed in range(5):
        check_works(device, seed)
    assert device.session.lost_interrupts == 3


def test_an_image_without_the_interrupts_uio_device_is_polled(open_board: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match="Could not find UIO device"):
        device = open_board(options=BoardOptions(interrupts=False))
    assert device.session.polls and not device.session.core.has_interrupt
    for seed in range(3):
        check_works(device, seed)


def test_an_image_without_any_uio_device_is_polled(
    open_board: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_there(_: object, number: int) -> str:
        raise FileNotFoundError("/sys/class/uio")

    monkeypatch.setattr("systolora.emulated_board.hardware.EmulatedBoard.interrupt_path", nothing_there)
    with pytest.warns(UserWarning, match="no interrupts: /sys/class/uio; polling"):
        device = open_board()
    check_works(device, 0)


def test_a_stale_done_is_not_taken_for_this_program(open_board: Callable[..., Any]) -> None:
    faults = Faults()
    device = open_board(options=BoardOptions(kernel=KernelOptions(latency=0.05)), faults=faults, interrupt_check=0.005)
    faults.stale_done = 3
    for seed in range(3):
        check_works(device, seed)
    assert faults.stale_done == 0


def test_a_pointer_to_nowhere_hangs_the_core_and_is_mended(open_board: Callable[..., Any]) -> None:
    faults = Faults()
    device = open_board(faults=faults, **TIMES)
    trial = make_trial(device, accumulate=True)
    faults.decode_error = 1
    with pytest.raises(BoardTimeout, match="registers: CTRL 0x1.*memory_program 0x84000"):
        device.submit(trial.program).result(20)
    assert "fetch of the program" in str(device.session.device.board.kernel.failure)
    check_works(device, 3)


def test_an_address_outside_the_named_buffers_is_never_started(open_board: Callable[..., Any]) -> None:
    device = open_board()
    trial, other = make_trial(device), make_trial(device, 1)
    programs = device.session.device.board.kernel.programs
    for reads, writes in (
        (trial.program.reads[:-1], trial.program.writes[:-1]),
        (trial.program.reads, trial.program.writes[:-1]),
        (other.program.reads, other.program.writes),
    ):
        with pytest.raises(DeviceError, match="was not started: 0x.* is in no buffer that the program names") as caught:
            device.run(Program(trial.program.code, reads, writes))
        assert caught.value.code is ErrorCode.WINDOW
    assert device.session.device.board.kernel.programs == programs


def test_a_nan_is_an_error_status_and_the_board_goes_on(open_board: Callable[..., Any]) -> None:
    device = open_board()
    trial = make_trial(device)
    source = trial.program.reads[0]
    source.write()[:] = 0xFF
    with pytest.raises(DeviceError, match="instruction 0 stopped the program: NONFINITE"):
        device.run(trial.program)
    check_works(device, 2)


def test_a_cache_that_stops_being_flushed_is_an_error_not_a_wrong_number(open_board: Callable[..., Any]) -> None:
    faults = Faults()
    device = open_board(faults=faults, **TIMES)
    check_works(device, 0)
    trial = make_trial(device, 1)
    faults.missing_flush = ALWAYS
    with pytest.raises(DeviceError):
        device.run(trial.program)


def test_memory_exhausted_says_how_much_and_what_to_do(open_board: Callable[..., Any], config: ArrayConfig) -> None:
    device = open_board(config, BoardOptions(cma_mb=8))
    held = [device.allocate(2 << 20, f"weight {index}") for index in range(3)]
    with pytest.raises(OutOfDeviceMemory) as caught:
        device.allocate(4 << 20, "activations")
    text = str(caught.value)
    assert (
        "no contiguous memory for activations: 4.0 MiB asked for; 2.0 MiB of the 8.0 MiB pool (CMA) are free;" in text
    )
    assert "6.0 MiB in 7 buffers (largest: weight 0 2.0 MiB, weight 1 2.0 MiB, weight 2 2.0 MiB)" in text
    assert "Add cma=512M to the kernel's boot arguments" in text and "fragmented" not in text
    held.pop().free()
    device.allocate(1 << 20, "smaller").free()
    check_works(device, 1)


def test_memory_in_pieces_says_so(open_board: Callable[..., Any], config: ArrayConfig) -> None:
    device = open_board(config, BoardOptions(cma_mb=8))
    memory = device.session.device.board.memory
    others = [memory.allocate(1 << 20)[0] for _ in range(7)]
    for address in others[::2]:
        memory.free(address)
    with pytest.raises(
        OutOfDeviceMemory, match=r"free but in pieces \(fragmented\); .* Close other programs .* or reboot"
    ):
        device.allocate(3 << 20)


def test_kept_slots_are_given_up_when_memory_is_short(open_board: Callable[..., Any], config: ArrayConfig) -> None:
    device = open_board(config, BoardOptions(cma_mb=8))
    for _ in range(3):
        device.allocate(3 << 20).free()
        device.allocate(5 << 20).free()
