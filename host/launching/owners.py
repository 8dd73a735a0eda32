"""Which models an optimizer trains: found from its parameters, among all torch modules that are alive."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


@dataclass(frozen=True)
class Trained:
    """A model, and modules apart from it that adapt its layers: kohya's networks keep theirs outside and call the layer's forward."""

    model: nn.Module
    apart: tuple[nn.Module, ...] = ()


def trained_models(parameters: Iterable[Tensor]) -> list[Trained]:
    """The models to which parameters belong, each once.

    A model is the outermost module that has a `from_pretrained` (those of diffusers, transformers and peft) around a parameter's
    own module; without one the outermost of all, or where several hold it, what they have in common. Wrappers of data
    parallelism and torch.compile are none.
    """
    wanted = {id(parameter) for parameter in parameters}
    tree = _Tree()
    found: dict[int, tuple[nn.Module, list[nn.Module]]] = {}
    for owner in tree.modules:
        if any(id(parameter) in wanted for parameter in owner._parameters.values() if parameter is not None):
            root = tree.model_around(owner)
            bases = _adapted_elsewhere(root)
            for model in [tree.model_around(base) for base in bases] or [root]:
                _, apart = found.setdefault(id(model), (model, []))
                if bases and root not in apart:
                    apart.append(root)
    return [Trained(model, tuple(apart)) for model, apart in found.values()]


class _Tree:
    """All modules that are alive, and which holds which."""

    def __init__(self) -> None:
        # Not isinstance: it asks an object for its class, and lazy ones load something then.
        alive = [item for item in gc.get_objects() if issubclass(type(item), nn.Module)]
        self.modules = [module for module in alive if "_modules" in module.__dict__ and not _is_wrapper(module)]
        self._parents: dict[int, list[nn.Module]] = defaultdict(list)
        for module in self.modules:
            for child in module._modules.values():
                if child is not None:
                    self._parents[id(child)].append(module)

    def model_around(self, module: nn.Module) -> nn.Module:
        """The model that a module is a part of."""
        around = self._around(module)
        known = [found for found in around if hasattr(type(found), "from_pretrained")]
        if known:
            return self._outermost(known)
        tops = [found for found in around if not self._parents[id(found)]]
        inside = [{id(part) for part in top.modules()} for top in tops]
        shared = [found for found in around if all(id(found) in parts for parts in inside)]
        return self._outermost(shared or around)

    def _around(self, module: nn.Module) -> list[nn.Module]:
        """A module and all that hold it, from the inside."""
        found, waiting = {id(module): module}, [module]
        while waiting:
            for parent in self._parents[id(waiting.pop(0))]:
                if id(parent) not in found:
                    found[id(parent)] = parent
                    waiting.append(parent)
        return list(found.values())

    def _outermost(self, modules: list[nn.Module]) -> nn.Module:
        """The first that none of the others holds, at whatever depth."""
        names = {id(module) for module in modules}
        return next(
            (module for module in modules if not any(id(around) in names for around in self._around(module)[1:])),
            modules[-1],
        )


def _is_wrapper(module: nn.Module) -> bool:
    return isinstance(module, (DataParallel, DistributedDataParallel)) or "_orig_mod" in module.__dict__.get(
        "_modules", {}
    )


def _adapted_elsewhere(root: nn.Module) -> list[nn.Module]:
    """Layers of other modules whose forward a module's parts hold, to call it inside their own."""
    own = {id(module) for module in root.modules()}
    held = (value for module in root.modules() for value in module.__dict__.values())
    bases = [
        value.__self__ for value in held if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module)
    ]
    return [base for base in bases if id(base) not in own]
