"""One offloaded layer: what of it lives in device memory, and what it has computed so far."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from systolora.hls.isa import Axis
from systolora.programs.buffers import Lease
from systolora.programs.contents import Contents, contents_of
from systolora.programs.spaces import ProgramTemplate
from systolora.sim.functional.device import Buffer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .layer_writer import input_space
from .session import Plan, Session, upload_array
from .shared_inputs import InputCopies
from .stand_ins import is_stand_in

LAYER_ATTRIBUTE = "systolora_layer"
"""Where an offloaded module keeps its `OffloadedLayer`; not a parameter, buffer or module, so no state dict sees it."""

_RESIDENT = frozenset({"weight", "bias", "factors"})
"""Spaces that live as long as the layer."""


@dataclass(frozen=True)
class Factors:
    """Copies of down [rank, in] and up [out, rank] as a forward pass saw them."""

    down: Tensor
    up: Tensor


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
        released: the frozen weight exists on the device only. hooks: that the module has for as long as it does.
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
        self.hooks: list[RemovableHandle] = []
        self._leases: dict[str, tuple[int, Lease]] = {}
        self.forget()

    def forget(self) -> None:
        """Drops what is in device memory and can be uploaded again when it is needed."""
        kept = {"weight"} if self.released else set()
        self._leases = {name: held for name, held in self._leases.items() if name in kept}
        self._weight: Contents | None = None
        self._bias: Tensor | None = None
        self._factors: Factors | None = None
        self._factors_step = 0

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
        factors: Factors | None = None,
        gradient: bool = False,
    ) -> dict[str, Tensor]:
        """Runs a program of this layer; see `Session.run`. Weight and bias must be in place.

        Args:
            leases: spaces that outlive the program: the int8 copies of x and h.
            factors: if the program quantizes them anew.
        """
        if factors is not None:
            self._factors = None
        residents = {name: self._room(name, size) for name, size in template.sizes.items() if name in _RESIDENT}
        residents.update((name, lease.buffer) for name, lease in (leases or {}).items())
        results = self.session.run(template, self.name, self.index, inputs, residents, outputs, None, gradient)
        if factors is not None:
            self._factors, self._factors_step = factors, self.session.step
        for gemm in template.gemms:
            self.int8[gemm.kind] += 1
            self.int8_macs[gemm.kind] += 0 if is_repeated(gemm.kind) else gemm.macs
        return results

    def copies_of(self, x: Tensor) -> InputCopies:
        """The int8 copies of x that other layers made; none with stochastic rounding, where each layer has its own bits."""
        if self.session.quantization.activation_rounding == "stochastic":
            return InputCopies()
        return self.session.shared.copies(x, self.name)

    def input_space(self, wanted: Axis, low: bool) -> str:
        """Name of the space of x's int8 copy with scales along an axis; `low`: of what dropout made of x."""
        tensor_wide = self.session.quantization.activation_scales == "tensor"
        return input_space(Axis.TENSOR if tensor_wide else wanted, low)

    def count_float32(self, kind: str, macs: int) -> None:
        """Notes a GEMM that ran in torch because its kind is switched off."""
        self.float32[kind] += 1
        self.float32_macs[kind] += 0 if is_repeated(kind) else macs

    def place_weight(
        self,
        weight: Tensor,
        plan: Plan,
        arrange: Callable[[Tensor], Tensor] | None = None,
        seen: Contents | None = None,
    ) -> Contents | None:
        """Quantizes the frozen weight into device memory, if what lies there is not this.

        Args:
            weight: of any shape, read for its contents. plan: of the program that quantizes it.
            arrange: makes of it the matrix that the program wants; by default it is one already.
            seen: in a backward pass, what the forward pass had: if that is still in place nothing is read.

        Returns:
            What is in place; None for a weight that was released.
        """
        if self.released:
            if is_stand_in(weight):
                return None
            self.released = False  # the model was given another weight
        if seen is not None and seen == self._weight:
            return seen
        contents = contents_of(weight)
        if contents == self._weight:
            return contents
        self._weight = None
        template = self.session.template(plan)
        residents = {"weight": self._room("weight", template.sizes["weight"])}
        inputs = {"weight": arrange(weight) if arrange else weight}
        # Step 0: a weight that is uploaded again must get the same bits, whatever the step.
        self.session.run(template, self.name, self.index, inputs, residents, step=0)
        self._weight = contents
        return contents

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
        if self._bias is None or not _same(self._bias, bias):
            room = self._room("bias", nbytes).write()
            values = upload_array(bias.float())
            room[: values.nbytes].view("float32")[...] = values
            self._bias = bias.detach().clone()

    def factors_of(self, down: Tensor, up: Tensor) -> Factors:
        """Copies of down [rank, in] and up [out, rank] as they are now: those in device memory if they are the same."""
        held = self._factors
        if held is not None and _same(held.down, down) and _same(held.up, up):
            return held
        return Factors(down.detach().clone(), up.detach().clone())

    def holds(self, factors: Factors) -> bool:
        """Whether these factors lie in device memory, quantized as this step wants it."""
        stochastic = self.session.quantization.factor_rounding == "stochastic"
        return factors is self._factors and not (stochastic and self._factors_step != self.session.step)

    def _room(self, name: str, size: int) -> Buffer:
        held = self._leases.get(name)
        if held is None or held[0] != size:
            held = self._leases[name] = (size, self.session.pool.lease(size, f"{self.name}: {name}"))
        return held[1].buffer


def _same(held: Tensor, given: Tensor) -> bool:
    return (held.dtype, held.device) == (given.dtype, given.device) and torch.equal(held, given)


def is_repeated(kind: str = "forward") -> bool:
    """Whether a GEMM of a kind runs a second time: a forward inside a backward pass is gradient checkpointing's."""
    return kind.startswith("forward") and torch._C._current_graph_task_id() != -1
