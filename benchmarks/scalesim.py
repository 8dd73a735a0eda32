"""SCALE-Sim 3.0.0 and this project's model side by side: the same GEMMs, the same array, cycles and time to answer, in one run.

    python benchmarks/scalesim.py                      # makes an environment for SCALE-Sim under build/scalesim
    python benchmarks/scalesim.py --python /path/to/its/python
    python benchmarks/scalesim.py --write tests/sim/cost/data/scalesim_totals.json     # renews the test data

SCALE-Sim is a benchmark, not a dependency: it lives in an environment of its own, because 3.0.0 needs numpy below 2.4.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow, Gemm
from systolora.sim.cost.columns import GemmColumns
from systolora.sim.cost.mapping import best_tilings
from systolora.sim.cost.performance import gemm_costs
from systolora.sim.cost.scalesim import DATAFLOWS, scalesim_report
from systolora.sim.cost.tile_times import Machine

WORKER = Path(__file__).parent / "scalesim_worker.py"
PACKAGES = ("scalesim==3.0.0", "numpy<2.4")
LAYERS = (
    *((77, 320, 768), (77, 4, 768), (77, 320, 4), (77, 4, 320), (320, 4, 77), (4, 768, 77), (308, 320, 768)),
    *((77, 1280, 768), (64, 1280, 320), (256, 320, 320), (1, 1280, 320), (65, 65, 65), (128, 200, 63)),
)
"""(m, n, k) on a 64 x 64 array: key/value projections of SD 1.5 with their low-rank GEMMs, others, and edges."""


def main() -> None:
    """Runs both and prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--python", type=Path, help="interpreter of an environment that holds scalesim")
    options.add_argument("--write", type=Path, help="write SCALE-Sim's totals to this file")
    given = options.parse_args()
    interpreter = given.python or make_environment(Path("build/scalesim"))
    measured = run_scalesim(interpreter, 64, 64, [(flow, *layer) for layer in LAYERS for flow in DATAFLOWS])
    compare(measured)
    if given.write:
        small = _small_layers()
        for rows, cols, count in ((8, 16, 36), (32, 16, 18)):
            runs = [(flow, *layer) for layer in small for flow in DATAFLOWS][:count]
            measured += run_scalesim(interpreter, rows, cols, runs)
        _write(given.write, measured)


def make_environment(folder: Path) -> Path:
    """An environment with SCALE-Sim in `folder`; returns its interpreter."""
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return interpreter


def run_scalesim(interpreter: Path, rows: int, cols: int, runs: list[tuple]) -> list[dict]:
    """SCALE-Sim's compute report of each (dataflow, m, n, k), with the processor seconds that it took."""
    request = json.dumps({"rows": rows, "cols": cols, "runs": runs})
    # -I keeps this folder off the search path, where this file would pass for the package of the same name.
    command = [str(interpreter), "-I", str(WORKER)]
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(measured: list[dict]) -> None:
    """Prints SCALE-Sim's totals, ours in its terms, and those of the array that this project builds."""
    config = ArrayConfig()
    machine = Machine.of(config)
    layers = sorted({(run["m"], run["n"], run["k"]) for run in measured})
    ops = [Gemm(m, n, k, m, n, k, 0, 0, 0, 0, 0, 0) for m, n, k in layers]
    began = time.process_time()
    own = {}
    for name, flow in (("ws", Dataflow.WEIGHT_STATIONARY), ("os", Dataflow.OUTPUT_STATIONARY)):
        tilings = best_tilings(machine, ops, (flow,))
        columns = GemmColumns.of(config, ops).tiled(*_tiling_columns(config, ops, tilings))
        costs = gemm_costs(machine, columns)
        own |= {(name, *layer): costs.array_cycles[row] for row, layer in enumerate(layers)}
    seconds = (time.process_time() - began) / len(own)
    table = Table(title="64 x 64 array: cycles")
    for title in ("m, n, k", "dataflow", "SCALE-Sim", "--compat scalesim", "array of this project", "SCALE-Sim CPU s"):
        table.add_column(title, justify="right")
    wrong = 0
    for run in measured:
        key = (run["dataflow"], run["m"], run["n"], run["k"])
        ours = scalesim_report(run["rows"], run["cols"], *key).total_cycles
        wrong += ours != run["total_cycles"]
        shape = f"{run['m']}, {run['n']}, {run['k']}"
        table.add_row(
            shape, key[0], str(run["total_cycles"]), str(ours), str(own.get(key, "-")), f"{run['seconds']:.2f}"
        )
    console = Console()
    console.print(table)
    theirs = sum(run["seconds"] for run in measured) / len(measured)
    console.print(f"totals that differ: {wrong} of {len(measured)}")
    console.print(f"CPU seconds per layer and dataflow: SCALE-Sim {theirs:.3f}, here with search {seconds:.5f}")


def _tiling_columns(config: ArrayConfig, ops: list[Gemm], tilings: list) -> list:
    fields = ("dataflow", "loop_order", "tile_m", "tile_n", "tile_k")
    tiled = [Gemm(**{**vars(op), **vars(tiling)}) for op, tiling in zip(ops, tilings, strict=True)]
    columns = GemmColumns.of(config, tiled)
    return [getattr(columns, field) for field in fields]


def _small_layers() -> list[tuple[int, int, int]]:
    chance = random.Random(5)
    return [(chance.randint(1, 90), chance.randint(1, 90), chance.randint(1, 90)) for _ in range(12)]


def _write(path: Path, measured: list[dict]) -> None:
    runs = [{name: value for name, value in run.items() if name != "seconds"} for run in measured]
    lines = ",\n".join("  " + json.dumps(run) for run in runs)
    command = f"python benchmarks/scalesim.py --write {path}"
    path.write_text(f'{{"made_by": "{command}", "packages": {json.dumps(PACKAGES)}, "runs": [\n{lines}\n]}}\n')
    print(f"{len(runs)} runs written to {path}")


if __name__ == "__main__":
    main()
