"""Optimizers by name: torch's own, and those of packages that may be installed; with options as `name=value`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from systolora.errors import UserError


@dataclass(frozen=True)
class Source:
    """Where an optimizer comes from: module, class in it, and what pip installs it (empty: torch itself)."""

    module: str
    name: str
    install: str = ""


def _torch(name: str) -> Source:
    return Source("torch.optim", name)


OPTIMIZERS: Mapping[str, Source] = {
    "adamw": _torch("AdamW"),
    "adam": _torch("Adam"),
    "adamax": _torch("Adamax"),
    "nadam": _torch("NAdam"),
    "radam": _torch("RAdam"),
    "adafactor": _torch("Adafactor"),
    "adagrad": _torch("Adagrad"),
    "adadelta": _torch("Adadelta"),
    "rmsprop": _torch("RMSprop"),
    "rprop": _torch("Rprop"),
    "asgd": _torch("ASGD"),
    "sgd": _torch("SGD"),
    "adamw8bit": Source("bitsandbytes.optim", "AdamW8bit", "bitsandbytes"),
    "adam8bit": Source("bitsandbytes.optim", "Adam8bit", "bitsandbytes"),
    "lion8bit": Source("bitsandbytes.optim", "Lion8bit", "bitsandbytes"),
    "lion": Source("lion_pytorch", "Lion", "lion-pytorch"),
    "prodigy": Source("prodigyopt", "Prodigy", "prodigyopt"),
}

_OWN_OPTIONS = {"lr": "--learning-rate", "weight_decay": "--weight-decay"}
_HIDDEN = frozenset({"self", "params", "args", "kwargs", "capturable", "differentiable", "fused"})
"""What of a constructor is no option: torch's graph and GPU switches among it."""


def check_optimizer(name: str, options: str) -> None:
    """Whether an optimizer can be had here, and whether its options can be read; without importing it.

    Raises:
        UserError: if its package is not installed, or for what is no list of options.
    """
    source = OPTIMIZERS[name]
    package = source.module.partition(".")[0]
    if source.install and importlib.util.find_spec(package) is None:
        raise UserError(
            f"--optimizer {name}: the package {source.install} is not installed: pip install {source.install}"
        )
    parse_options(options)


def parse_options(text: str) -> dict[str, Any]:
    """Options such as `betas=0.9,0.95 eps=1e-7`: separated by spaces, several numbers of one by commas.

    Raises:
        UserError: for anything else.
    """
    options: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            raise _fault(word, "expected name=value, several separated by spaces")
        if name in options:
            raise _fault(word, f"{name} is given twice")
        if name in _OWN_OPTIONS:
            raise _fault(word, f"that is {_OWN_OPTIONS[name]}")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise _fault(word, "expected a number, numbers with commas, True, False or None") from None
    return options


def optimizer_maker(
    name: str, rate: float, decay: float, default_decay: float, options: str
) -> Callable[[Iterable[Any]], Any]:
    """What makes the optimizer that is named for parameters.

    Args:
        rate: learning rate. decay: weight decay. default_decay: the one that an optimizer without weight decay ignores.

    Raises:
        UserError: for a package that cannot be imported, or options that this optimizer has not.
    """
    kind = _load(name)
    known = {key for key in inspect.signature(kind).parameters if key not in _HIDDEN}
    given = parse_options(options)
    for key in given:
        if key not in known:
            allowed = sorted(known - set(_OWN_OPTIONS))
            near = get_close_matches(key, allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise _fault(key, f"{name} has no such option; it has {', '.join(allowed)}{hint}")
    if "weight_decay" in known:
        given["weight_decay"] = decay
    elif decay not in (0.0, default_decay):
        raise UserError(f"--weight-decay {decay:g}: --optimizer {name} has none; leave it out")

    def make(parameters: Iterable[Any]) -> Any:
        try:
            return kind(parameters, lr=rate, **given)
        except (ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--optimizer {name} --optimizer-options {options!r}: {reason}") from None

    return make


def _load(name: str) -> Any:
    source = OPTIMIZERS[name]
    try:
        return getattr(importlib.import_module(source.module), source.name)
    except Exception as error:  # what a package's import may do on this machine is not known
        what = source.install or "torch"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--optimizer {name}: the package {what} cannot be used here ({reason}): update it") from None


def _fault(what: str, why: str) -> UserError:
    return UserError(f"--optimizer-options {what[:60]}: {why}")
