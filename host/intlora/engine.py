"""Where the GEMMs of integer layers run: in INT8 on a device, or in float32 in torch with the same integer weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from systolora.errors import UserError
from systolora.hls.isa import Axis, Result
from systolora.offloading.layer_writer import LayerShape
from systolora.offloading.session import Session
from systolora.programs.buffers import Lease
from systolora.programs.spaces import ProgramTemplate
from systolora.programs.tensors import ElementType
from systolora.sim.functional import reference
from torch import Tensor
from torch.nn import functional

from .digits import digits
from .programs import FactorPlan, IntegerBackwardPlan, IntegerForwardPlan, ProductPlan
from .rules import IntegerWeight


def low_rank_product(up: Tensor, down: Tensor, scaling: float) -> np.ndarray:
    """s (up down) as the device computes it: factors in INT8 per tensor, exact sums, the epilogue's order. float32 [out, in].

    Args:
        up: [out, rank]. down: [rank, in]. scaling: s.
    """
    left, left_scale = quantized_factor(up)
    right, right_scale = quantized_factor(down)
    return product_of_integers(left, left_scale, right, right_scale, scaling)


def quantized_factor(factor: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(int8 of the factor's shape, float32 [1]): the integers that the device multiplies."""
    return reference.quantize(factor.detach().float().cpu().numpy(), Axis.TENSOR)


def product_of_integers(
    up: np.ndarray, up_scale: np.ndarray, down: np.ndarray, down_scale: np.ndarray, scaling: float
) -> np.ndarray:
    """s (up down) of factors in INT8; float32 [out, in]."""
    sums = reference.gemm_int32(up, down)
    return reference.epilogue(sums, Result.FLOAT32, scale_a=up_scale, scale_b=down_scale, alpha=scaling)


@dataclass
class PlacedWeight:
    """An integer weight, ready to be multiplied.

    Attributes:
        weight: the integers. passes: how many GEMMs one product takes. lease: where the digits lie on the device, or None.
    """

    weight: IntegerWeight
    passes: int = 1
    lease: Lease | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> PlacedWeight:
        """Itself: nothing writes to it, and copies of a model share the device's memory."""
        return self


class Engine(ABC):
    """Runs the GEMMs of integer layers and counts them.

    Attributes:
        gemms: GEMMs by kind. macs: their multiply-accumulates.
    """

    def __init__(self) -> None:
        self.gemms: Counter[str] = Counter()
        self.macs: Counter[str] = Counter()

    def __deepcopy__(self, memo: dict[int, object]) -> Engine:
        """Itself: copies of a model run on the same device. Once the handle's `undo` has closed it, they say so."""
        return self

    def __reduce__(self) -> Any:
        raise UserError(
            "a model with integer layers cannot be pickled: save its state_dict(), or call the handle's undo() first"
        )

    @property
    def device_seconds(self) -> float:
        """Seconds that programs took on a device so far; 0 without one."""
        return 0.0

    @abstractmethod
    def product(self, name: str, up: Tensor, down: Tensor, scaling: float) -> np.ndarray:
        """`low_rank_product`; the same bits in every engine."""

    @abstractmethod
    def place(self, name: str, weight: IntegerWeight) -> PlacedWeight:
        """Makes an integer weight ready."""

    @abstractmethod
    def forward(
        self, name: str, placed: PlacedWeight, x: Tensor, bias: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """y [tokens, out] of x [tokens, in], and with `keep` what `backward` needs of x, as a tensor to be saved."""

    @abstractmethod
    def backward(
        self, name: str, placed: PlacedWeight, g: Tensor, saved: Tensor | None, need_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """(grad_x [tokens, in], grad_weight [out, in] if something was saved) of g [tokens, out]."""

    @abstractmethod
    def factor_gradients(
        self, name: str, grad: Tensor, up: Tensor, down: Tensor, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """(grad_up [out, rank], grad_down [rank, in]) of the product's gradient [out, in]."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the engine holds."""


class DeviceEngine(Engine):
    """Programs on a device."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    @property
    def device_seconds(self) -> float:
        """See `Engine.device_seconds`."""
        return self.session.device_seconds

    def product(self, name: str, up: Tensor, down: Tensor, scaling: float) -> np.ndarray:
        """See `Engine.product`."""
        shape = LayerShape(down.shape[1], up.shape[0], up.shape[1], False)
        template = self.session.template(ProductPlan(shape, scaling))
        results = self._run(template, name, {"up": up, "down": down}, {}, ["product"])
        return results["product"].numpy()

    def place(self, name: str, weight: IntegerWeight) -> PlacedWeight:
        """See `Engine.place`."""
        parts = digits(weight.values)
        out, width = weight.values.shape
        shape = LayerShape(width, out, 0, False)
        types = ElementType.FLOAT32, ElementType.FLOAT32
        template = self.session.template(IntegerForwardPlan(shape, 1, *types, len(parts), False))
        lease = self.session.pool.lease(template.sizes["weight"], f"{name}: weight")
        buffers = {"weight": lease.buffer}
        for index, part in enumerate(parts):
            template.matrix(f"digit{index}", buffers).write(part)
        template.matrix("scale", buffers).write(weight.scale[None, :])
        return PlacedWeight(weight, len(parts), lease)

    def forward(
        self, name: str, placed: PlacedWeight, x: Tensor, bias: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See `Engine.forward`."""
        shape = self._shape(placed, bias is not None)
        types = self.session.transfer_type(x.dtype), self._result_type(placed)
        template = self.session.template(IntegerForwardPlan(shape, len(x), *types, placed.passes, keep))
        residents: dict[str, Any] = {"weight": placed.lease.buffer} if placed.lease else {}
        saved = self.session.pool.lease(template.sizes["saved"], "saved") if keep else None
        if saved:
            residents["saved"] = saved.buffer
        inputs = {"x": x}
        if bias is not None:
            inputs["bias"] = bias[None, :]
        y = self._run(template, name, inputs, residents, ["y"])["y"]
        return y, self.session.pool.keep(saved) if saved else None

    def backward(
        self, name: str, placed: PlacedWeight, g: Tensor, saved: Tensor | None, need_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Engine.backward`."""
        shape = self._shape(placed, False)
        types = self.session.transfer_type(g.dtype), self._result_type(placed), self._result_type()
        plan = IntegerBackwardPlan(shape, len(g), *types, placed.passes, need_input, saved is not None)
        template = self.session.template(plan)
        if template.empty:
            return None, None
        residents: dict[str, Any] = {}
        if need_input and placed.lease:
            residents["weight"] = placed.lease.buffer
        if saved is not None:
            residents["saved"] = self.session.pool.kept(saved).buffer
        wanted: list[str] = [result for result in ("grad_x", "grad_weight") if result in template.names]
        results = self._run(template, name, {"g": g}, residents, wanted, gradient=True)
        return results.get("grad_x"), results.get("grad_weight")

    def factor_gradients(
        self, name: str, grad: Tensor, up: Tensor, down: Tensor, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """See `Engine.factor_gradients`."""
        shape = LayerShape(down.shape[1], up.shape[0], up.shape[1], False)
        inputs = {"grad_product": grad, "up": up, "down": down}
        template = self.session.template(FactorPlan(shape, scaling, self.session.transfer_type(grad.dtype)))
        results = self._run(template, name, inputs, {}, ["grad_up", "grad_down"], gradient=True)
        return results["grad_up"], results["grad_down"]

    def close(self) -> None:
        """Frees the buffers; the device stays open."""
        self.session.close()

    def _result_type(self, placed: PlacedWeight | None = None) -> ElementType:
        """Of a result: float32 in the model, and where a weight's passes are added up."""
        return self.session.transfer_type(torch.float32, added=placed is not None and placed.passes > 1)

    @staticmethod
    def _shape(placed: PlacedWeight, bias: bool) -> LayerShape:
        out, width = placed.weight.values.shape
        return LayerShape(width, out, 0, bias)

    def _run(
        self,
        template: ProgramTemplate,
        name: str,
        inputs: dict[str, Any],
        residents: dict[str, Any],
        outputs: list[str],
        gradient: bool = False,
    ) -> dict[str, Tensor]:
        self.session.check_open(name)
        for gemm in template.gemms:
            self.gemms[gemm.kind] += 1
            self.macs[gemm.kind] += gemm.macs
        return self.session.run(template, name, 0, inputs, residents, outputs, None, gradient)


class TorchEngine(Engine):
    """float32 in torch: activations and gradients are not quantized, the weights are the same integers times their scales."""

    def product(self, name: str, up: Tensor, down: Tensor, scaling: float) -> np.ndarray:
        """See `Engine.product`."""
        return low_rank_product(up, down, scaling)

    def place(self, name: str, weight: IntegerWeight) -> PlacedWeight:
        """See `Engine.place`."""
        return PlacedWeight(weight)

    def forward(
        self, name: str, placed: PlacedWeight, x: Tensor, bias: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See `Engine.forward`."""
        bias = None if bias is None else bias.float()
        return functional.linear(x.float(), self._real(placed), bias), x if keep else None

    def backward(
        self, name: str, placed: PlacedWeight, g: Tensor, saved: Tensor | None, need_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Engine.backward`."""
        g = g.float()
        return g @ self._real(placed) if need_input else None, None if saved is None else g.T @ saved.float()

    def factor_gradients(
        self, name: str, grad: Tensor, up: Tensor, down: Tensor, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """See `Engine.factor_gradients`."""
        return scaling * (grad @ down.float().T), scaling * (up.float().T @ grad)

    def close(self) -> None:
        """Nothing to give back."""

    @staticmethod
    def _real(placed: PlacedWeight) -> Tensor:
        return torch.from_numpy(placed.weight.real())
