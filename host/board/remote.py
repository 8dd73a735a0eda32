"""A board on the network, by PYNQ.remote (pynq 3.1 and later): the pynq package on this computer, the board at the far end.

There are no interrupts over the network, so completion is polled; and a call that the far end never answers would wait for ever, so
every call gets a deadline.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from pynq.pl_server import global_state
from pynq.pl_server.remote_device import PYNQ_PORT, RemoteDevice

DEADLINE = 60.0
"""Seconds that one call may take; a buffer of 1 GiB needs about 20 on a gigabit network."""


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class Deadline(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Gives every call a deadline; pynq gives none."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def _limited(self, details: Any) -> _CallDetails:
        return _CallDetails(
            details.method,
            details.timeout or self.seconds,
            details.metadata,
            details.credentials,
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Register accesses and the like."""
        return continuation(self._limited(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Buffers and files that are read."""
        return continuation(self._limited(client_call_details), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Buffers and files that are written."""
        return continuation(self._limited(client_call_details), request_iterator)


def connect(address: str, deadline: float = DEADLINE) -> RemoteDevice:
    """The pynq device of a board on the network.

    Args:
        address: "host" or "host:port"; the port is PYNQ.remote's 7967 by default.
        deadline: seconds that one call may take.

    Raises:
        RuntimeError: if nothing answers within five seconds.
    """
    host, _, port = address.partition(":")
    device = RemoteDevice(0, host, int(port or PYNQ_PORT))
    channel = grpc.intercept_channel(device.client.channel, Deadline(deadline))
    device._stub = {name: type(stub)(channel) for name, stub in device._stub.items()}
    return device


def renamed_design(bitfile: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder with copies of a bitstream and its hand-off file, under a name that no other bitstream has.

    pynq sends a file only if the board has none of its name, and takes its own notes about a bitstream for those of any other with
    the same bytes: both would use an old design without a word.
    """
    metadata = bitfile.with_suffix(".hwh")
    contents = bitfile.read_bytes() + (metadata.read_bytes() if metadata.exists() else b"")
    folder = tempfile.TemporaryDirectory(prefix="systolora-remote-")
    stem = f"{bitfile.stem}_{hashlib.sha256(contents).hexdigest()[:16]}"
    for source in (bitfile, metadata):
        if source.exists():
            shutil.copyfile(source, Path(folder.name) / f"{stem}{source.suffix}")
    _forget_metadata()
    return folder


def _forget_metadata() -> None:
    state = Path(global_state.STATE_DIR)
    for path in (*state.glob("global_pl_state*.json"), state / "_current_metadata.pkl"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"pynq's notes on an earlier bitstream cannot be removed: {error}", stacklevel=2)
