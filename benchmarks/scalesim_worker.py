"""Runs SCALE-Sim on one GEMM at a time and prints what its compute report says, one JSON line a run.

This file is executed by the interpreter of an environment that holds `scalesim` (and nothing of this project); see
`benchmarks/scalesim.py`, which starts it. Standard input: one JSON object {"rows", "cols", "runs": [[dataflow, m, n, k], ...]}.
"""

import contextlib
import csv
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from scalesim.scale_sim import scalesim

CONFIG = """[general]
run_name = run
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {cols}
IfmapSramSzkB = 512
FilterSramSzkB = 512
OfmapSramSzkB = 1024
IfmapOffset = 0
FilterOffset = 100000000
OfmapOffset = 200000000
Dataflow = {dataflow}
Bandwidth = 16
ReadRequestBuffer = 64
WriteRequestBuffer = 64
[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = 16
IfmapSRAMBankNum = 1
IfmapSRAMBankPort = 1
FilterSRAMBankBandwidth = 16
FilterSRAMBankNum = 1
FilterSRAMBankPort = 1
[sparsity]
SparsitySupport = false
SparseRep = ellpack_block
OptimizedMapping = false
BlockSize = 8
RandomNumberGeneratorSeed = 40
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
"""


def run(rows, cols, dataflow, m, n, k):
    """The compute report of one GEMM as a dictionary, with the processor time that the run took."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "config.cfg").write_text(CONFIG.format(rows=rows, cols=cols, dataflow=dataflow))
        (base / "topology.csv").write_text(f"Layer, M, N, K,\ngemm, {m}, {n}, {k},\n")
        # A layout is read even where no custom layout is used.
        (base / "layout.csv").write_text("Layer," * 21 + "\ngemm," + "1," * 20 + "\n")
        began = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            simulator = scalesim(
                save_disk_space=True,
                verbose=False,
                config=str(base / "config.cfg"),
                topology=str(base / "topology.csv"),
                layout=str(base / "layout.csv"),
                input_type_gemm=True,
            )
            simulator.run_scale(top_path=str(base))
        seconds = time.process_time() - began
        with open(base / "run" / "COMPUTE_REPORT.csv", newline="") as file:
            row = next(csv.DictReader(file, skipinitialspace=True))
    return {
        "rows": rows,
        "cols": cols,
        "dataflow": dataflow,
        "m": m,
        "n": n,
        "k": k,
        "total_cycles": int(float(row["Total Cycles"])),
        "stall_cycles": int(float(row["Stall Cycles"])),
        "overall_util": float(row["Overall Util %"]),
        "mapping_efficiency": float(row["Mapping Efficiency %"]),
        "compute_util": float(row["Compute Util %"]),
        "seconds": seconds,
    }


def main():
    """Answers the request on standard input."""
    request = json.load(sys.stdin)
    for dataflow, m, n, k in request["runs"]:
        print(json.dumps(run(request["rows"], request["cols"], dataflow, m, n, k)), flush=True)


if __name__ == "__main__":
    main()
