"""One test body for all devices: the same random programs, the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from systolora.emulated_board.hardware import BoardOptions
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import ErrorCode
from systolora.programs.compiler import gemm_int8
from systolora.programs.tensors import ElementType
from systolora.sim.csim.device import CsimDevice
from systolora.sim.functional.device import Device, DeviceError, Program
from systolora.sim.functional.emulator import EmulatorDevice
from systolora.sim.functional.randoms import random_gemm, random_patches, random_quantize
from systolora.sim.functional.trials import Trial, gemm_trial, join, quantize_trial


@pytest.fixture(params=["emulator", "csim", "board on emulator", "board on csim"])
def device(request: Any, config: ArrayConfig, open_board: Callable[..., Any]) -> Iterator[Device]:
    plain = {"emulator": EmulatorDevice, "csim": CsimDevice}.get(request.param)
    if plain is not None:
        with plain(config) as opened:
            yield opened
    else:
        yield open_board(config, BoardOptions(executor=request.param.rpartition(" ")[2]))


def random_trials(device: Device, seed: int, count: int) -> list[Trial]:
    rng = np.random.default_rng(seed)
    trials = []
    for index in range(count):
        m, n, k = (int(size) for size in rng.integers(1, 60, 3))
        if index % 3 == 0:
            trials.append(quantize_trial(device, rng, random_quantize(rng, m, n)))
        elif index % 3 == 1:
            trials.append(gemm_trial(device, rng, random_gemm(device.config, rng, m, n, k)))
        else:
            trials.append(gemm_trial(device, rng, random_patches(device.config, rng, n)))
    return trials


def test_random_programs_leave_the_reference_bits(device: Device) -> None:
    for trial in random_trials(device, 1, 30):
        device.run(trial.program)
        assert trial.mismatch() == ""
        trial.free()


def test_several_programs_in_flight_leave_the_reference_bits(device: Device) -> None:
    trials = [join(random_trials(device, seed, 3)) for seed in range(8)]
    futures = [device.submit(trial.program) for trial in trials]
    executed = [future.result().executed for future in futures]
    assert executed == [4] * 8
    assert [trial.mismatch() for trial in trials] == [""] * 8


def test_a_bad_instruction_names_itself_and_the_device_goes_on(device: Device) -> None:
    good, other = random_trials(device, 5, 2)
    code = good.program.code[:-128] + bytes([99]) + bytes(127)
    broken = Program(code, good.program.reads, good.program.writes, {1: "up projection"})
    with pytest.raises(DeviceError, match=r"instruction 1 \(up projection\) stopped the program: BAD_OPCODE") as caught:
        device.run(broken)
    assert (caught.value.code, caught.value.index) == (ErrorCode.BAD_OPCODE, 1)
    assert good.mismatch() == "", "what stands before the bad instruction was executed"
    device.run(other.program)
    assert other.mismatch() == ""


def test_counters_do_not_depend_on_the_device(device: Device) -> None:
    before = device.counters
    for trial in random_trials(device, 9, 6):
        device.run(trial.program)
    with EmulatorDevice(device.config) as emulator:
        for trial in random_trials(emulator, 9, 6):
            emulator.run(trial.program)
        assert before + emulator.counters == device.counters


def test_a_product_and_its_transposed_form_have_the_same_bits(device: Device) -> None:
    rng = np.random.default_rng(13)
    a, b = (rng.integers(-128, 128, size).astype(np.int8) for size in ((37, 50), (50, 21)))
    scale_a, scale_b = (np.exp(rng.normal(0, 9, size)).astype(np.float32) for size in (37, 21))
    scaled = {"scale_a": scale_a, "scale_b": scale_b, "result": ElementType.FLOAT32}
    plain, turned = (gemm_int8(device, a, b, **scaled, transpose_c=form) for form in (False, True))
    assert np.array_equal(plain.view(np.uint32), np.ascontiguousarray(turned).view(np.uint32))
