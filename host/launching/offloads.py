"""The offloads of one script: a model is taken when an optimizer gets its parameters; all go to one device."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from systolora.device import open_preset
from systolora.errors import describe_error, printable
from systolora.offloading.model import OffloadHandle, offload
from systolora.offloading.peft_layers import is_offloaded
from systolora.offloading.quantization import FOLLOW_MODEL, quantization_for
from systolora.offloading.targets import OffloadError
from systolora.sim.functional.device import Device
from torch import nn

from .owners import Trained, trained_models
from .settings import LaunchSettings
from .summary import Summary, say


class Offloads:
    """What a script's optimizers brought to the device. It keeps no model of the script alive."""

    def __init__(self, settings: LaunchSettings) -> None:
        self._settings = settings
        self._device: Device | None = None
        self._handles: list[tuple[str, OffloadHandle]] = []
        self._refused: dict[tuple[str, str], None] = {}
        self._taken: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._made = 0

    def take(self, optimizer: Any) -> None:
        """Offloads the models that own parameters of an optimizer, those that are not offloaded yet.

        Raises:
            SystemExit: if the device cannot be opened, or with `require` if a model cannot be offloaded; after a line that says why.
        """
        if optimizer not in self._optimizers:
            self._optimizers.add(optimizer)
            self._made += 1
        for trained in trained_models(parameter for group in optimizer.param_groups for parameter in group["params"]):
            if trained.model in self._taken:
                continue
            if any(is_offloaded(module) for module in trained.model.modules()):
                self._refuse(type(trained.model).__name__, "the script offloads it itself, or a part of it")
            else:
                self._offload(trained)

    def _offload(self, trained: Trained) -> None:
        settings, model = self._settings, trained.model
        name = type(model).__name__
        try:
            handle = offload(
                model,
                targets=settings.targets,
                device=self._open(),
                quantization=quantization_for(settings.weight_scales, settings.rounding, settings.seed, FOLLOW_MODEL),
                attention_products=settings.attention_products,
            )
        except OffloadError as error:
            self._refuse(name, str(error))
            return
        self._taken.add(model)
        for module in trained.apart:
            handle.count_also(module)
        self._handles.append((name, handle))
        report = handle.report()
        say(f"{name}: {len(report.adapted)} adapted and {len(report.frozen)} frozen layers go to {report.device}")

    def _open(self) -> Device:
        if self._device is None:
            settings = self._settings
            try:
                self._device = open_preset(settings.backend, settings.board, settings.emulated_board)
            except Exception as error:
                text = describe_error(error)
                if text is None:
                    raise
                print(f"systolora launch: {text}", file=sys.stderr)
                raise SystemExit(2) from None
        return self._device

    def _refuse(self, name: str, reason: str) -> None:
        if (name, reason) in self._refused:
            return
        self._refused[name, reason] = None
        if self._settings.require:
            print(f"systolora launch: --require: {name}: {printable(reason)}", file=sys.stderr)
            raise SystemExit(1)
        say(f"NOT offloaded: {name}: {printable(reason)}")

    def summary(self) -> Summary:
        """What was done so far."""
        return Summary(
            tuple((name, handle.report()) for name, handle in self._handles),
            tuple(self._refused),
            self._made,
        )

    def undo(self) -> None:
        """Gives the models their own layers back and closes the device."""
        for _, handle in self._handles:
            handle.undo()
        if self._device is not None:
            self._device.close()
