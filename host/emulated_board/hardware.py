"""An emulated board: all that PYNQ would find on a real one, with a model of the accelerator behind its registers.

The driver that runs on it is the one that runs on silicon, with the `pynq` package as it is installed. Only this module and its
`emulated_*` neighbours know that there is no board.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from systolora.hls.config import ArrayConfig
from systolora.hls.design import DESIGN, IDENTITY, IDENTITY_MAGIC, INTERRUPT_CONTROLLER, KERNEL
from systolora.hls.handoff import render_handoff

from .executors import make_executor
from .faults import Faults
from .kernel import EmulatedKernel, KernelOptions
from .logic import AddressDecoder, ClockControl, InterruptController, InterruptFile, RegisterFile
from .memory import EmulatedMemory

_MB = 1 << 20
_CLOCK_CONTROL = 0xFF5E_0000
_CONTROL_BLOCKS = (0xFD1A_0000, 0xFD61_5000, 0xFF41_9000, *(0xFD36_0000 + 0x1_0000 * index for index in range(6)))
"""Register blocks of the processing system that PYNQ writes when it loads a design: CRF_APB, SLCRs and AXI FIFO widths."""


@dataclass(frozen=True)
class BoardOptions:
    """What kind of board to emulate.

    Attributes:
        executor: what runs programs: "emulator" or "csim".
        cma_mb: size of the contiguous memory pool, in MiB.
        kernel: how the core was built, and its latency.
        interrupts: whether the image has a UIO device for the interrupt; without, a driver has to poll.
        pll_mhz: rate of the image's I/O PLL, which the PL clocks are divided from; hand-off files are made for 1,500.
    """

    executor: str = "emulator"
    cma_mb: int = 512
    kernel: KernelOptions = field(default_factory=KernelOptions)
    interrupts: bool = True
    pll_mhz: int = 1500


class EmulatedBoard:
    """One board.

    Attributes:
        config: the accelerator in its programmable logic. name: as PYNQ names the board.
        faults: what is wrong with it; may be changed at any time.
        memory: its device memory. bus: its address decoder. loads: bitstreams that were loaded.
        kernel: the accelerator's registers, once a design is loaded.
    """

    def __init__(self, config: ArrayConfig, options: BoardOptions | None = None, faults: Faults | None = None) -> None:
        self.config = config
        self.name = (config.board or "kv260").upper()
        self.options = options or BoardOptions()
        self.faults = faults or Faults()
        self.memory = EmulatedMemory(self.options.cma_mb * _MB, self.faults)
        self.executor = make_executor(self.options.executor, config, self.memory.device)
        self.loads: list[str] = []
        self.kernel: EmulatedKernel | None = None
        self._interrupt_files: dict[int, InterruptFile] = {}
        self._clocks = ClockControl(self.faults, self.options.pll_mhz)
        self._processor = {base: RegisterFile() for base in _CONTROL_BLOCKS}
        self.bus = AddressDecoder()
        self._attach_processor()

    def _attach_processor(self) -> None:
        self.bus.attach(_CLOCK_CONTROL, 0x1000, self._clocks)
        for base, block in self._processor.items():
            self.bus.attach(base, 0x1000, block)

    def load(self, name: str, ip_dict: Mapping[str, Any], controllers: Mapping[str, Any]) -> None:
        """Configures the programmable logic with the design that PYNQ parsed: `ip_dict` and `interrupt_controllers`."""
        self._power_off()
        self.loads.append(name)
        self.bus.clear()
        self._attach_processor()
        dead = len(self.loads) > 1 and self.faults.hits("fail_reload")
        self.kernel = EmulatedKernel(
            self.config, self.memory, self.executor, self.faults, self.options.kernel, self._on_change
        )
        controller = InterruptController(self._on_change)
        controller.inputs[0] = self.kernel.interrupt_line
        fingerprint = self.faults.fingerprint or self.config.fingerprint
        blocks = {
            KERNEL: RegisterFile() if dead else self.kernel,
            INTERRUPT_CONTROLLER: controller,
            IDENTITY: RegisterFile({0x0: fingerprint, 0x8: IDENTITY_MAGIC}),
        }
        for instance, block in blocks.items():
            if instance in ip_dict:
                self.bus.attach(ip_dict[instance]["phys_addr"], ip_dict[instance]["addr_range"], block)
        for entry in controllers.values():
            if entry.get("parent") == "" and self.options.interrupts:
                self._interrupt_files[entry["raw_irq"]] = InterruptFile(controller.output)

    def interrupt_path(self, number: int) -> str | None:
        """The file that stands for the UIO device of an interrupt number, or None."""
        file = self._interrupt_files.get(number)
        return file.path if file else None

    def _on_change(self) -> None:
        for file in self._interrupt_files.values():
            file.fire()

    def _power_off(self) -> None:
        if self.kernel is not None:
            self.kernel.power_off()
        for file in self._interrupt_files.values():
            file.close()
        self._interrupt_files = {}

    def close(self) -> None:
        """Switches the board off."""
        self._power_off()


def write_design(folder: Path, config: ArrayConfig, edit: Callable[[str], str] = str) -> Path:
    """Writes the two files that PYNQ loads, and returns the `.bit`, which has a header and no configuration data.

    `edit` changes the text of the hand-off file: a design that does not match its driver.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{DESIGN}.hwh").write_text(edit(render_handoff(config)))
    path = folder / f"{DESIGN}.bit"
    path.write_bytes(_bit_header(config))
    return path


def _bit_header(config: ArrayConfig) -> bytes:
    def text(tag: bytes, value: str) -> bytes:
        encoded = value.encode() + b"\0"
        return tag + struct.pack(">H", len(encoded)) + encoded

    payload = b"\0" * 64
    name = f"{DESIGN}_wrapper;UserID=0X{config.fingerprint_text.upper()};Version=emulated"
    magic = struct.pack(">H", 9) + b"\x0f\xf0" * 4 + b"\0" + struct.pack(">H", 1)
    fields = (
        text(b"a", name) + text(b"b", config.part or "emulated") + text(b"c", "2000/01/01") + text(b"d", "00:00:00")
    )
    return magic + fields + b"e" + struct.pack(">I", len(payload)) + payload


def temporary_design(config: ArrayConfig) -> tempfile.TemporaryDirectory[str]:
    """A folder with the design's files, removed with the returned object."""
    folder = tempfile.TemporaryDirectory(prefix="systolora-board-")
    write_design(Path(folder.name), config)
    return folder
