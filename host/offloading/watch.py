"""What ran in torch: a hook on every Linear and convolution, and on the offloaded layers, that looks at each call afterwards."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .layer import LAYER_ATTRIBUTE, OffloadedLayer, is_repeated

_COUNTED = (nn.Linear, nn.modules.conv._ConvNd)


class CallWatch:
    """Adds up the multiply-accumulates of what ran in torch, and notices calls that went past an offloaded layer's forward.

    Attributes:
        host_macs: of Linear and convolution layers, forward, without what gradient checkpointing repeats. An offloaded layer's
            calls that fell back count here.
    """

    def __init__(self) -> None:
        self.host_macs = 0
        self._handles: list[RemovableHandle] = []

    def watch(self, model: nn.Module) -> None:
        """Hooks onto all Linear and convolution layers and the offloaded ones, those included that come later: the model's own
        forward looks for them. The parts of an adapted layer are called only when it falls back."""
        self._handles.append(model.register_forward_pre_hook(self.look_for_new))
        self.look_for_new(model)

    def look_for_new(self, model: nn.Module, inputs: object = None) -> None:
        """Hooks onto the layers that are new."""
        if torch.compiler.is_compiling():
            return
        for module in model.modules():
            watched = isinstance(module, _COUNTED) or LAYER_ATTRIBUTE in module.__dict__
            if watched and not any(hook is self for hook in module._forward_hooks.values()):
                self._handles.append(module.register_forward_hook(self))

    def remove(self) -> None:
        """Takes all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Looks at one call that is over."""
        if not torch.compiler.is_exporting():
            self._look(module, output)

    @torch.compiler.disable  # counters that torch.compile guards would have it compile anew at each call
    def _look(self, module: nn.Module, output: Tensor) -> None:
        layer: OffloadedLayer | None = module.__dict__.get(LAYER_ATTRIBUTE)
        if layer is not None and self._ran_on_device(layer):
            return
        if not is_repeated() and isinstance(module, _COUNTED) and isinstance(output, Tensor):
            self.host_macs += _macs(module, output)

    @staticmethod
    def _ran_on_device(layer: OffloadedLayer) -> bool:
        reached, on_device = layer.noted
        layer.noted = (layer.reached, layer.on_device)
        if layer.reached == reached:
            layer.fallbacks["its forward was replaced after offload"] += 1
        return layer.on_device > on_device

    def __deepcopy__(self, memo: dict[int, object]) -> CallWatch:
        return CallWatch()  # a copied model's calls are none of the original's


def _macs(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    kernel: tuple[int, ...] = module.kernel_size  # type: ignore[assignment]
    inputs: int = module.in_channels // module.groups  # type: ignore[operator, assignment]
    return output.numel() * inputs * math.prod(kernel)
