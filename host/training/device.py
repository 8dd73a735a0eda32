"""The device of a training run."""

from __future__ import annotations

from systolora.device import open_device
from systolora.hls.config import board_config
from systolora.sim.functional.device import Device

from .settings import TrainSettings


def open_device_for(settings: TrainSettings) -> Device:
    """The device that the settings of a training run name.

    Raises:
        BackendError: if its backend is not installed.
        ConfigError: if there is no preset of that board.
    """
    config = board_config(settings.board) if settings.board else None
    return open_device(settings.backend, config, emulated_board=settings.emulated_board)
