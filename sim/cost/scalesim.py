"""What SCALE-Sim 3.0.0 reports for a GEMM, to the last digit, without running it.

Read off its source and confirmed run by run (`tests/sim/data/scalesim_totals.json`, made by `benchmarks/scalesim.py`). For the GEMM
(M, N, K) each dataflow lays two dimensions on the array and streams the third, T:

| dataflow | rows of the array | columns | T | cycles of a fold |
|---|---|---|---|---|
| ws | K | N | M | 2 R + C + T - 2 |
| os | M | N | K | R + C + T - 2 |
| is | K | M | N | 2 R + C + T - 2 |

The total is folds x cycles of a fold - 1, with folds = ceil(rows / R) x ceil(columns / C). How this differs from this project's array:

* folds never overlap, and an edge fold costs as much as a full one;
* operands are skewed along both edges (C - 1 more clocks), where this array broadcasts;
* os counts no drain: the last output leaves R - 1 cycles before its last operand arrives (2 R + C + T - 2 would be right);
* the total is the index of the last cycle, one less than their number;
* device memory is ignored in CALC mode, and partial sums are one byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

DATAFLOWS = ("ws", "os", "is")


@dataclass(frozen=True)
class ScaleSimReport:
    """SCALE-Sim's compute report of one GEMM; shares in percent, as it prints them."""

    total_cycles: int
    stall_cycles: int
    overall_util: float
    mapping_efficiency: float
    compute_util: float


def scalesim_report(rows: int, cols: int, dataflow: str, m: int, n: int, k: int) -> ScaleSimReport:
    """SCALE-Sim's report of C[m, n] = A[m, k] B[k, n] on a rows x cols array in CALC mode, without sparsity.

    Raises:
        ValueError: for a dataflow that is none of `DATAFLOWS`.
    """
    if dataflow not in DATAFLOWS:
        raise ValueError(f"dataflow {dataflow!r}: SCALE-Sim has {', '.join(DATAFLOWS)}")
    along_rows, along_cols, stream = {"ws": (k, n, m), "os": (m, n, k), "is": (k, m, n)}[dataflow]
    folds = ceil(along_rows / rows) * ceil(along_cols / cols)
    fold_cycles = (rows if dataflow == "os" else 2 * rows) + cols + stream - 2
    total = folds * fold_cycles - 1
    # The utilization of a fold is taken over C - 1 more clocks in ws and is, whose demand matrix is not skewed yet.
    counted = fold_cycles + (0 if dataflow == "os" else cols - 1)
    mapped = along_rows * along_cols / (folds * rows * cols)
    return ScaleSimReport(
        total_cycles=total,
        stall_cycles=0,
        overall_util=100 * m * n * k / (total * rows * cols),
        mapping_efficiency=100 * mapped,
        compute_util=100 * mapped * stream / counted,
    )
