"""A hook on every torch optimizer that is made. torch is not loaded for it: a script may set what torch reads when it is loaded."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MODULE = "torch.optim.optimizer"


class OptimizerHook:
    """Calls back with an optimizer after it was made and after it took more parameters, until it is removed.

    Every class below `torch.optim.Optimizer` is seen, those of other packages and of the script itself included.
    """

    def __init__(self, on_parameters: Callable[[Any], None]) -> None:
        self._on_parameters = on_parameters
        self._originals: dict[str, Any] = {}
        self._making: set[int] = set()

    def install(self) -> None:
        """Hooks onto torch, at once or when it is loaded."""
        loaded = sys.modules.get(_MODULE)
        if loaded is not None:
            self._wrap(loaded)
        else:
            sys.meta_path.insert(0, self)  # type: ignore[arg-type]

    def remove(self) -> None:
        """Gives torch its own functions back."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)  # type: ignore[arg-type]
        for name, original in self._originals.items():
            setattr(sys.modules[_MODULE].Optimizer, name, original)
        self._originals.clear()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As a finder of `sys.meta_path`: of the one module, the usual loader with the hook behind it."""
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: ModuleType) -> None:
                execute(module)
                self._wrap(module)

            spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec

    def _wrap(self, module: Any) -> None:
        make = self._originals["__init__"] = module.Optimizer.__init__
        add = self._originals["add_param_group"] = module.Optimizer.add_param_group

        @functools.wraps(make)
        def made(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            self._making.add(id(optimizer))
            try:
                make(optimizer, *args, **kwargs)
            finally:
                self._making.discard(id(optimizer))
            self._on_parameters(optimizer)

        @functools.wraps(add)
        def added(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            add(optimizer, *args, **kwargs)
            if id(optimizer) not in self._making:  # it calls this for each group that it is given
                self._on_parameters(optimizer)

        module.Optimizer.__init__ = made
        module.Optimizer.add_param_group = added
