"""Which layers of a model are offloaded, by the name of a target."""

from __future__ import annotations

import re
from dataclasses import dataclass

from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from systolora.errors import UserError
from torch import nn

from .peft_layers import is_offloaded, static_reason

# Names of diffusers' U-Nets (attn2 is cross-attention) and joint-attention transformers (the text stream's add_k_proj, add_v_proj).
_KEY_VALUE = re.compile(r"(^|\.)(attn2\.to_(k|v)|add_(k|v)_proj)$")
# The same of all attention, and of transformers' text encoders (CLIP: q_proj ...; T5: SelfAttention.q ...).
_ATTENTION = re.compile(
    r"(^|\.)(to_(q|k|v|out\.0|add_out)|add_(q|k|v)_proj|(q|k|v|out|o)_proj|(SelfAttention|EncDecAttention)\.(q|k|v|o))$"
)
_ALL = re.compile(r"")

TARGETS: dict[str, re.Pattern[str]] = {"kv": _KEY_VALUE, "attention": _ATTENTION, "linear": _ALL, "all": _ALL}
"""Target to the names of its layers: cross-attention key and value (the CDM-QTA paper), all attention, every Linear, and
every Linear and Conv2d."""


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
    for name, module in layers_of(model, targets):
        if not TARGETS[targets].search(name):
            if is_adapted(module):
                skipped.append((name, f"its adapter is not among the targets {targets!r}"))
            continue
        reason = _reason(module)
        if reason:
            skipped.append((name, reason))
        else:
            chosen.append((name, module))
    if not chosen:
        why = f"; skipped: {skipped[0][0]}, {skipped[0][1]}" if skipped else ""
        others = [
            name for name, pattern in TARGETS.items() if any(pattern.search(n) for n, _ in layers_of(model, name))
        ]
        hint = f"targets that match: {', '.join(others)}" if others else "it has no Linear layer"
        raise OffloadError(f"no layer of this {type(model).__name__} matches targets {targets!r} ({hint}){why}")
    return Selection(tuple(chosen), tuple(skipped))


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
