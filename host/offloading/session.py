"""What the offloaded layers of one model share: device, buffers, program templates, quantization and the step counter."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import ErrorCode
from systolora.programs.buffers import BufferPool, Lease
from systolora.programs.spaces import ProgramTemplate
from systolora.programs.tensors import DeviceMatrix, ElementType
from systolora.programs.transfers import copy_result, element_type, take_result, upload
from systolora.sim.functional.device import Buffer, Device, DeviceError
from torch import Tensor

from .quantization import FOLLOW_MODEL, QuantizationConfig
from .shared_inputs import SharedInputs

_TEMPLATES = 2048
"""How many templates are remembered: one per kind of program and shape."""


class Plan(Protocol):
    """What a program has to do; equal plans have equal programs."""

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""

    def __hash__(self) -> int:
        """Plans are found by their value."""


class NonFiniteTensorError(RuntimeError):
    """A NaN or an infinity in a tensor that was to be quantized; the text names layer and tensor."""


class Session:
    """One model's use of one device.

    Attributes:
        step: of the optimizer; the seeds of stochastic rounding depend on it.
        shared: the int8 copies of inputs that several layers have. device_seconds: that programs took on the device so far.
    """

    def __init__(self, device: Device, quantization: QuantizationConfig) -> None:
        self.device = device
        self.quantization = quantization
        self.pool = BufferPool(device)
        self.step = 0
        self.device_seconds = 0.0
        self.shared = SharedInputs()
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

    def transfer_type(self, dtype: torch.dtype, added: bool = False) -> ElementType:
        """The element type in which an activation or a gradient crosses, to the device or back.

        Args:
            dtype: that it has in the model.
            added: it is a result to which the device adds another product. An instruction adds to the type that it writes, so
                that is float32: in bfloat16 the sum would be rounded twice.
        """
        chosen = self.quantization.transfer_type
        if added:
            return ElementType.FLOAT32
        return element_type(dtype) if chosen == FOLLOW_MODEL else ElementType[chosen.upper()]

    def template(self, plan: Plan) -> ProgramTemplate:
        """The program for a plan, written at the first call."""
        found = self._templates.get(plan)
        if found is None:
            if len(self._templates) >= _TEMPLATES:
                self._templates.clear()
            found = self._templates[plan] = plan.write(self.device.config, self.quantization)
        return found

    def run(
        self,
        template: ProgramTemplate,
        layer: str,
        index: int,
        inputs: Mapping[str, Tensor | NDArray[Any]],
        residents: Mapping[str, Buffer],
        outputs: Collection[str] = (),
        step: int | None = None,
        gradient: bool = False,
    ) -> dict[str, Tensor]:
        """Uploads, runs one program, downloads.

        Args:
            layer, index: name and number of the layer, for errors and seeds.
            inputs: what the template's inbox wants, by name: tensors as `transfers.upload` takes them, or arrays.
            residents: buffers of the spaces that outlive the program.
            outputs: names of float32 and bfloat16 results to read; those that are stored transposed come as views of any strides.
            step: from which seeds are made, instead of the session's.
            gradient: the program computes gradients. If one is not finite all results are NaN, as a loss scaler expects it: it skips the
                step and goes on with a smaller scale.

        Raises:
            NonFiniteTensorError: if a tensor holds a NaN or an infinity, and not `gradient`.
            DeviceError: if the controller stopped the program for another reason.
        """
        scratch = [name for name in template.sizes if name not in residents]
        leases = {name: self.pool.lease(template.sizes[name], name) for name in scratch}
        buffers = {**residents, **{name: lease.buffer for name, lease in leases.items()}}
        for name, values in inputs.items():
            matrix = template.matrix(name, buffers)
            upload(values, matrix) if isinstance(values, Tensor) else matrix.write(values)
        step, quantization = self.step if step is None else step, self.quantization
        program = template.place(buffers, layer, lambda label: quantization.seed_for(step, index, label))
        began = time.perf_counter()
        try:
            self.device.run(program)
        except DeviceError as error:
            if error.code != ErrorCode.NONFINITE:
                raise
            if gradient:
                return {
                    name: _upright(torch.full(template.shape_of(name), torch.nan), template.turned.get(name, 0))
                    for name in outputs
                }
            where, _, what = error.label.partition(": ")
            raise NonFiniteTensorError(
                f"layer {where!r}: {what.split(',')[0]} holds a NaN or an infinity and cannot be quantized; "
                "lower the learning rate, or look at what feeds this layer"
            ) from error
        finally:
            self.device_seconds += time.perf_counter() - began
        results = {}
        for name in outputs:
            matrix = template.matrix(name, buffers)
            result = _result(matrix, leases.get(template.space_of(name)))
            results[name] = _upright(result, template.turned.get(name, 0))
        for name, lease in leases.items():
            if not name.startswith("outbox"):
                lease.release()
        return results

    def close(self) -> None:
        """Gives all buffers back; layers that still point here refuse to run. The device stays open."""
        self._open = False
        self.shared.clear()
        self._templates.clear()
        self.pool.close()


def _result(matrix: DeviceMatrix, outbox: Lease | None) -> Tensor:
    """A result: in place, or a copy if it would hold a much larger buffer back."""
    if outbox is None or 2 * matrix.rows * matrix.stride < outbox.buffer.nbytes:
        return copy_result(matrix)
    return take_result(matrix, outbox)


def _upright(result: Tensor, turned: int) -> Tensor:
    """A view of a result that is stored as so many transposes: [rows, cols] of one, [turned, rows, cols] of several; 0: as it is."""
    if not turned:
        return result
    blocks = result.unflatten(0, (turned, -1)).transpose(1, 2)
    return blocks[0] if turned == 1 else blocks


def upload_array(tensor: Tensor) -> NDArray[Any]:
    """The values of a tensor, as `DeviceMatrix.write` takes them for `upload_type`."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return tensor.float().numpy()
