"""What must fit before a board is used: design, register map, identity, clock, results. Each misfit is one line with its remedy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from systolora.hls.config import ArrayConfig
from systolora.hls.design import IDENTITY, IDENTITY_MAGIC, KERNEL, KERNEL_VLNV
from systolora.hls.regmap import Register, RegisterField, RegisterMap, compare_maps, predict_map
from systolora.sim.functional.device import Device, DeviceError, OutOfDeviceMemory

from .errors import BoardOpenError
from .selftest import self_test

CLOCK_TOLERANCE = 0.005
CLOCK_SETTLING = 0.01
"""Seconds that the logic gets after its clock was set: a clock of the memory ports that is made of it locks anew (vivado/build.tcl), and
until then registers do not answer."""
"""Share by which the PL clock may differ from the design's: PLL dividers give 249.9975 MHz for 250."""

_REBUILD = "systolora bitstream build {board}"


def check_root(device: Any) -> None:
    """Raises BoardOpenError if this computer is the board and the user is not root: pynq maps /dev/mem."""
    if type(device).__name__ == "EmbeddedDevice" and os.geteuid() != 0:
        raise BoardOpenError(
            "root",
            f"this process runs as user {os.geteuid()}, and pynq can open the FPGA as root only: start it with sudo -E, from "
            "the environment that has pynq (see docs/board.md, Root)",
        )


def load_design(session: Any, bitfile: Path) -> None:
    """Loads the bitstream. Raises BoardOpenError if pynq cannot."""
    metadata = bitfile if bitfile.suffix == ".xsa" else bitfile.with_suffix(".hwh")
    for path in (bitfile, metadata):
        if not path.exists():
            raise BoardOpenError("files", f"{path} is not there: pynq needs the bitstream and its .hwh side by side")
    try:
        session.load()
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise BoardOpenError(
            "files",
            f"pynq could not load {bitfile}: {type(error).__name__}: {reason}. Is the .hwh that of the whole block design "
            "(not of a block in it) and from the same build?",
        ) from error


def check_design(session: Any, config: ArrayConfig) -> None:
    """Checks core, register map and identity register of the loaded design. Raises BoardOpenError."""
    ip_dict = session.overlay.ip_dict
    cores = {name: entry["type"] for name, entry in ip_dict.items() if "type" in entry}
    if cores.get(KERNEL) != KERNEL_VLNV:
        raise BoardOpenError(
            "registers",
            f"the design has no {KERNEL} of type {KERNEL_VLNV}; it has {', '.join(sorted(cores)) or 'no cores'}. Give a "
            f"bitstream of this project: {_REBUILD.format(board=config.board or 'NAME')}",
        )
    differences = compare_maps(predict_map(), map_of(ip_dict[KERNEL]["registers"]))
    if differences:
        raise BoardOpenError(
            "registers",
            f"driver and bitstream do not have the same registers: {'; '.join(differences)} (predicted: this driver; the tool: "
            f"the bitstream). Install the systolora version that built it, or build it again: "
            f"{_REBUILD.format(board=config.board or 'NAME')}",
        )
    _check_identity(session, config)


def map_of(registers: Mapping[str, Any]) -> RegisterMap:
    """The register map that pynq read from a hand-off file: `ip_dict[...]["registers"]`."""
    found = []
    for name, entry in registers.items():
        fields = tuple(
            RegisterField(field, value["bit_offset"], value["bit_width"], value["access"])
            for field, value in sorted(entry["fields"].items(), key=lambda item: item[1]["bit_offset"])
        )
        argument = _argument_of(name, fields)
        data = [field for field in fields if field.name == argument]
        word = -1 if argument and not data else int(name.rpartition("_")[2]) - 1 if name != argument and argument else 0
        found.append(Register(name, entry["address_offset"], entry["access"], tuple(data) or fields, argument, word))
    found.sort(key=lambda register: register.offset)
    return RegisterMap(tuple(found), found[-1].offset + 4 if found else 0)


def _argument_of(name: str, fields: tuple[RegisterField, ...]) -> str:
    if name in ("CTRL", "GIER", "IP_IER", "IP_ISR") or not fields:
        return ""
    return fields[0].name.removesuffix("_ap_vld")


def _check_identity(session: Any, config: ArrayConfig) -> None:
    from pynq import MMIO

    entry = session.overlay.ip_dict.get(IDENTITY)
    if entry is None:
        raise BoardOpenError(
            "fingerprint", f"the design has no identity register {IDENTITY}: it was not built by this project"
        )
    block = MMIO(entry["phys_addr"], 16, device=session.device)
    fingerprint, magic = int(block.read(0)), int(block.read(8))
    if magic != IDENTITY_MAGIC:
        raise BoardOpenError(
            "fingerprint",
            f"the identity register reads {magic:#010x}, not {IDENTITY_MAGIC:#010x}: the logic does not hold the design of the "
            ".hwh. Copy bitstream and .hwh again, from one build",
        )
    if fingerprint != config.fingerprint:
        raise BoardOpenError(
            "fingerprint",
            f"the bitstream has fingerprint {fingerprint:08x}, the configuration of this run ({config.rows} x {config.cols}, "
            f"board {config.board or 'none'}) {config.fingerprint_text}. Give the configuration that it was built for, or "
            f"build one for this: {_REBUILD.format(board=config.board or 'NAME')}",
        )


def check_clock(wanted_mhz: float) -> None:
    """Compares the PL clock with the design's, sets it if it differs, and raises BoardOpenError if it does not obey."""
    import pynq

    if _clock_fits(pynq.Clocks.fclk0_mhz, wanted_mhz):
        return
    pynq.Clocks.fclk0_mhz = wanted_mhz
    time.sleep(CLOCK_SETTLING)
    found = pynq.Clocks.fclk0_mhz
    if not _clock_fits(found, wanted_mhz):
        raise BoardOpenError(
            "clock",
            f"the PL clock runs at {found:.3f} MHz, the bitstream was built for {wanted_mhz:.3f} MHz, and setting it did not "
            "help. Boot an image whose I/O PLL runs at 1,000 or 1,500 MHz, or build for a clock that yours can give",
        )


def _clock_fits(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= CLOCK_TOLERANCE * wanted


def check_results(device: Device) -> None:
    """Runs the self-test. Raises BoardOpenError if it does not run, or if its bits are wrong."""
    try:
        wrong = self_test(device)
    except (DeviceError, OutOfDeviceMemory) as error:
        raise BoardOpenError("self-test", f"the test program did not run: {error}") from error
    if wrong:
        raise BoardOpenError(
            "self-test",
            f"results are not those of the reference: {'; '.join(wrong)}. The board computes wrong numbers: does the build's timing "
            "report say that all constraints are met, and do its ports to memory match the .hwh?",
        )
