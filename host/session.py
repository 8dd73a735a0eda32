"""What the offloaded layers of one model share: device, buffers, program templates, quantization and the step counter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from systolora.hls.isa import ErrorCode
from systolora.sim.device import Buffer, Device, DeviceError
from torch import Tensor

from .buffers import BufferPool
from .layer_programs import BackwardPlan, ForwardPlan, backward_template, forward_template, weight_template
from .layer_writer import LayerShape
from .quantization import QuantizationConfig
from .spaces import ProgramTemplate
from .tensors import ElementType

_TEMPLATES = 2048
"""How many templates are remembered: one per kind of program and shape."""

Plan = ForwardPlan | BackwardPlan | LayerShape
"""What a template is made from; a `LayerShape` stands for the program that quantizes its weight."""


class NonFiniteTensorError(RuntimeError):
    """A NaN or an infinity in a tensor that was to be quantized; the text names layer and tensor."""


class Session:
    """One model's use of one device.

    Attributes:
        step: of the optimizer; the seeds of stochastic rounding depend on it.
    """

    def __init__(self, device: Device, quantization: QuantizationConfig) -> None:
        self.device = device
        self.quantization = quantization
        self.pool = BufferPool(device)
        self.step = 0
        self._templates: dict[Plan, ProgramTemplate] = {}
        self._open = True

    @property
    def is_open(self) -> bool:
        """Whether layers may still run here."""
        return self._open

    def check_open(self, layer: str) -> None:
        """Raises RuntimeError if the offload was undone while this layer (of a copied model) still points to it."""
        if not self._open:
            raise RuntimeError(f"layer {layer!r}: its offload was undone; call systolora.offload on this model again")

    def template(self, plan: Plan) -> ProgramTemplate:
        """The program for a plan, written at the first call."""
        found = self._templates.get(plan)
        if found is None:
            if len(self._templates) >= _TEMPLATES:
                self._templates.clear()
            found = self._templates[plan] = self._write(plan)
        return found

    def run(
        self,
        template: ProgramTemplate,
        layer: str,
        index: int,
        inputs: Mapping[str, NDArray[Any]],
        residents: Mapping[str, Buffer],
        outputs: Collection[str] = (),
        step: int | None = None,
    ) -> dict[str, Tensor]:
        """Uploads, runs one program, downloads.

        Args:
            layer, index: name and number of the layer, for errors and seeds.
            inputs: what the template's inbox wants, by name.
            residents: buffers of the spaces that outlive the program.
            outputs: names of float32 results to read.
            step: from which seeds are made, instead of the session's.

        Raises:
            NonFiniteTensorError: if a tensor holds a NaN or an infinity.
            DeviceError: if the controller stopped the program for another reason.
        """
        scratch = [name for name in template.sizes if name not in residents]
        leases = {name: self.pool.lease(template.sizes[name], name) for name in scratch}
        buffers = {**residents, **{name: lease.buffer for name, lease in leases.items()}}
        for name, values in inputs.items():
            template.matrix(name, buffers).write(values)
        step, quantization = self.step if step is None else step, self.quantization
        program = template.place(buffers, layer, lambda label: quantization.seed_for(step, index, label))
        try:
            self.device.run(program)
        except DeviceError as error:
            if error.code != ErrorCode.NONFINITE:
                raise
            where, _, what = error.label.partition(": ")
            raise NonFiniteTensorError(
                f"layer {where!r}: {what.split(',')[0]} holds a NaN or an infinity and cannot be quantized; "
                "lower the learning rate, or look at what feeds this layer"
            ) from error
        results = {name: torch.from_numpy(template.matrix(name, buffers).read()) for name in outputs}
        for lease in leases.values():
            lease.release()
        return results

    def close(self) -> None:
        """Gives all buffers back; layers that still point here refuse to run. The device stays open."""
        self._open = False
        self._templates.clear()
        self.pool.close()

    def _write(self, plan: Plan) -> ProgramTemplate:
        if isinstance(plan, ForwardPlan):
            return forward_template(self.device.config, self.quantization, plan)
        if isinstance(plan, BackwardPlan):
            return backward_template(self.device.config, self.quantization, plan)
        return weight_template(self.device.config, self.quantization, plan)


def upload_type(tensor: Tensor) -> ElementType:
    """The element type in which a tensor is uploaded: bfloat16 as it is, all others as float32."""
    return ElementType.BFLOAT16 if tensor.dtype == torch.bfloat16 else ElementType.FLOAT32


def upload_array(tensor: Tensor) -> NDArray[Any]:
    """The values of a tensor, as `DeviceMatrix.write` takes them for `upload_type`."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return tensor.float().numpy()
