"""One offloaded layer: what of it lives in device memory, and what it has computed so far."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from systolora.hls.isa import Axis
from systolora.programs.buffers import Lease
from systolora.programs.spaces import ProgramTemplate
from systolora.sim.functional.device import Buffer
from torch import Tensor

from .layer_writer import input_space
from .session import Plan, Session, upload_array
from .shared_inputs import InputCopies

LAYER_ATTRIBUTE = "systolora_layer"
"""Where an offloaded module keeps its `OffloadedLayer`; not a parameter, buffer or module, so no state dict sees it."""

_SAMPLES = 64
"""Elements of a weight that are compared to notice changes which torch's version counter does not see (`.data`)."""

_RESIDENT = frozenset({"weight", "bias", "factors"})
"""Spaces that live as long as the layer."""


class OffloadedLayer:
    """The device side of one layer; belongs to its module, but is not part of its state.

    A copy (`copy.deepcopy`) starts with nothing in device memory and shares the session.

    Attributes:
        name: of the module in its model. index: its number among the offloaded layers, for seeds.
        int8, float32: GEMMs by kind that ran on the device and in torch.
        int8_macs, float32_macs: their multiply-accumulates, by kind, without what gradient checkpointing repeats.
        reached, on_device: forward calls that came here, and those of them that did not run in torch altogether.
        noted: these two when `CallWatch` last looked.
        fallbacks: calls that ran in torch altogether, by reason.
        released: the frozen weight exists on the device only.
    """

    def __init__(self, session: Session, name: str, index: int) -> None:
        self.session = session
        self.name = name
        self.index = index
        self.int8: Counter[str] = Counter()
        self.float32: Counter[str] = Counter()
        self.int8_macs: Counter[str] = Counter()
        self.float32_macs: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.reached = 0
        self.on_device = 0
        self.noted = (0, 0)
        self.released = False
        self._leases: dict[str, tuple[int, Lease]] = {}
        self.forget()

    def forget(self) -> None:
        """Drops what is in device memory and can be uploaded again when it is needed."""
        kept = {"weight"} if self.released else set()
        self._leases = {name: held for name, held in self._leases.items() if name in kept}
        self._weight_token: object = None
        self._bias: Tensor | None = None
        self._factors: tuple[Tensor, Tensor, int] | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> OffloadedLayer:
        if self.released:
            raise RuntimeError(f"layer {self.name!r}: its float weight was released, so the model cannot be copied")
        return OffloadedLayer(self.session, self.name, self.index)

    def __reduce__(self) -> Any:
        raise pickle.PicklingError(
            f"layer {self.name!r} is offloaded and cannot be pickled: save its state_dict, or call undo() on the handle first"
        )

    def run(
        self,
        template: ProgramTemplate,
        inputs: Mapping[str, Tensor | NDArray[Any]],
        leases: Mapping[str, Lease] | None = None,
        outputs: Collection[str] = (),
        factors: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Runs a program of this layer; see `Session.run`. Weight and bias must be in place.

        Args:
            leases: spaces that outlive the program: the int8 copies of x and h.
            factors: down and up, if the program quantizes them anew.
        """
        if factors is not None:
            self._factors = None
        residents = {name: self._room(name, size) for name, size in template.sizes.items() if name in _RESIDENT}
        residents.update((name, lease.buffer) for name, lease in (leases or {}).items())
        results = self.session.run(template, self.name, self.index, inputs, residents, outputs)
        if factors is not None:
            self._factors = (factors[0].detach().clone(), factors[1].detach().clone(), self.session.step)
        for gemm in template.gemms:
            self.int8[gemm.kind] += 1
            self.int8_macs[gemm.kind] += 0 if is_repeated(gemm.kind) else gemm.macs
        return results

    def copies_of(self, x: Tensor) -> InputCopies:
        """The int8 copies of x that other layers made; none with stochastic rounding, where each layer has its own bits."""
        if self.session.quantization.activation_rounding == "stochastic":
            return InputCopies()
        return self.session.shared.copies(x)

    def input_space(self, wanted: Axis, low: bool) -> str:
        """Name of the space of x's int8 copy with scales along an axis; `low`: of what dropout made of x."""
        tensor_wide = self.session.quantization.activation_scales == "tensor"
        return input_space(Axis.TENSOR if tensor_wide else wanted, low)

    def count_float32(self, kind: str, macs: int) -> None:
        """Notes a GEMM that ran in torch because its kind is switched off."""
        self.float32[kind] += 1
        self.float32_macs[kind] += 0 if is_repeated(kind) else macs

    def place_weight(self, weight: Tensor, plan: Plan, arrange: Callable[[Tensor], Tensor] | None = None) -> None:
        """Quantizes the frozen weight into device memory, if what lies there is not this.

        Args:
            weight: of any shape. plan: of the program that quantizes it.
            arrange: makes of it the matrix that the program wants; by default it is one already.
        """
        if self.released:
            return
        token = _token(weight)
        if token == self._weight_token:
            return
        self._weight_token = None
        template = self.session.template(plan)
        residents = {"weight": self._room("weight", template.sizes["weight"])}
        inputs = {"weight": arrange(weight) if arrange else weight}
        # Step 0: a weight that is uploaded again must get the same bits, whatever the step.
        self.session.run(template, self.name, self.index, inputs, residents, step=0)
        self._weight_token = token

    def read_weight(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """(int8 matrix, float32 scales [1] or one per output channel) that the plan's program left in device memory."""
        template = self.session.template(plan)
        buffers = {"weight": self._room("weight", template.sizes["weight"])}
        integers, scales = (template.matrix(name, buffers).read() for name in ("integers", "scales"))
        return torch.from_numpy(integers), torch.from_numpy(scales[0])

    def fall_back(self, reason: str) -> None:
        """Notes a call that runs in torch altogether.

        Raises:
            RuntimeError: if torch has no weight to run it with.
        """
        if self.released:
            raise RuntimeError(
                f"layer {self.name!r} cannot run in torch ({reason}): its float weight was released; offload without release_weights"
            )
        self.fallbacks[reason] += 1

    def place_bias(self, bias: Tensor, nbytes: int) -> None:
        """Writes the bias [out] to device memory, if what lies there is not this."""
        if self._bias is None or not torch.equal(self._bias, bias):
            room = self._room("bias", nbytes).write()
            values = upload_array(bias.float())
            room[: values.nbytes].view("float32")[...] = values
            self._bias = bias.detach().clone()

    def factors_changed(self, down: Tensor, up: Tensor) -> bool:
        """Whether the quantized factors in device memory are not those of this down [rank, in] and up [out, rank]."""
        if self._factors is None:
            return True
        old_down, old_up, step = self._factors
        if self.session.quantization.factor_rounding == "stochastic" and step != self.session.step:
            return True
        return not (torch.equal(old_down, down) and torch.equal(old_up, up))

    def _room(self, name: str, size: int) -> Buffer:
        held = self._leases.get(name)
        if held is None or held[0] != size:
            held = self._leases[name] = (size, self.session.pool.lease(size, f"{self.name}: {name}"))
        return held[1].buffer


def is_repeated(kind: str = "forward") -> bool:
    """Whether a GEMM of a kind runs a second time: a forward inside a backward pass is gradient checkpointing's."""
    return kind.startswith("forward") and torch._C._current_graph_task_id() != -1


def _token(weight: Tensor) -> tuple[object, ...]:
    """Changes when the tensor does: by its place, its version, and some of its values."""
    dense = weight.detach()
    if dense.dim() == 4 and not dense.is_contiguous():
        dense = dense.permute(0, 2, 3, 1)  # channels last: in the order of memory, so that nothing is copied
    flat = dense.reshape(-1)
    sample = flat[:: max(1, len(flat) // _SAMPLES)].float().cpu().numpy().tobytes()
    version = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.dtype, tuple(weight.shape), sample
