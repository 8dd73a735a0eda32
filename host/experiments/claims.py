"""The paper's claims, and those for the mended forms, put to the rows of the experiment: differences seed by seed, with their spread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev

from .cells import Row

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t: 97.5 % quantiles for 1 to 10 degrees of freedom; the last one serves for more."""


@dataclass(frozen=True)
class Claim:
    """That the method `better` does better than `worse` in a setting; both are labels of rows."""

    text: str
    setting: str
    better: str
    worse: str


@dataclass(frozen=True)
class Metric:
    """What is compared. sign: 1 if more is better, -1 if less is."""

    name: str
    value: Callable[[Row], float]
    sign: int
    show: str


METRICS = (
    Metric("held-out loss", lambda row: row.loss, -1, "{:+.4f}"),
    Metric("concept", lambda row: row.concept, 1, "{:+.1%}"),
    Metric("Frechet", lambda row: row.frechet, -1, "{:+.1f}"),
)


def claims() -> list[Claim]:
    """The paper's two claims in both forms, the mended form against the paper's, and two comparisons with plain baselines."""
    found = []
    for form in ("paper", "mended"):
        mul, shift = (f"IntLoRA_{method}, {form}" for method in ("MUL", "SHIFT"))
        found.append(Claim(f"MUL ({form}) above QLoRA + PTQ", "W4A8", mul, "QLoRA + PTQ"))
        found += [Claim(f"MUL above SHIFT ({form})", setting, mul, shift) for setting in ("W4A8", "W8A8")]
    for method in ("MUL", "SHIFT"):
        name = f"IntLoRA_{method}"
        for setting in ("W4A8", "W8A8"):
            found.append(Claim(f"{method}: mended above paper", setting, f"{name}, mended", f"{name}, paper"))
    mended = "IntLoRA_MUL, mended"
    found.append(Claim("MUL (mended) above LoRA + PTQ", "W4A8", mended, "LoRA + PTQ"))
    found.append(Claim("MUL (mended) above quantization-aware LoRA", "W4A8", mended, "quantization-aware LoRA"))
    return found


def claim_table(rows: list[Row]) -> str:
    """Each claim that has rows: mean ± standard deviation of the differences of equal seeds, and what follows; Markdown."""
    lines = []
    for claim in claims():
        pairs = _pairs(rows, claim)
        if len(pairs) < 2:
            continue
        cells = [claim.text, claim.setting, str(len(pairs)), *(_verdict(pairs, metric) for metric in METRICS)]
        lines.append("| " + " | ".join(cells) + " |\n")
    if not lines:
        return ""
    names = [f"{metric.name}: difference" for metric in METRICS]
    head = " | ".join(["claim", "setting", "seeds", *names])
    return f"| {head} |\n|{'---|' * (3 + len(METRICS))}\n" + "".join(lines)


def _pairs(rows: list[Row], claim: Claim) -> list[tuple[Row, Row]]:
    by_seed = {
        label: {row.seed: row for row in rows if row.setting == claim.setting and row.label == label}
        for label in (claim.better, claim.worse)
    }
    one, other = by_seed[claim.better], by_seed[claim.worse]
    return [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]


def _verdict(pairs: list[tuple[Row, Row]], metric: Metric) -> str:
    """The differences, and "yes", "reverse" or "open": whether their 95 % interval lies on one side of zero."""
    differences = [metric.value(one) - metric.value(other) for one, other in pairs]
    centre, spread = mean(differences), stdev(differences)
    degrees = len(differences) - 1
    margin = T_QUANTILES[min(degrees, len(T_QUANTILES)) - 1] * spread / len(differences) ** 0.5
    word = "open" if abs(centre) <= margin else "yes" if centre * metric.sign > 0 else "reverse"
    return f"{metric.show.format(centre)} ± {metric.show.format(spread).lstrip('+')}: {word}"
