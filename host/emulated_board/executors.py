"""What runs behind AP_START on an emulated board: the emulator's controller, or the generated C++ in C-simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from systolora.hls.check import Region
from systolora.hls.config import ArrayConfig
from systolora.hls.registers import Counters, Status
from systolora.sim.csim.build import build_library
from systolora.sim.csim.device import open_csim
from systolora.sim.functional.controller import Controller
from systolora.sim.functional.memory import DeviceMemory

from .kernel import Executor

EXECUTORS = ("emulator", "csim")


def make_executor(kind: str, config: ArrayConfig, memory: DeviceMemory) -> Executor:
    """The executor of a kind, working on the programmable logic's image of device memory.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind == "emulator":
        return _emulator(config, memory)
    if kind == "csim":
        return _csim(config, memory)
    raise ValueError(f"executor {kind!r}: allowed are {', '.join(EXECUTORS)}")


def _emulator(config: ArrayConfig, memory: DeviceMemory) -> Executor:
    controller = Controller(config, memory)

    def execute(arguments: Mapping[str, int], progress: Callable[[int], None]) -> Status:
        return controller.run(
            Region(arguments["window_address"], arguments["window_size"]),
            arguments["program_address"],
            arguments["instruction_count"],
            arguments["status_address"],
            arguments["sequence"],
            trace=lambda index, _: progress(index),
        )

    return execute


def _csim(config: ArrayConfig, memory: DeviceMemory) -> Executor:
    library = open_csim(build_library(config))

    def execute(arguments: Mapping[str, int], progress: Callable[[int], None]) -> Status:
        sequence = arguments["sequence"]
        error, index = library.start(
            memory,
            Region(arguments["window_address"], arguments["window_size"]),
            arguments["program_address"],
            arguments["instruction_count"],
            arguments["status_address"],
            sequence,
        )
        return Status(error, index, 0, sequence, config.fingerprint, Counters())

    return execute
