"""From frozen weight and low-rank product to integer weights: IntLoRA_MUL, IntLoRA_SHIFT and quantization-aware LoRA.

A rule is calibrated once on a frozen weight W [out, in]; then `apply` turns each low-rank product AB [out, in] into integers, their scale
per output channel, and the gain of the straight-through gradient. With Q(W - R) = s Wi, R the auxiliary matrix:

    U = s + (R + AB) / Wi                 adaptation term
    MUL:    W' = t (Ui * Wi)              Ui: U on a uniform grid of step t
    SHIFT:  W' = sign(U) (Wi << e) c      e: U / row scale on powers of two, c = row scale * 2^smallest e
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .auxiliary import auxiliary, layer_seed, limited_factor, matching_factor, rounded_to_8_bits
from .digits import width
from .powers import row_error
from .quantizers import FACTORS, Float32, Int32, RowGrid, rounded_log2, search_grid
from .settings import IntLoraSettings

INT8_LIMIT = 127
_WIDE_FACTORS = (*FACTORS, *(np.float32(0.2 * 2 ** (-i / 4)) for i in range(1, 21)))
"""Shares of the adaptation term's range that the search by weight error tries: its outliers sit where Wi is small."""


_SHIFTS = 15
"""Narrowing shifts that the search tries, at least; integers that need more to fit 8 bits get more."""

_TOPS = 5
"""Largest exponents of SHIFT that the search tries, from 0 on."""


@dataclass(frozen=True)
class IntegerWeight:
    """real = scale[row] * values. values: int32 [out, in]; scale: float32 [out]."""

    values: Int32
    scale: Float32

    def real(self) -> Float32:
        """The weight as float32 [out, in]: one rounding per element."""
        return self.values.astype(np.float32) * self.scale[:, None]


@dataclass(frozen=True)
class Adapted:
    """An adapted weight, and dW'/d(AB) as the straight-through estimator has it, float32 [out, in]."""

    weight: IntegerWeight
    gain: Float32


@dataclass(frozen=True)
class FrozenPart:
    """What is made of W once: Wi [out, in] int32 on `grid`, and R [out, in] float32."""

    grid: RowGrid
    codes: Int32
    integers: Int32
    r: Float32

    def term(self, product: Float32) -> Float32:
        """U for a low-rank product, float32 [out, in]; where Wi is zero it is divided by one."""
        divisor = np.where(self.integers == 0, 1, self.integers).astype(np.float32)
        return self.grid.scale[:, None] + (self.r + product) / divisor


def freeze(weight: Float32, settings: IntLoraSettings, name: str) -> FrozenPart:
    """Separation of quantization and adaptation: R from the seed, W - R on the frozen grid."""
    r0 = auxiliary(
        layer_seed(settings.seed, name), weight.shape[0], weight.shape[1], settings.distribution, settings.spread
    )
    factor = matching_factor(weight, r0, settings.ratio, settings.exponent)
    factor = limited_factor(factor, weight, r0, settings.exponent)
    r = (factor[:, None] * r0).astype(np.float32)
    shifted = weight - r
    grid = search_grid(shifted, settings.bits, symmetric=settings.symmetric, odd=settings.has("zeros"))
    codes = grid.encode(shifted)
    return FrozenPart(grid, codes, grid.integers(codes), r)


class Rule(ABC):
    """How a layer's integers depend on its low-rank product.

    Attributes:
        weight: the frozen weight, float32 [out, in].
    """

    def __init__(self, weight: Float32) -> None:
        self.weight = np.ascontiguousarray(weight, np.float32)

    @abstractmethod
    def apply(self, product: Float32) -> Adapted:
        """The integers for a low-rank product, float32 [out, in]."""

    @abstractmethod
    def calibrate(self, product: Float32) -> None:
        """Searches the quantizer that depends on the low-rank product anew."""

    @abstractmethod
    def state(self) -> dict[str, NDArray]:
        """What `calibrate` found, for checkpoints."""

    @abstractmethod
    def restore(self, state: dict[str, NDArray]) -> None:
        """Takes what `state` gave."""


class _IntLoraRule(Rule):
    def __init__(self, weight: Float32, settings: IntLoraSettings, name: str) -> None:
        super().__init__(weight)
        self.settings = settings
        self.frozen = freeze(self.weight, settings, name)
        self.narrowing = np.zeros(len(self.weight), np.int32)
        self.calibrate(np.zeros_like(self.weight))

    def _narrowed(self, values: Int32, scale: Float32, gain: Float32) -> Adapted:
        """Shifts the integers right, rounding half up, and limits them to INT8, if that remedy is on."""
        if not self.settings.has("range"):
            return Adapted(IntegerWeight(values, scale), gain)
        shift = self.narrowing[:, None]
        rounded = values + np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0) >> shift
        inside = np.abs(rounded) <= INT8_LIMIT
        narrow = np.clip(rounded, -INT8_LIMIT, INT8_LIMIT).astype(np.int32)
        return Adapted(IntegerWeight(narrow, np.ldexp(scale, self.narrowing)), gain * inside)

    def _expected(self, product: Float32) -> list[Float32]:
        """The low-rank products that quantizers are searched for: this one, and with the remedy "headroom" those that are a share
        of each row's deviation above and below it."""
        if not self.settings.reach:
            return [product]
        step = rounded_to_8_bits(self.settings.reach * self.weight.std(1, dtype=np.float64))[:, None]
        return [product, product + step, product - step]

    @abstractmethod
    def _unnarrowed(self, product: Float32) -> Adapted:
        """The integers for a low-rank product before the narrowing shift."""

    def apply(self, product: Float32) -> Adapted:
        """As `merge(codes(product))`, with the gain."""
        wide = self._unnarrowed(product)
        return self._narrowed(wide.weight.values, wide.weight.scale, wide.gain)

    def _choose_narrowing(self, products: list[Float32]) -> None:
        """The shift of each row with the least error; ties go to the smaller one."""
        if not self.settings.has("range"):
            return
        rows = len(self.weight)
        best, least = np.zeros(rows, np.int32), np.full(rows, np.inf)
        wide = [self._unnarrowed(product) for product in products]
        for shift in range(1 + max(_SHIFTS, *(width(each.weight.values) - 8 for each in wide))):
            self.narrowing = np.full(rows, shift, np.int32)
            error = np.zeros(rows)
            for each, product in zip(wide, products, strict=True):
                narrow = self._narrowed(each.weight.values, each.weight.scale, each.gain).weight
                error += row_error(narrow.real() - (self.weight + product))
            best = np.where(error < least, shift, best).astype(np.int32)
            least = np.minimum(error, least)
        self.narrowing = best


class MulRule(_IntLoraRule):
    """IntLoRA_MUL: the adaptation term on a uniform grid, the merged integer is a product of two integers."""

    term_grid: RowGrid

    def calibrate(self, product: Float32) -> None:
        """Searches the adaptation term's grid: by its own error (the paper), or by the error of the weights."""
        frozen, bits, products = self.frozen, self.settings.bits, self._expected(product)
        term = np.concatenate([frozen.term(each) for each in products], 1)
        if not self.settings.has("scale"):
            self.term_grid = search_grid(term, bits)
        else:
            target = np.concatenate([self.weight + each for each in products], 1)
            integers = np.tile(frozen.integers, (1, len(products)))

            def error(grid: RowGrid) -> Float32:
                values = grid.integers(grid.encode(term)) * integers
                return values.astype(np.float32) * grid.scale[:, None] - target

            around_step = search_grid(term, bits, error=error, around=frozen.grid.scale, factors=_WIDE_FACTORS)
            around_zero = search_grid(term, bits, error=error, factors=_WIDE_FACTORS)
            first = row_error(error(around_step)) <= row_error(error(around_zero))
            self.term_grid = _choose(first, around_step, around_zero)
        self._choose_narrowing(products)

    def codes(self, product: Float32) -> Int32:
        """The codes of the adaptation term, `bits` wide."""
        return self.term_grid.encode(self.frozen.term(product))

    def merge(self, codes: Int32) -> IntegerWeight:
        """Integers only: the codes' integers times the frozen ones, then the narrowing shift."""
        values = self.term_grid.integers(codes) * self.frozen.integers
        return self._narrowed(values, self.term_grid.scale, np.ones_like(self.weight)).weight

    def _unnarrowed(self, product: Float32) -> Adapted:
        """Gain 1 where the term is inside its grid and Wi is not zero."""
        unclipped = self.term_grid.unclipped(self.frozen.term(product))
        codes = np.clip(unclipped, self.term_grid.low, self.term_grid.high).astype(np.int32)
        gain = ((codes == unclipped) & (self.frozen.integers != 0)).astype(np.float32)
        values = self.term_grid.integers(codes) * self.frozen.integers
        return Adapted(IntegerWeight(values, self.term_grid.scale), gain)

    def state(self) -> dict[str, NDArray]:
        """Scale and zero of the term's grid, and the narrowing shift."""
        return {"scale": self.term_grid.scale, "zero": self.term_grid.zero, "narrowing": self.narrowing}

    def restore(self, state: dict[str, NDArray]) -> None:
        """Takes what `state` gave."""
        self.term_grid = RowGrid(state["scale"], state["zero"], self.term_grid.low, self.term_grid.high)
        self.narrowing = state["narrowing"]


class ShiftRule(_IntLoraRule):
    """IntLoRA_SHIFT: the adaptation term on powers of two, the merged integer is a shifted integer.

    Exponents lie in top - span .. top; the paper leaves them without bounds. Without the remedy "scale" the row scale is 1, as in
    the paper, and each row starts up to a factor of sqrt(2) off.
    """

    row_scale: Float32
    top: Int32

    def calibrate(self, product: Float32) -> None:
        """Searches row scale and top exponent by the error of the weights; without the remedy only the top is set."""
        products = self._expected(product)
        if self.settings.has("scale"):
            self._search(products)
        else:
            self.row_scale = np.ones(len(self.weight), np.float32)
            terms = [np.abs(self.frozen.term(each)).max(1) for each in products]
            self.top = rounded_log2(np.max(terms, axis=0)) + 1
        self._choose_narrowing(products)

    def _search(self, products: list[Float32]) -> None:
        rows = len(self.weight)
        best_scale, best_top, least = np.ones(rows, np.float32), np.zeros(rows, np.int32), np.full(rows, np.inf)
        self.narrowing = np.zeros(rows, np.int32)
        terms = [self.frozen.term(each) for each in products]
        for step in range(-8, 9):
            for top in range(_TOPS):
                self.row_scale = self.frozen.grid.scale * np.float32(1 + step / 32)
                self.top = np.full(rows, top, np.int32)
                error = np.zeros(rows)
                for each, term in zip(products, terms, strict=True):
                    values, scale, _ = self._shifted(self.codes_of(term))
                    error += row_error(values.astype(np.float32) * scale[:, None] - (self.weight + each))
                better = error < least
                best_scale, best_top = np.where(better, self.row_scale, best_scale), np.where(better, top, best_top)
                least = np.minimum(error, least)
        self.row_scale, self.top = best_scale.astype(np.float32), best_top.astype(np.int32)

    def codes(self, product: Float32) -> Int32:
        """Signed codes of the adaptation term: (position + 1) times its sign, zero for zero."""
        return self.codes_of(self.frozen.term(product))

    def codes_of(self, term: Float32) -> Int32:
        """The codes of a term, float32 [out, in]."""
        position = self._exponents(term) - self.top[:, None] + self.settings.shift_span
        limited = np.clip(position, 0, self.settings.shift_span)
        return (np.sign(term).astype(np.int32) * (limited + 1)).astype(np.int32)

    def _exponents(self, term: Float32) -> Int32:
        return rounded_log2((np.abs(term) / self.row_scale[:, None]).astype(np.float32))

    def _shifted(self, codes: Int32) -> tuple[Int32, Float32, Int32]:
        position = np.maximum(np.abs(codes) - 1, 0)
        values = np.sign(codes) * (self.frozen.integers << position)
        return values.astype(np.int32), np.ldexp(self.row_scale, self.top - self.settings.shift_span), position

    def merge(self, codes: Int32) -> IntegerWeight:
        """Integers only: the frozen integers shifted and signed, then the narrowing shift."""
        values, scale, _ = self._shifted(codes)
        return self._narrowed(values, scale, np.ones_like(self.weight)).weight

    def _unnarrowed(self, product: Float32) -> Adapted:
        """The gain is 2^e / |U|, 0 above the largest exponent, 1 below the smallest."""
        term = self.frozen.term(product)
        values, scale, position = self._shifted(self.codes_of(term))
        free = self._exponents(term) - self.top[:, None] + self.settings.shift_span
        size = np.where(term == 0, np.float32(1), np.abs(term))
        power = np.ldexp(scale[:, None], position)
        gain = np.where(free > self.settings.shift_span, np.float32(0), power / size)
        gain = np.where(free < 0, np.float32(1), gain) * (self.frozen.integers != 0)
        return Adapted(IntegerWeight(values, scale), gain.astype(np.float32))

    def state(self) -> dict[str, NDArray]:
        """Row scale, top exponent and narrowing shift."""
        return {"scale": self.row_scale, "top": self.top, "narrowing": self.narrowing}

    def restore(self, state: dict[str, NDArray]) -> None:
        """Takes what `state` gave."""
        self.row_scale, self.top, self.narrowing = state["scale"], state["top"], state["narrowing"]


def make_rule(weight: Float32, settings: IntLoraSettings, name: str) -> MulRule | ShiftRule:
    """The rule of a layer; `name` picks its auxiliary matrix."""
    kinds: dict[str, type[MulRule] | type[ShiftRule]] = {"mul": MulRule, "shift": ShiftRule}
    return kinds[settings.method](weight, settings, name)


def _choose(first: NDArray[np.bool_], one: RowGrid, other: RowGrid) -> RowGrid:
    scale = np.where(first, one.scale, other.scale).astype(np.float32)
    return RowGrid(scale, np.where(first, one.zero, other.zero).astype(np.int32), one.low, one.high, one.odd)
