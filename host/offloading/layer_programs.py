"""The programs of one layer: its eight GEMMs and the quantizations between them."""

from __future__ import annotations

from dataclasses import dataclass

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis
from systolora.programs.spaces import ProgramTemplate, Sketch
from systolora.programs.tensors import DeviceMatrix, ElementType

from .layer_writer import LayerInputs, LayerShape, LayerWriter, Quantized, Residents, name_integers
from .quantization import FROZEN_KINDS, QuantizationConfig


@dataclass(frozen=True)
class ForwardPlan:
    """What one forward program has to do.

    Attributes:
        tokens: rows of x.
        source: element type of x as uploaded.
        scaling: alpha / rank of the adapter.
        masked: the adapter sees another x than the frozen weight (dropout).
        refresh: the factors changed since they were quantized.
        keep_input, keep_hidden: x and h are needed for grad_down and grad_up.
        result: element type of y.
        present: spaces of int8 copies of x that hold them already.
    """

    shape: LayerShape
    tokens: int
    source: ElementType
    scaling: float = 0.0
    masked: bool = False
    refresh: bool = False
    keep_input: bool = False
    keep_hidden: bool = False
    result: ElementType = ElementType.FLOAT32
    present: frozenset[str] = frozenset()

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """See `forward_template`."""
        return forward_template(config, quantization, self)


@dataclass(frozen=True)
class BackwardPlan:
    """What one backward program has to do.

    Attributes:
        source: element type of grad_y as uploaded.
        need_input: grad_x through the frozen weight. need_low_rank: the part of grad_x through the adapter.
        need_down, need_up: gradients of the factors.
        result: element type of grad_x and grad_x_low.
    """

    shape: LayerShape
    tokens: int
    source: ElementType
    scaling: float = 0.0
    masked: bool = False
    refresh: bool = False
    need_input: bool = False
    need_low_rank: bool = False
    need_down: bool = False
    need_up: bool = False
    result: ElementType = ElementType.FLOAT32

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """See `backward_template`."""
        return backward_template(config, quantization, self)

    @property
    def need_hidden(self) -> bool:
        """Whether grad_h is needed at all."""
        return self.need_down or self.need_low_rank


@dataclass(frozen=True)
class WeightPlan:
    """The program that quantizes a frozen weight; the host writes `weight` [out, in] of type `source` to the inbox."""

    shape: LayerShape
    source: ElementType = ElementType.FLOAT32

    def write(self, config: ArrayConfig, quantization: QuantizationConfig) -> ProgramTemplate:
        """The program."""
        sketch = Sketch(config)
        writer = LayerWriter(sketch, quantization, self.shape)
        residents = Residents(writer)
        source = sketch.space("inbox").matrix(self.shape.out_features, self.shape.in_features, self.source)
        writer.quantize(sketch.name("weight", source), "weight", "weight", Axis.ROW, into=residents.weight)
        name_integers(sketch, residents.weight)
        return sketch.finish()


def weight_plan(shape: LayerShape, source: ElementType) -> WeightPlan:
    """The plan for the weight of a layer: the same for all its adapters."""
    return WeightPlan(LayerShape(shape.in_features, shape.out_features, 0, False), source)


def forward_template(config: ArrayConfig, quantization: QuantizationConfig, plan: ForwardPlan) -> ProgramTemplate:
    """The forward program: those of y = x W^T + bias + s (h up^T), h = x down^T that run in INT8.

    The host writes `x` [tokens, in] and, if needed, `x_low` (what the adapter sees), `down`, `up` and `h` (if it is not made
    on the device); it reads `y` [tokens, out] and `h` [tokens, rank]. Only what is needed has a name.
    """
    return _Forward(config, quantization, plan).write()


def backward_template(config: ArrayConfig, quantization: QuantizationConfig, plan: BackwardPlan) -> ProgramTemplate:
    """The backward program: those of the five gradient GEMMs that are needed and run in INT8.

    The host writes `g` [tokens, out] and, if needed, `down`, `up` and `grad_h` (if it is not made on the device); it reads
    `grad_h`, `grad_up`, `grad_down`, `grad_x` and, where the adapter saw another x, `grad_x_low`.
    """
    return _Backward(config, quantization, plan).write()


class _Pass:
    """What both directions share."""

    def __init__(self, config: ArrayConfig, quantization: QuantizationConfig, plan: ForwardPlan | BackwardPlan) -> None:
        self.sketch = Sketch(config)
        self.writer = LayerWriter(self.sketch, quantization, plan.shape)
        self.residents = Residents(self.writer)
        self.inputs = LayerInputs(self.writer, plan.tokens)
        self.shape, self.tokens, self.scaling = plan.shape, plan.tokens, plan.scaling
        self._on = quantization.int8_kinds
        if plan.refresh:
            self.residents.refresh()

    def on(self, kind: str, needed: bool = True) -> bool:
        """Whether a GEMM is part of the program."""
        return needed and kind in self._on and (self.shape.rank > 0 or kind in FROZEN_KINDS)

    def place(
        self, space: str, name: str, rows: int, cols: int, dtype: ElementType = ElementType.FLOAT32
    ) -> DeviceMatrix:
        """Room for a matrix that the host writes or reads."""
        return self.sketch.name(name, self.sketch.space(space).matrix(rows, cols, dtype))


class _Forward(_Pass):
    def __init__(self, config: ArrayConfig, quantization: QuantizationConfig, plan: ForwardPlan) -> None:
        super().__init__(config, quantization, plan)
        self.plan = plan
        self._sources: dict[bool, DeviceMatrix] = {}

    def write(self) -> ProgramTemplate:
        base, down, up = self.on("forward_base"), self.on("forward_down"), self.on("forward_up")
        # With one scale for all, both directions use the same int8 copy: it goes where backward will find it.
        if self.plan.keep_input:
            self._x(Axis.COLUMN, low=True)
        by_token = self._x(Axis.ROW) if base else None
        low_by_token = self._x(Axis.ROW, low=True) if down else None
        size = (self.tokens, self.shape.out_features)
        y = self.place("outbox", "y", *size, self.plan.result) if base or up else None
        if by_token and y:
            residents = self.residents
            self.writer.gemm("forward_base", by_token, residents.weight, y, transpose_b=True, bias=residents.bias)
        hidden = self._hidden(low_by_token, up)
        if self.plan.keep_hidden and hidden:
            self.writer.quantize(hidden, "activation", "h", Axis.COLUMN, into=self.inputs.hidden())
        if up and hidden and y:
            a, b = self.writer.quantize(hidden, "activation", "h", Axis.ROW), self.residents.factor("up", Axis.ROW)
            self.writer.gemm("forward_up", a, b, y, transpose_b=True, alpha=self.scaling, accumulate=base)
        return self.sketch.finish()

    def _x(self, wanted: Axis, low: bool = False) -> Quantized:
        """The int8 copy of x as the frozen weight sees it or, with `low`, as the adapter does."""
        low = low and self.plan.masked
        space, target = self.inputs.x(wanted, low)
        if space in self.plan.present:
            return target
        if low not in self._sources:
            size = (self.tokens, self.shape.in_features)
            self._sources[low] = self.place("inbox", "x_low" if low else "x", *size, self.plan.source)
        return self.writer.quantize(self._sources[low], "activation", "x", wanted, into=target)

    def _hidden(self, x_low: Quantized | None, up: bool) -> DeviceMatrix | None:
        size = (self.tokens, self.shape.rank)
        if x_low is not None:
            hidden = self.place("outbox", "h", *size)
            self.writer.gemm("forward_down", x_low, self.residents.factor("down", Axis.ROW), hidden, transpose_b=True)
            return hidden
        return self.place("inbox", "h", *size) if up or self.plan.keep_hidden else None


class _Backward(_Pass):
    def __init__(self, config: ArrayConfig, quantization: QuantizationConfig, plan: BackwardPlan) -> None:
        super().__init__(config, quantization, plan)
        self.plan = plan
        self.down = self.on("grad_down", plan.need_down)
        self.up = self.on("grad_up", plan.need_up)
        self.low_rank = self.on("grad_input_low_rank", plan.need_low_rank)

    def write(self) -> ProgramTemplate:
        base = self.on("grad_input_base", self.plan.need_input)
        hidden_here = self.on("grad_hidden", self.plan.need_hidden)
        g = None
        if base or hidden_here or self.up:
            g = self.place("inbox", "g", self.tokens, self.shape.out_features, self.plan.source)
        size = (self.tokens, self.shape.in_features)
        grad_x = self.place("outbox", "grad_x", *size, self.plan.result) if base else None
        if g and grad_x:
            self._grad_input_base(g, grad_x)
        hidden = self._grad_hidden(g if hidden_here else None)
        if g and self.up:
            by_column = self.writer.quantize(g, "gradient", "grad_y", Axis.COLUMN)
            hidden_copy = self.inputs.hidden()
            self.writer.factor_gradient("grad_up", by_column, hidden_copy, transpose_a=True, alpha=self.scaling)
        if hidden and self.down:
            by_column = self.writer.quantize(hidden, "gradient", "grad_h", Axis.COLUMN)
            _, x = self.inputs.x(Axis.COLUMN, self.plan.masked)
            self.writer.factor_gradient("grad_down", by_column, x, transpose_a=True)
        if hidden and self.low_rank:
            self._grad_input_low_rank(hidden, None if self.plan.masked else grad_x)
        return self.sketch.finish()

    def _grad_input_base(self, g: DeviceMatrix, grad_x: DeviceMatrix) -> None:
        weight = self.residents.weight
        if self.residents.weight_axis == Axis.TENSOR:
            by_token = self.writer.quantize(g, "gradient", "grad_y", Axis.ROW)
        else:
            # The weight's scales lie along the contraction, so they are multiplied into grad_y before it is quantized.
            by_token = self.writer.quantize_scaled(g, "gradient", "grad_y", Axis.ROW, weight.scales)
        self.writer.gemm(
            "grad_input_base", by_token, weight, grad_x, folded_b=self.residents.weight_axis != Axis.TENSOR
        )

    def _grad_hidden(self, g: DeviceMatrix | None) -> DeviceMatrix | None:
        size = (self.tokens, self.shape.rank)
        if g is not None:
            hidden = self.place("outbox", "grad_h", *size)
            by_token = self.writer.quantize(g, "gradient", "grad_y", Axis.ROW)
            up = self.residents.factor("up", Axis.COLUMN)
            self.writer.gemm("grad_hidden", by_token, up, hidden, alpha=self.scaling)
            return hidden
        return self.place("inbox", "grad_h", *size) if self.down or self.low_rank else None

    def _grad_input_low_rank(self, hidden: DeviceMatrix, grad_x: DeviceMatrix | None) -> None:
        name = "grad_x_low" if self.plan.masked else "grad_x"
        target = grad_x or self.place("outbox", name, self.tokens, self.shape.in_features, self.plan.result)
        by_token = self.writer.quantize(hidden, "gradient", "grad_h", Axis.ROW)
        down = self.residents.factor("down", Axis.COLUMN)
        self.writer.gemm("grad_input_low_rank", by_token, down, target, accumulate=grad_x is not None)
