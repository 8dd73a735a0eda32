"""Which layers of a model are offloaded, by the name of a target."""

from __future__ import annotations

from dataclasses import dataclass

from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from systolora.errors import UserError
from torch import nn

from .peft_layers import is_offloaded, static_reason
from .projections import Projections, find_projections
from .target_names import TARGETS, adapted_by


class OffloadError(UserError):
    """A model or a target that cannot be offloaded; the text says what is allowed."""


@dataclass(frozen=True)
class Selection:
    """The layers of a model that are chosen, by name in the model's order, and why others are not."""

    chosen: tuple[tuple[str, nn.Module], ...]
    skipped: tuple[tuple[str, str], ...]


def select(model: nn.Module, targets: str) -> Selection:
    """The Linear layers, and for "all" the Conv2d, of a model that a target names, adapted or not.

    Raises:
        OffloadError: for a model that is no torch module or is offloaded already, an unknown target, or no matching layer.
    """
    check(model, targets)
    chosen: list[tuple[str, nn.Module]] = []
    skipped: list[tuple[str, str]] = []
    layers = layers_of(model, targets)
    projections = find_projections(model, [name for name, _ in layers])
    names = _named(targets, layers, projections)
    for name, module in layers:
        if name not in names:
            if is_adapted(module):
                skipped.append((name, f"its adapter is not among the targets {targets!r}"))
            continue
        reason = projections.idle.get(name) or _reason(module)
        if reason:
            skipped.append((name, reason))
        else:
            chosen.append((name, module))
    found = Selection(tuple(chosen), tuple(skipped))
    _refuse_useless(model, targets, found)
    return found


def layer_names(model: nn.Module, targets: str) -> frozenset[str]:
    """Full names of the layers that a target names, whether or not the device can run them."""
    layers = layers_of(model, targets)
    return _named(targets, layers, find_projections(model, [name for name, _ in layers]))


def adaptable_names(model: nn.Module, targets: str) -> list[str]:
    """Full names, in the model's order, of the attention layers among the targets that an adapter can be put on."""
    layers = layers_of(model)
    projections = find_projections(model, [name for name, _ in layers])
    named = _named(adapted_by(targets), layers, projections)
    return [name for name, _ in layers if name in named and name not in projections.idle]


def _named(targets: str, layers: list[tuple[str, nn.Module]], projections: Projections) -> frozenset[str]:
    if targets == "kv":
        return projections.key_value
    return projections.all if targets == "attention" else frozenset(name for name, _ in layers)


def _refuse_useless(model: nn.Module, targets: str, selection: Selection) -> None:
    """Raises OffloadError if nothing is chosen, or if the model has adapters and none of them is among the targets."""
    what, skipped = f"this {type(model).__name__}", selection.skipped
    if not selection.chosen:
        others = [name for name in TARGETS if name != targets and layer_names(model, name)]
        hint = f"targets that match: {', '.join(others)}" if others else "it has no Linear layer"
        why = f"; skipped: {skipped[0][0]}, {skipped[0][1]}" if skipped else ""
        raise OffloadError(f"no layer of {what} matches targets {targets!r} ({hint}){why}")
    adapted = [name for name, module in layers_of(model) if is_adapted(module)]
    apart = {name for name, why in skipped if why.startswith("its adapter is not among")}
    if adapted and apart.issuperset(adapted):
        raise OffloadError(
            f"none of the {len(adapted)} adapted layers of {what} is among the targets {targets!r}, which are frozen "
            f"(adapted: {adapted[0]}, ...; targets: {selection.chosen[0][0]}, ...): choose other targets, or adapt these layers"
        )


def check(model: nn.Module, targets: str) -> None:
    """Raises OffloadError for a model that is no torch module or is offloaded already, or an unknown target."""
    if not isinstance(model, nn.Module):
        raise OffloadError(
            f"offload takes a torch module such as pipeline.unet or pipeline.transformer, not a {type(model).__name__}"
        )
    if targets not in TARGETS:
        raise OffloadError(f"targets = {targets!r}: allowed are {', '.join(TARGETS)}")
    if any(is_offloaded(module) for module in model.modules()):
        raise OffloadError("this model is offloaded already; call undo() on its handle first")


def layers_of(model: nn.Module, targets: str = "linear") -> list[tuple[str, nn.Module]]:
    """Adapted layers of any kind, plain Linear layers and, for "all", plain Conv2d; not the parts of adapted ones."""
    kinds = (nn.Linear, nn.Conv2d) if targets == "all" else (nn.Linear,)
    found: list[tuple[str, nn.Module]] = []
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if is_adapted(module):
            inside.update(module.modules())
        if is_adapted(module) or isinstance(module, kinds):
            found.append((name, module))
    return found


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is one of peft's LoRA layers, of whatever kind."""
    return isinstance(module, LoraLayer)


def _reason(module: nn.Module) -> str:
    if is_adapted(module) and type(module) is not LoraLinear:
        return f"an adapted {type(module).__name__} is not supported"
    reason = static_reason(module)
    if not reason and not is_adapted(module) and module.weight.requires_grad:
        return "the weight is trainable"
    return reason
