"""`IntLoraSettings`: what an IntLoRA run depends on, and the remedies for the faults of the paper's form, each a switch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from systolora.errors import UserError

METHODS = ("mul", "shift")
DISTRIBUTIONS = ("laplace", "normal", "uniform")
RATIOS = ("range", "variance")
REMEDIES: dict[str, str] = {
    "zeros": "the frozen integers are odd, so that no weight is zero for ever",
    "scale": "the quantizer of the adaptation term is searched by the error of the weights, and SHIFT gets a scale per row",
    "range": "the product is shifted back into 8 bits during training, so that the merged weight is INT8",
    "headroom": "quantizers are searched for products beyond the initial zero, so that training does not leave their range at once",
}
"""Name of each remedy to what it does."""

SMALLEST_BITS, LARGEST_BITS = 2, 8

LARGEST_WEIGHT = 2.0**100
"""The largest |W| of which integers are made: room is left in float32 for what is computed from it."""


@dataclass(frozen=True)
class IntLoraSettings:
    """Settings of the integer weights of one model (arXiv 2410.21759; `docs/intlora.md` explains each).

    Attributes:
        method: "mul" (adaptation term on a uniform grid) or "shift" (on powers of two).
        bits: 2 to 8, of the frozen integers and of the adaptation term.
        seed: of the auxiliary matrices.
        distribution, spread: of the auxiliary matrix: "laplace" (spread: its b), "normal" (deviation), "uniform" (half width).
        ratio: of variance matching: "range" (the authors' code, per row) or "variance" (the paper, per layer).
        exponent: of that ratio.
        symmetric: frozen integers without a zero point.
        remedies: names in `REMEDIES`; none is the paper's form.
        span: SHIFT: the exponents are this many positions wide; 0 chooses 3 for up to 4 bits, 7 above, and 15 in the paper's form.
        headroom: with that remedy, how far AB is expected to go: a share of the deviation of the weights of its row; 0 chooses 0.25
            for up to 4 bits, 0.5 above.
        refresh_every: steps after which the adaptation term's quantizer is searched anew; 0 never.

    Raises:
        UserError: for a value that is not allowed.
    """

    method: str = "mul"
    bits: int = 8
    seed: int = 0
    distribution: str = "laplace"
    spread: float = 0.5
    ratio: str = "variance"
    exponent: float = 1.5
    symmetric: bool = False
    remedies: tuple[str, ...] = tuple(REMEDIES)
    span: int = 0
    refresh_every: int = 0
    headroom: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "remedies", tuple(name for name in REMEDIES if name in set(self.remedies)))
        allowed = {"method": METHODS, "distribution": DISTRIBUTIONS, "ratio": RATIOS}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise UserError(f"intlora: {name} = {getattr(self, name)!r}: allowed are {', '.join(choices)}")
        if not SMALLEST_BITS <= self.bits <= LARGEST_BITS:
            raise UserError(f"intlora: bits = {self.bits}: allowed are {SMALLEST_BITS} to {LARGEST_BITS}")
        numbers = {"spread": self.spread, "exponent": self.exponent, "headroom": self.headroom}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise UserError(f"intlora: {name} = {value}: it must be a finite number")
        least = min(self.exponent, self.refresh_every, self.headroom)
        if self.spread <= 0 or least < 0 or not 0 <= self.span <= 15:
            raise UserError(
                f"intlora: spread = {self.spread} must be above 0, exponent = {self.exponent}, refresh_every = "
                f"{self.refresh_every} and headroom = {self.headroom} not below 0, span = {self.span} from 0 to 15"
            )

    @property
    def shift_span(self) -> int:
        """How many positions the exponents of SHIFT are wide."""
        if self.span:
            return self.span
        if "scale" not in self.remedies:
            return 15
        return 3 if self.bits <= 4 else 7

    @property
    def reach(self) -> float:
        """How far AB is expected to go, as a share of the deviation of the weights of its row."""
        if "headroom" not in self.remedies:
            return 0.0
        return self.headroom or (0.25 if self.bits <= 4 else 0.5)

    def has(self, remedy: str) -> bool:
        """Whether a remedy is on."""
        return remedy in self.remedies

    def as_dict(self) -> dict[str, Any]:
        """For files."""
        return {**asdict(self), "remedies": list(self.remedies)}

    @classmethod
    def from_dict(cls, values: Any) -> IntLoraSettings:
        """The settings that `as_dict` gave.

        Raises:
            UserError: if they are something else.
        """
        known = {item.name: item.default for item in fields(cls)}
        if not isinstance(values, dict) or set(values) != set(known):
            raise UserError("intlora: these are no settings of this version")
        for name, value in values.items():
            if name != "remedies" and not _is_like(value, known[name]):
                raise UserError(f"intlora: {name} = {value!r}: expected {type(known[name]).__name__}")
        remedies = values["remedies"]
        if not isinstance(remedies, list) or not all(isinstance(remedy, str) for remedy in remedies):
            raise UserError(f"intlora: remedies = {remedies!r}: expected names")
        return cls(**{**values, "remedies": parse_remedies(remedies)})

    def paper(self) -> IntLoraSettings:
        """The form of the paper as its authors' code has it: no remedy, range ratio, exponent 1.5, no refresh."""
        return replace(self, remedies=(), ratio="range", exponent=1.5, refresh_every=0)


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value out of JSON is of a default's type; a whole number may stand for a float."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return True
    return type(value) is type(default)


def parse_remedies(text: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Remedies from "all", "none", or names separated by commas.

    Raises:
        UserError: for a name that is no remedy.
    """
    if isinstance(text, str):
        text = {"all": list(REMEDIES), "none": []}.get(text, [name.strip() for name in text.split(",")])
    unknown = [name for name in text if name not in REMEDIES]
    if unknown:
        raise UserError(
            f"remedies: there is no {unknown[0]!r}; allowed are all, none, or some of {', '.join(REMEDIES)}"
        )
    return tuple(text)
