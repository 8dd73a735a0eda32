"""The claims: differences of equal seeds, and when they count."""

from __future__ import annotations

import numpy as np
import pytest
from systolora.experiments.cells import Row
from systolora.experiments.claims import METRICS, T_QUANTILES, claim_table, claims
from systolora.experiments.intlora import main_cells


def row(label: str, seed: int, loss: float, concept: float = 0.5) -> Row:
    return Row("W4A8", label, seed, concept, 100.0, loss, 0.1, 30.0, 1000, 8)


def test_every_claim_is_about_rows_that_the_experiment_makes() -> None:
    made = {(f"W{cell.bits}A8", cell.label) for cell in main_cells(1, (8, 4))}
    # These rows are made of the cells "LoRA" and "QLoRA", for each width.
    made |= {(f"W{bits}A8", f"{name} + PTQ") for bits in (8, 4) for name in ("LoRA", "QLoRA")}
    for claim in claims():
        assert {(claim.setting, claim.better), (claim.setting, claim.worse)} <= made


def test_differences_are_those_of_equal_seeds() -> None:
    """Seeds differ by far more than the methods, which always differ by about the same: that counts."""
    rows = []
    for seed, base in enumerate((0.05, 0.08, 0.02, 0.11)):
        rows.append(row("IntLoRA_MUL, mended", seed, base - 0.001 - seed * 1e-5, 0.4))
        rows.append(row("IntLoRA_MUL, paper", seed, base, 0.5 + seed * 1e-3))
    rows.append(row("IntLoRA_MUL, paper", 9, 99.0))
    (line,) = [line for line in claim_table(rows).splitlines() if "MUL: mended above paper" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["W4A8", "4", "-0.0010 ± 0.0000: yes", "-10.1% ± 0.1%: reverse", "+0.0 ± 0.0: open"]


def test_a_difference_within_its_spread_stays_open() -> None:
    losses = [0.001, -0.002, 0.003, -0.0012]
    rows = [row("IntLoRA_MUL, mended", seed, 0.05 + loss) for seed, loss in enumerate(losses)]
    rows += [row("IntLoRA_MUL, paper", seed, 0.05) for seed in range(4)]
    assert "+0.0002 ± 0.0023: open" in claim_table(rows)


def test_one_seed_has_no_spread_and_no_line() -> None:
    assert claim_table([row("IntLoRA_MUL, mended", 0, 0.05), row("IntLoRA_MUL, paper", 0, 0.06)]) == ""


def test_quantiles_fall_and_the_metrics_have_a_direction() -> None:
    assert all(high > low for high, low in zip(T_QUANTILES, T_QUANTILES[1:], strict=False))
    # The t distribution with one degree of freedom is Cauchy's, with two it has a closed form too.
    assert T_QUANTILES[0] == pytest.approx(np.tan(np.pi * 0.475), abs=1e-3)
    assert T_QUANTILES[1] == pytest.approx(0.95 * np.sqrt(2 / (1 - 0.95**2)), abs=1e-3)
    assert {metric.sign for metric in METRICS} == {1, -1}
