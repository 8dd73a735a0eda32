"""The emulator: a device whose programs run on the CPU, with the bits, errors and counters of the hardware."""

from __future__ import annotations

from collections.abc import Callable

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Instruction
from systolora.hls.registers import Status

from .controller import Controller
from .device import Program
from .memory import DEFAULT_CAPACITY
from .memory_device import MemoryDevice
from .tiled import TiledExecutor
from .whole import Executor

Trace = Callable[[Program, int, Instruction], None]
"""Called with the program, the index and the instruction before each one that is executed."""


class EmulatorDevice(MemoryDevice):
    """Runs programs in the calling thread.

    Attributes:
        trace: called before each instruction that is executed, or None.
    """

    name = "emulator"

    def __init__(
        self,
        config: ArrayConfig | None = None,
        capacity_bytes: int = DEFAULT_CAPACITY,
        tiled: bool = False,
        executor: Executor | None = None,
    ) -> None:
        """A device with `capacity_bytes` of memory, of which only what is used is taken from the computer.

        Args:
            config: the accelerator; by default `ArrayConfig()`.
            tiled: execute GEMMs tile by tile, as the controller does, instead of at once. The same bits, slower.
            executor: what executes the instructions instead; by default the fastest that is exact on this processor.
        """
        super().__init__(config, capacity_bytes)
        self.trace: Trace | None = None
        if tiled:
            executor = TiledExecutor(self.config)
        self._controller = Controller(self.config, self.memory, executor)

    def _start(self, program: Program, count: int) -> Status:
        hook = self.trace
        return self._controller.run(
            self.memory.window,
            self._program.address,
            count,
            self._status.address,
            self._sequence,
            None if hook is None else lambda index, instruction: hook(program, index, instruction),
        )
