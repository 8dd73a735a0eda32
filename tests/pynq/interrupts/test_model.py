"""Interrupts of a model's forward and backward pass on a device: the next passes give the bits of a run without."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from systolora.emulated_board.hardware import BoardOptions
from systolora.emulated_board.kernel import KernelOptions

from .places import LIBRARIES, Interrupts
from .signals import RandomInterrupts

torch = pytest.importorskip("torch")
for package in ("diffusers", "peft"):
    pytest.importorskip(package, reason=f"offloading needs {package}; the environment of pynq 4 has it")

MODULES = ("systolora.board", "systolora.programs", "systolora.sim.functional", "systolora.offloading", *LIBRARIES)
INTERRUPTS = 80


class Pass:
    """Forward and backward through two offloaded layers, with inputs by number."""

    def __init__(self, device: Any) -> None:
        import systolora

        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 16))
        self.model.requires_grad_(False)
        self.handle = systolora.offload(self.model, "linear", device)

    def __call__(self, number: int) -> list[bytes]:
        x = torch.randn(6, 24, generator=torch.Generator().manual_seed(number)).requires_grad_()
        y = self.model(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        return [tensor.detach().numpy().tobytes() for tensor in (y, gradient)]


def board_with(open_board: Callable[..., Any], latency: float) -> Any:
    return open_board(options=BoardOptions(kernel=KernelOptions(latency=latency)))


def interrupt_at(open_board: Callable[..., Any], numbers: Callable[[int], list[int]]) -> None:
    once, interrupts = Pass(board_with(open_board, 0.002)), Interrupts(MODULES)
    wanted = {number: once(number) for number in range(3)}
    interrupts.run(lambda: once(0))
    for number in numbers(interrupts.passed):
        interrupts.run(lambda: once(0), at=number)
        for later in (1, 2):
            assert once(later) == wanted[later], f"pass {later} after an interrupt at {number}, {interrupts.place}"


def test_an_interrupt_at_these_places_does_not_change_the_next_passes(open_board: Callable[..., Any]) -> None:
    interrupt_at(open_board, lambda points: random.Random(2).sample(range(points), 40))


@pytest.mark.slow
def test_an_interrupt_at_any_place_does_not_change_the_next_passes(open_board: Callable[..., Any]) -> None:
    interrupt_at(open_board, lambda points: list(range(points)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_interrupts_do_not_change_the_next_passes(open_board: Callable[..., Any], seed: int) -> None:
    device = board_with(open_board, 0.002)
    once = Pass(device)
    wanted = {number: once(number) for number in range(3)}
    began = time.perf_counter()
    once(0)
    interrupts = RandomInterrupts(seed, 1.2 * (time.perf_counter() - began))
    while interrupts.sent < INTERRUPTS:
        interrupts.run(lambda: once(0))
        for later in (1, 2):
            assert once(later) == wanted[later]
    assert device.bytes_in_use < 64 * 4096
