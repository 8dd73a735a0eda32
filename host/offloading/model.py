"""`offload(model, ...)`: one line that puts the layers of a diffusers, peft or transformers model on the device."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from systolora.device import open_device
from systolora.sim.functional.device import Device
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from .attention import attention_modules, redirect
from .frozen_weights import release_weights, restore_weights, return_memory
from .layer import LAYER_ATTRIBUTE, OffloadedLayer
from .peft_layers import OffloadedLoraLinear, swap, swap_back
from .quantization import FROZEN_KINDS, QuantizationConfig, describe_transfers
from .report import OffloadReport, sum_by_kind
from .session import Session
from .targets import OffloadError, Selection, adaptable_names, check, is_adapted, layer_names, layers_of, select
from .watch import CallWatch


class OffloadHandle:
    """An offloaded model: its report, the state that makes stochastic rounding resumable, and the way back.

    The model keeps working if the handle is dropped, and the handle keeps no model alive: what it says of one that is gone is what ran
    until then.
    """

    def __init__(
        self, model: nn.Module, selection: Selection, session: Session, owns_device: bool, release: bool
    ) -> None:
        self._model = weakref.ref(model)
        self._skipped = selection.skipped
        self._session = session
        self._owns_device = owns_device
        self._modules = weakref.WeakValueDictionary(selection.chosen)
        self._layers: dict[str, OffloadedLayer] = {}
        for index, (name, module) in enumerate(selection.chosen):
            self._layers[name] = OffloadedLayer(session, name, index)
            swap(module, self._layers[name])
        modules = [module for _, module in selection.chosen]
        self._adapted = tuple(name for name, module in selection.chosen if isinstance(module, OffloadedLoraLinear))
        self._frozen = tuple(name for name in self._layers if name not in self._adapted)
        for name, module in selection.chosen:
            weakref.finalize(module, _forget, weakref.ref(self._layers[name])).atexit = False
        if release:
            release_weights(model, modules)
            return_memory(self._layers[name])
        self._watch = CallWatch()
        self._watch.watch(model)
        self._hooks = [_advance_with_optimizer(model, session)]
        if owns_device:
            weakref.finalize(session, session.device.close).atexit = False

    @property
    def device(self) -> Device:
        """The device that the model runs on."""
        return self._session.device

    @property
    def device_seconds(self) -> float:
        """Seconds that programs took on the device so far, without what the host prepares for them."""
        return self._session.device_seconds

    @property
    def step(self) -> int:
        """The optimizer step, from which seeds of stochastic rounding are made.

        It goes up by one when an optimizer that holds parameters of the model steps; it may be set.
        """
        return self._session.step

    @step.setter
    def step(self, value: int) -> None:
        self._session.step = int(value)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint needs beside the model's state to go on with the same bits."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave.

        Raises:
            ValueError: if it is something else.
        """
        if set(state) != {"step"}:
            raise ValueError(f"this is no state of an offload: it has {sorted(state)}, expected 'step'")
        self.step = state["step"]

    def refresh(self) -> None:
        """Quantizes all weights anew at their next use. Never needed: layers notice whatever changes their tensors."""
        for layer in self._layers.values():
            layer.forget()

    def report(self) -> OffloadReport:
        """What was offloaded, and what ran where so far."""
        layers = self._layers.values()
        return OffloadReport(
            adapted=self._adapted,
            frozen=self._frozen,
            skipped=(*self._skipped, *self._adapted_later()),
            int8=sum_by_kind(layers, "int8"),
            float32=sum_by_kind(layers, "float32"),
            int8_macs=sum_by_kind(layers, "int8_macs"),
            float32_macs=sum_by_kind(layers, "float32_macs"),
            host_macs=self._watch.host_macs,
            fallbacks={(layer.name, why): n for layer in layers for why, n in layer.fallbacks.items()},
            device=self.device.name,
            device_bytes=self.device.bytes_in_use,
            not_called=self._not_called(),
            released=sum(layer.released for layer in layers),
            transfers=describe_transfers(self._session.quantization),
        )

    def _not_called(self) -> tuple[str, ...]:
        known = (*self._adapted, *self._frozen)
        names = tuple(name for name in known if not self._layers[name].reached and not self._layers[name].fallbacks)
        return names if len(names) < len(known) else ()

    def _adapted_later(self) -> list[tuple[str, str]]:
        model = self._model()
        if model is None:
            return []
        known = {*self._modules, *(name for name, _ in self._skipped)}
        return [
            (name, "its adapter was added after offload")
            for name, module in layers_of(model)
            if is_adapted(module)
            and not isinstance(module, OffloadedLoraLinear)
            and (name not in known or module is not self._modules.get(name, module))
        ]

    def count_also(self, module: nn.Module) -> None:
        """Counts what the Linear and convolution layers of another module compute in torch for the model: adapters that are no part of it."""
        self._watch.watch(module)

    def _take_attention(self, model: nn.Module) -> None:
        """Has the attention modules' products run on the device."""
        for name, module in attention_modules(model):
            layer = OffloadedLayer(self._session, f"{name} products", len(self._layers))
            self._layers[layer.name] = layer
            self._hooks += redirect(module, layer)

    def undo(self) -> None:
        """Gives the model its own layers back and frees the device memory; a second call does nothing."""
        modules = list(self._modules.values())
        restore_weights(modules)
        for module in modules:
            swap_back(module)
        self._watch.remove()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._modules.clear()
        self._adapted = self._frozen = ()
        for layer in self._layers.values():
            layer.forget()
        self._session.close()
        if self._owns_device:
            self.device.close()


def offload(
    model: nn.Module,
    targets: str = "kv",
    device: Device | str | None = None,
    quantization: QuantizationConfig | None = None,
    *,
    rank: int | None = None,
    alpha: float | None = None,
    release_weights: bool = False,
    attention_products: bool = False,
) -> OffloadHandle:
    """Runs linear layers and convolutions of a model in INT8 on a device, forward and backward, with their LoRA adapters.

    The layers keep their parameters and names, so saving, loading, accelerate and gradient checkpointing go on as before.

    Args:
        model: a diffusers, peft or transformers model, such as `pipeline.unet`; it is changed in place.
        targets: "kv" (cross-attention key and value), "attention" (all projections of attention), "linear" (every
            Linear) or "all" (every Linear and Conv2d).
            Layers with a peft adapter run it on the device; those without run their frozen weight there.
        device: an open device, the name of a backend for `open_device`, or None for the emulator.
        quantization: what runs in INT8 and how; by default everything, one scale per weight.
        rank, alpha: with `rank`, a model that has no adapter is frozen and gets one (scaling alpha / rank; alpha = rank by
            default) on the attention layers among the targets; a model that has one keeps it.
        release_weights: keep the frozen weights of these layers as INT8 only. Memory falls by their size; the model cannot be
            copied, or saved apart from its adapter, and `undo` gives it the INT8 values back.
        attention_products: also run q k^T, p v and their gradients on the device, in every attention of the model.

    Raises:
        OffloadError: for a wrong model, an unknown target, no matching layer, a rank below 1, or weights that cannot be released
            because the frozen GEMMs run in float32.
    """
    if isinstance(model, nn.Module):
        _drop_undone(model)
    check(model, targets)
    quantization = quantization or QuantizationConfig()
    if release_weights and not quantization.int8_kinds >= FROZEN_KINDS:
        raise OffloadError(f"release_weights: {', '.join(sorted(FROZEN_KINDS))} must run in INT8")
    if rank is not None:
        _add_adapter(model, targets, rank, alpha)
    selection = select(model, targets)
    owns_device = not isinstance(device, Device)
    opened = device if isinstance(device, Device) else open_device(device or "emulator")
    handle = OffloadHandle(model, selection, Session(opened, quantization), owns_device, release_weights)
    if attention_products:
        handle._take_attention(model)
    return handle


def _drop_undone(model: nn.Module) -> None:
    """Swaps back the layers of a copied model that point to an offload which was undone since."""
    for module in model.modules():
        layer: OffloadedLayer | None = getattr(module, LAYER_ATTRIBUTE, None)
        if layer is not None and not layer.session.is_open:
            swap_back(module)


def _add_adapter(model: Any, targets: str, rank: int, alpha: float | None) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise OffloadError(f"rank = {rank}: it must be at least 1")
    if any(is_adapted(module) for _, module in layers_of(model)):
        return
    names = adaptable_names(model, targets)
    if not names:
        if not layer_names(model, targets):
            select(model, targets)  # says which targets match
        raise OffloadError(
            f"rank = {rank}: this {type(model).__name__} has no attention layer to adapt; add an adapter with peft"
        )
    model.requires_grad_(False)
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha or rank, "init_lora_weights": "gaussian"}
    config = LoraConfig(target_modules=names, **settings)
    if hasattr(model, "add_adapter"):
        model.add_adapter(config)
    else:
        inject_adapter_in_model(config, model)


def _forget(reference: weakref.ref[OffloadedLayer]) -> None:
    """Gives the device memory of a layer back whose module is gone."""
    layer = reference()
    if layer is not None:
        layer.forget()


def _advance_with_optimizer(model: nn.Module, session: Session) -> RemovableHandle:
    """Counts the steps of optimizers that hold trainable parameters of the model; does not keep model or session alive."""
    model_reference, session_reference = weakref.ref(model), weakref.ref(session)

    def advance(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        trained, current = model_reference(), session_reference()
        if trained is None or current is None:
            return
        own = {id(p) for p in trained.parameters() if p.requires_grad}
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            current.step += 1

    hook = register_optimizer_step_post_hook(advance)
    weakref.finalize(session, hook.remove).atexit = False
    return hook
