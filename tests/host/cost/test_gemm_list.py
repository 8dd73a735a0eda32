"""Lists of GEMMs: what they may say, that a written one is read as what it was, and one clear line for what is wrong."""

from __future__ import annotations

import csv
import io
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from systolora.cost.flags import flag_fields, read_flags, write_flags
from systolora.cost.gemm_list import read_gemms
from systolora.cost.layer_csv import GIVEN_COLUMNS, RESULT_COLUMNS, render_layers
from systolora.cost.run import find_workload, run_simulate
from systolora.cost.settings import SimulateSettings
from systolora.cost.simulation import Simulation, simulate_workload
from systolora.cost.workloads import Workload
from systolora.errors import UserError
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Axis, Gemm, Quantize, Result, ScaleMode
from systolora.sim.cost.quantize_times import quantize_work
from systolora.sim.cost.scalesim import scalesim_report
from systolora.sim.functional.counts import count_instruction

LIST = """name,m,n,k,count,flags
q,4096,320,320,2,transpose_b bias

# a comment
"up, then down",77,1280,4,32,transpose_b accumulate result=bfloat16
plain,64,64,64
"""


def read(tmp_path: Path, text: str, result: Result = Result.FLOAT32) -> Workload:
    path = tmp_path / "list.csv"
    path.write_text(text)
    return read_gemms(str(path), ArrayConfig(), result)


def test_a_list_is_what_it_says(tmp_path: Path) -> None:
    found = read(tmp_path, LIST)
    assert [(item.gemm.layer, item.gemm.op.m, item.gemm.op.n, item.gemm.op.k, item.count) for item in found.gemms] == [
        ("q", 4096, 320, 320, 2),
        ("up, then down", 77, 1280, 4, 32),
        ("plain", 64, 64, 64, 1),
    ]
    q, up, plain = (item.gemm.op for item in found.gemms)
    assert (q.transpose_b, q.bias, q.accumulate, q.result) == (True, True, False, Result.FLOAT32)
    assert (up.accumulate, up.result) == (True, Result.BFLOAT16)
    assert (plain.scale_a, plain.scale_b) == (ScaleMode.VECTOR, ScaleMode.VECTOR)
    assert found.macs() == 2 * 4096 * 320 * 320 + 32 * 77 * 1280 * 4 + 64**3
    assert found.macs_by_phase()["forward"] == found.macs()


@pytest.mark.parametrize(
    "text",
    [
        "M; N; K; Layer; Count\n 8;16;32;one;3\n",
        "\ufeffk\tn\tm\tname\tcount\r\n32\t16\t8\tone\t3\r\n",
        "Layer, M, N, K, Batch,\none, 8, 16, 32, 3,\n",
    ],
    ids=["semicolons", "tabs, a byte order mark, CR LF", "SCALE-Sim"],
)
def test_other_ways_to_write_the_same(tmp_path: Path, text: str) -> None:
    (item,) = read(tmp_path, text).gemms
    assert (item.gemm.layer, item.gemm.op.m, item.gemm.op.n, item.gemm.op.k, item.count) == ("one", 8, 16, 32, 3)


def test_a_topology_of_scalesim_gives_its_totals(tmp_path: Path) -> None:
    path = tmp_path / "topology.csv"
    path.write_text(
        "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
        "Conv1, 227, 227, 11, 11, 3, 96, 4,\n"
        "DP1, 34, 34, 3, 3, 16, 1, 1,\n"
        "FC, 1, 1, 1, 1, 9216, 4096, 1,\n"
    )
    done = run_simulate(SimulateSettings(gemms=str(path), compat="scalesim", rows=32, cols=32))
    shapes = [(cost.item.gemm.op.m, cost.item.gemm.op.n, cost.item.gemm.op.k) for cost in done.chosen.gemms]
    assert shapes == [(55 * 55, 96, 363), (32 * 32, 1, 9), (1, 4096, 9216)]
    assert [cost.item.count for cost in done.chosen.gemms] == [1, 16, 1]
    for flow in ("ws", "os"):
        totals = [scalesim_report(32, 32, flow, *shape).total_cycles for shape in shapes]
        assert [cost.cycles for cost in done.policies[flow].gemms] == totals


@pytest.fixture(scope="module", params=[{"targets": "kv"}, {"targets": "all", "result": "bfloat16", "dataflow": "ws"}])
def traced(request: pytest.FixtureRequest) -> Simulation:
    settings = replace(SimulateSettings(workload="sd15", rows=32, cols=32), **request.param)
    return simulate_workload(settings, find_workload(settings))


def rows_of(simulation: Simulation) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render_layers(simulation))))


def test_what_is_written_is_read_as_the_same_step(traced: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "step.csv"
    path.write_text(render_layers(traced))
    settings = traced.settings
    again_settings = SimulateSettings(
        gemms=str(path), rows=32, cols=32, result=settings.result, dataflow=settings.dataflow
    )
    workload = find_workload(again_settings)
    assert workload.order == traced.workload.order
    again = simulate_workload(again_settings, workload)
    # A list says nothing of the processor's part.
    host = {"host_seconds": None, "wall_seconds": None}
    assert again.step_figures() == traced.step_figures() | host
    assert render_layers(again) == render_layers(traced)


def test_the_lines_add_up_to_the_step(traced: Simulation) -> None:
    rows, step = rows_of(traced), traced.step_figures()
    assert len(rows) == len(traced.workload.order)
    assert sum(int(row["total_cycles"]) for row in rows) == step["cycles"]
    assert sum(int(row["count"]) * int(row["dram_bytes"]) for row in rows) == step["dram_bytes"]
    assert sum(int(row["count"]) * float(row["energy_j"]) for row in rows) == pytest.approx(step["energy_j"])
    parts = [name for name in rows[0] if name.endswith("_j") and name != "energy_j"]
    for row in rows:
        assert float(row["energy_j"]) == pytest.approx(sum(float(row[name]) for name in parts))
        assert int(row["cycles"]) == int(row["array_cycles"]) + int(row["stall_cycles"])
    gemms = [row for row in rows if row["operation"] == "gemm"]
    assert sum(int(row["count"]) for row in gemms) == traced.workload.gemm_count
    if traced.settings.dataflow == "ws":
        assert {row["dataflow"] for row in gemms} == {"ws"}


def test_the_lines_are_what_the_hardware_counts(traced: Simulation) -> None:
    """Bytes and array clocks of each instruction, by the controller's own counting."""
    config = traced.machine.config
    tiled = {cost.item.gemm.op: cost.op for cost in traced.chosen.gemms}
    counted = {}
    for row, work in zip(rows_of(traced), traced.workload.order, strict=True):
        if isinstance(work.op, Quantize):
            assert int(row["dram_bytes"]) == quantize_work(config, work.op).dram_bytes
            assert row["dataflow"] == row["tile_m"] == row["k"] == ""
            continue
        op = tiled[work.op]
        assert op is not None
        if op not in counted:
            counted[op] = count_instruction(config, op)
        counters = counted[op]
        assert int(row["dram_bytes"]) == config.bus_bytes * (counters.words_read + counters.words_written)
        assert int(row["array_cycles"]) == counters.array_cycles
        assert [int(row[name]) for name in ("tile_m", "tile_n", "tile_k")] == [op.tile_m, op.tile_n, op.tile_k]


def test_what_scalesim_does_not_model_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("operation,m,n,k\ngemm,64,64,64\nquantize,64,64,\n")
    settings = SimulateSettings(gemms=str(path), compat="scalesim")
    gemm, quantize = rows_of(simulate_workload(settings, find_workload(settings)))
    assert gemm["cycles"] == gemm["total_cycles"] != ""
    assert gemm["dram_bytes"] == gemm["energy_j"] == gemm["tile_m"] == quantize["cycles"] == ""


def test_what_is_larger_than_an_instruction_is_modelled_too(tmp_path: Path) -> None:
    """As the traced steps of large batches: in whole numbers of 64 bits, and never faster than the array can be."""
    path = tmp_path / "list.csv"
    path.write_text("m,n,k\n1073741824,64,64\n64,64,1073741824\n268435456,268435456,1\n")
    settings = SimulateSettings(gemms=str(path), rows=4, cols=4, bus_bytes=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = simulate_workload(settings, find_workload(settings))
    for cost in done.chosen.gemms:
        assert cost.cycles >= max(cost.item.macs / 16, cost.dram_bytes / done.machine.dram.bytes_per_clock)
        assert cost.dram_bytes > 0 and cost.energy.total > 0
    with pytest.raises(UserError, match="at 0.001 GB/s do not fit 64 bits: give smaller sizes or a faster memory"):
        simulate_workload(replace(settings, dram_gbps=0.001), done.workload)


def test_patches_are_taken_as_they_are_written(tmp_path: Path) -> None:
    (item,) = read(tmp_path, f"m,n,k,macs,flags\n32,8,144,9999,{PATCHES} channels=16\n").gemms
    assert (item.gemm.op.kernel_height, item.gemm.op.channels, item.macs) == (3, 16, 9999)


def test_flags_are_the_fields_of_the_instructions() -> None:
    op = Gemm(8, 8, 8, 8, 8, 8, 0, 0, 0, 0, 0, 0, transpose_a=True, scale_a=ScaleMode.TENSOR, kernel_height=3)
    assert write_flags(op, {"scale_b": ScaleMode.VECTOR}) == "transpose_a scale_a=tensor scale_b=none kernel_height=3"
    quantize = Quantize(8, 8, 0, 0, 0, 0, 0, axis=Axis.COLUMN, multiply=True)
    for kind, work in ((Gemm, op), (Quantize, quantize)):
        words = write_flags(work, {})
        given = read_flags(kind, words)
        assert given and all(getattr(work, name) == value for name, value in given.items())
    assert not {"m", "tile_m", "a_address", "a_stride", "reuse_a", "tag", "dataflow"} & set(flag_fields(Gemm))
    assert read_flags(Gemm, "bias=no") == {"bias": False}


def test_given_columns_and_results_are_told_apart() -> None:
    assert not set(GIVEN_COLUMNS) & set(RESULT_COLUMNS)


HEAD = "name,m,n,k,count,flags\n"
PATCHES = "a_form=patches image_height=4 image_width=4 out_height=4 out_width=4 kernel_height=3 kernel_width=3 step=1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no GEMM in it"),
        (HEAD, "there is no GEMM in it"),
        ("operation,m,n,k\nquantize,8,8,\n", "there is no GEMM in it"),
        ("77,320,768\n", "line 1: column '77': the first line names the columns: name, operation"),
        ("name,m,n\na,1,1\n", "line 1: the first line names the columns; there is no k"),
        ("name,m,n,k,flag\n", "line 1: column 'flag': the first line names the columns: "),
        ("name,m,n,k,flag\n", "did you mean flags?"),
        ("name,m,m,n,k\n", "line 1: two columns are called 'm'"),
        ("IFMAP Height,Channels\n", "there is no filters, kernel_height, kernel_width, stride, width"),
        (HEAD + "a,8,8\n", "line 2: k = '': expected a whole number from 1 to 1,073,741,824"),
        (HEAD + "\n# x\na,0,8,8\n", "line 4: m = 0: allowed are 1 to 1,073,741,824"),
        (HEAD + "a,-8,8,8\n", "line 2: m = '-8': expected a whole number"),
        (HEAD + "a,8,1e3,8\n", "line 2: n = '1e3': expected a whole number"),
        (HEAD + "a,8,8,nan\n", "line 2: k = 'nan': expected a whole number"),
        (HEAD + "a,8,8,1.5\n", "line 2: k = '1.5'"),
        (HEAD + "a,8,8,1073741825\n", "line 2: k = 1073741825: allowed are 1 to 1,073,741,824"),
        (HEAD + "a,1073741824,1073741824,8\n", "line 2: 9.22e+18 multiply-accumulates in one GEMM: at most 7.21e+16"),
        (HEAD + f"a,{'9' * 5000},8,8\n", "line 2: m = 9999999999"),
        (HEAD + "a,8,8,8,0\n", "line 2: count = 0: allowed are 1 to 1,000,000"),
        (HEAD + "a,8,8,8,1,bias,x\n", "line 2: 7 fields, but 6 columns"),
        (HEAD + "a,8,8,8,1,transposeb\n", "line 2: flag 'transposeb': there are transpose_a"),
        (HEAD + "a,8,8,8,1,transposeb\n", "did you mean transpose_b?"),
        (HEAD + "a,8,8,8,1,bias bias\n", "line 2: flag bias is given twice"),
        (HEAD + "a,8,8,8,1,bias=maybe\n", "line 2: flag bias=maybe: expected bias, or bias=no"),
        (HEAD + "a,8,8,8,1,result=int4\n", "line 2: flag result=int4: allowed are int32, float32, bfloat16"),
        (HEAD + "a,8,8,8,1,step=x\n", "line 2: flag step=x: expected a whole number"),
        (HEAD + "a,8,8,8,1,result=int32 bias\n", "line 2: the controller refuses these flags: a reserved bit"),
        (HEAD + "a,8,8,9,1,a_form=patches channels=16\n", "line 2: patches need the flags image_height, image_width, "),
        (HEAD + f"a,8,8,9,1,{PATCHES} channels=1\n", "line 2: flag channels=1: patches need whole words"),
        (HEAD + f"a,16,8,143,1,{PATCHES} channels=16\n", "line 2: of patches k is kernel_height x kernel_width x"),
        (HEAD + f"a,15,8,144,1,{PATCHES} channels=16\n", "and m whole images of out_height x out_width"),
        ("m,n,k,macs\n8,8,8,513\n", "line 2: macs = 513: allowed are 1 to 512"),
        ("m,n,k,operation\n8,8,8,convolve\n", "line 2: operation 'convolve': allowed are gemm, quantize"),
        ("Layer,M,N,K,Sparsity,\na,8,8,8,2:4,\n", "line 2: sparsity '2:4': only dense layers (1:1) are modelled"),
        (
            "Layer,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,Num Filter,Strides,\na,2,8,3,3,1,1,1,\n",
            "line 2: a filter of height 3 on an image of 2",
        ),
    ],
)
def test_a_wrong_list_gets_one_line_with_its_number(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    told = str(error.value)
    assert told.startswith(f"--gemms {tmp_path / 'list.csv'}") and said in told and "\n" not in told
    assert len(told) < 600


def test_a_list_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"name,m\xff")
    for name, said in (
        ("bytes", "it is not UTF-8"),
        ("nowhere", "cannot be read: No such file"),
        (".", "cannot be read"),
    ):
        with pytest.raises(UserError, match=f"--gemms .*{said}"):
            read_gemms(str(tmp_path / name), ArrayConfig(), Result.FLOAT32)


@pytest.mark.parametrize("option", [{"targets": "all"}, {"rank": 8}, {"batch": 2}, {"workload": "sdxl"}])
def test_a_list_and_options_of_a_step_are_two_steps(tmp_path: Path, option: dict) -> None:
    with pytest.raises(UserError, match="--gemms with --.*: the list has all GEMMs of the step"):
        run_simulate(SimulateSettings(gemms=str(tmp_path / "list.csv"), **option))
