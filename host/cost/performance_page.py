"""Makes docs/performance.md: every figure in it is computed here and now.

python -m systolora.cost.performance_page docs/performance.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from pathlib import Path

from systolora.hls.config import BOARDS, ArrayConfig
from systolora.hls.rendering import template_environment
from systolora.models.configs import MODELS
from systolora.offloading.target_names import TARGETS, TRAINING_TRANSFER_TYPE
from systolora.sim.cost.mapping import best_products, has_transposed_form
from systolora.sim.cost.unit_times import ArrayKind

from .footprint import SYSTEM_BYTES
from .host_time import HostAssumptions
from .paper_gains import PAPER, Gain, verdict
from .policies import array_alone
from .settings import RESULTS, SimulateSettings
from .sharing import key_value_variants
from .simulation import Simulation, simulate_workload
from .tracing import trace_workload
from .workloads import StepOptions, Workload

_WIDTHS = (16, 64)
_ADAPT = "kv"
"""Where the paper has its adapter; of all tables."""
_BOARD_ROWS = (
    ("kv", "kv", False),
    ("linear", "linear", False),
    ("all but attention products", "all", False),
    ("all", "all", True),
)
"""Title, targets and whether the products of attention are on the accelerator."""
_PLAIN = "float32"
"""What crosses in all tables that do not say it."""
_BOUNDS = {
    "array": "array",
    "input": "input port",
    "weight": "weight port",
    "store": "epilogue and store",
    "dram": "device memory",
    "quantize": "QUANTIZE",
}


@lru_cache(maxsize=32)
def _traced(workload: str, targets: str, bus_bytes: int, products: bool, result: str = _PLAIN) -> Workload:
    options = StepOptions(targets, _ADAPT, products, bus_bytes=bus_bytes, result=RESULTS[result])
    return trace_workload(workload, options)


def _simulated(targets: str = "kv", products: bool | None = None, **options: object) -> Simulation:
    """A step with the paper's adapter, float32 crossing; the products of attention belong to "all" unless it is said."""
    options = {"result": _PLAIN, **options}
    products = targets == "all" if products is None else products
    settings = SimulateSettings(targets=targets, adapt=_ADAPT, attention_products=products, **options)  # type: ignore[arg-type]
    workload = _traced(settings.workload, targets, settings.array_config().bus_bytes, products, settings.result)
    return simulate_workload(settings, workload)


def _table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    heads = list(titles)
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _mega(value: float) -> str:
    return f"{value / 1e6:,.2f}"


def gains() -> list[Gain]:
    """How much choosing per GEMM gains, for each array and set of layers."""
    found = []
    for kind, targets in product(ArrayKind, TARGETS):
        cycles = array_alone(ArrayConfig(), kind, _traced("sd15", targets, 16, targets == "all").gemms)
        found.append(Gain(f"{kind.value}, array alone", targets, cycles))
    for overlap, bus, targets in product((True, False), _WIDTHS, TARGETS):
        done = _simulated(targets=targets, bus_bytes=bus, overlap=overlap)
        title = f"{done.machine.kind.value}, with memory, {bus}-byte ports"
        found.append(Gain(title, targets, {name: policy.cycles for name, policy in done.policies.items()}))
    return found


def ratio_table(found: list[Gain]) -> str:
    """The gains as a table."""
    rows = [
        [
            gain.array,
            gain.targets,
            *(_mega(value) for value in gain.cycles.values()),
            *(f"{r:.2f}" for r in gain.ratios),
        ]
        for gain in found
    ]
    titles = ("array", "layers", "WS Mcycles", "OS Mcycles", "best for each", "gain over WS", "gain over OS")
    return _table(titles, rows)


def utilization_table(bus: int) -> str:
    """Utilization by kind of layer for SD 1.5 `all`, and what bounds it."""
    done = _simulated(targets="all", bus_bytes=bus)
    auto = done.policies["auto"]
    rows = []
    for name, cycles in done.cycles_by("layer_class").items():
        costs = [cost for cost in auto.gemms if cost.item.gemm.layer_class == name]
        macs, array = sum(c.item.macs for c in costs), sum(c.item.count * c.array_cycles for c in costs)
        by_bound: dict[str, int] = {}
        for cost in costs:
            by_bound[cost.bound] = by_bound.get(cost.bound, 0) + cost.total_cycles
        bound = max(by_bound, key=lambda key: by_bound[key])
        share = f"{macs / auto.pes / cycles:.1%}"
        rows.append([name, _mega(macs / auto.pes), _mega(array), _mega(cycles), share, _BOUNDS[bound]])
    rows.append(
        [
            "**all GEMMs**",
            _mega(auto.macs / auto.pes),
            _mega(auto.array_cycles),
            _mega(auto.cycles),
            f"**{auto.utilization:.1%}**",
            "",
        ]
    )
    titles = ("layers", "ideal Mcycles", "array Mcycles", "Mcycles", "utilization", "mostly bound by")
    return _table(titles, rows)


def utilization_without_products(bus: int) -> float:
    """Utilization of SD 1.5 `all` without the attention products."""
    auto = _simulated(targets="all", bus_bytes=bus).policies["auto"]
    costs = [cost for cost in auto.gemms if "products" not in cost.item.gemm.layer_class]
    return sum(c.item.macs for c in costs) / auto.pes / sum(c.total_cycles for c in costs)


def board_table() -> str:
    """Predicted step times of SD 1.5 for each board preset, the host's part included."""
    rows = []
    for name, config in BOARDS.items():
        for (title, targets, products), result in product(_BOARD_ROWS, (TRAINING_TRANSFER_TYPE, _PLAIN)):
            done = _simulated(targets, products, board=name, result=result)
            seconds = [value / config.clock_mhz / 1e6 for value in (done.policies["auto"].cycles, done.quantize_cycles)]
            bounds, memory, host = done.cycles_by("bound"), done.footprint, done.host
            assert memory is not None and host is not None, "a model is traced"
            rows.append(
                [
                    *(name, f"{config.rows} x {config.cols}", title, result),
                    *(f"{value:.3f}" for value in (*seconds, done.step_seconds())),
                    *(f"{done.policies['auto'].utilization:.1%}", f"{done.step_utilization():.1%}"),
                    *(_BOUNDS[max(bounds, key=lambda key: bounds[key])], _BOUNDS[done.bottleneck()]),
                    *(f"{host.seconds:.1f}", f"{done.wall_seconds():.1f}"),
                    *(
                        f"{size / 1e9:.1f}"
                        for size in (memory.total, memory.total - memory.releasable, memory.board_bytes)
                    ),
                ]
            )
    titles = (
        *("board", "array", "layers", "what crosses", "GEMM s", "QUANTIZE s", "accelerator s", "GEMM utilization"),
        *("step utilization", "GEMMs bound by", "bottleneck", "host s", "both s"),
        *("memory GB", "weights released", "the board has"),
    )
    return _table(titles, rows)


def host_table() -> str:
    """What the host's part of a step of SD 1.5 consists of, and what is assumed of its processor."""
    simulated = [
        _simulated(targets, products, result=TRAINING_TRANSFER_TYPE).host for _, targets, products in _BOARD_ROWS
    ]
    costs = [cost for cost in simulated if cost is not None]
    parts = [cost.seconds_by_operator() for cost in costs]
    names = sorted({name for part in parts for name in part}, key=lambda name: -max(p.get(name, 0.0) for p in parts))
    rows = [
        [
            name.replace("_", " "),
            f"{costs[0].rates.ns[name]:.2f}" if name in costs[0].rates.ns else "",
            *(f"{part.get(name, 0.0):.2f}" for part in parts),
        ]
        for name in names
    ]
    rows.append(["**all**", "", *(f"**{cost.seconds:.1f}**" for cost in costs)])
    return _table(("operator", "ns an element", *(f"{title}, s" for title, _, _ in _BOARD_ROWS)), rows)


def sharing_table(bus: int) -> str:
    """What sharing does to key and value projections."""
    done = _simulated(bus_bytes=bus)
    rows = []
    for variant in key_value_variants(done.machine, done.workload):
        rows.append(
            [
                variant.title if variant.expressible else f"{variant.title} (no instruction for it)",
                _mega(variant.array_cycles),
                _mega(variant.weight_clocks),
                _mega(variant.gemm_cycles),
                _mega(variant.quantize_cycles),
                f"{variant.dram_bytes / 1e6:.1f}",
                _mega(variant.dram_bytes / 16),
                _mega(variant.dram_bytes / done.machine.dram.bytes_per_clock),
            ]
        )
    titles = (
        *("what is done", "array Mcycles", "weight port Mcycles", "GEMM Mcycles", "QUANTIZE Mcycles"),
        *("MB moved", "Mcycles at 16 B/cycle", "Mcycles at 19.2 GB/s"),
    )
    return _table(titles, rows)


def roles_table() -> str:
    """What computing C^T = B^T A^T where that is faster does: to all GEMMs that have that form, and to those for which the compiler may."""
    rows = []
    for bus, targets in product(_WIDTHS, ("kv", "linear", "all")):
        done = _simulated(targets=targets, bus_bytes=bus)
        items = [item for item in done.workload.gemms if has_transposed_form(item.gemm.op)]
        ops = [item.gemm.op for item in items]
        counts = [item.count for item in items]
        plain = best_products(done.machine, ops, turnable=[False] * len(ops))
        free = best_products(done.machine, ops)
        chosen = best_products(done.machine, ops, turnable=[item.gemm.turnable for item in items])
        before, limit, after = (
            sum(count * form.cycles for count, form in zip(counts, forms, strict=True))
            for forms in (plain, free, chosen)
        )
        turned = sum(count for count, form in zip(counts, chosen, strict=True) if form.transposed)
        gains = (f"{before / after:.3f}", f"{before / limit:.3f}")
        rows.append([f"{targets}, {bus}-byte ports", _mega(before), turned, _mega(after), *gains])
    titles = ("layers", "Mcycles as they are", "GEMMs turned", "Mcycles", "gain", "gain if all might be turned")
    return _table(titles, rows)


def sensitivity_table() -> str:
    """What latency and requests in flight do to SD 1.5 `linear` and `kv`."""
    rows = []
    for targets in ("kv", "linear"):
        for latency, flight in ((0.0, 8), (300.0, 8), (600.0, 8), (300.0, 4), (300.0, 1)):
            done = _simulated(targets=targets, latency_ns=latency, in_flight=flight)
            cycles = (done.policies["auto"].cycles, done.quantize_cycles, done.step_cycles())
            rows.append([targets, f"{latency:g}", flight, *(_mega(value) for value in cycles)])
    return _table(
        ("layers", "latency ns", "requests in flight", "GEMM Mcycles", "QUANTIZE Mcycles", "step Mcycles"), rows
    )


def model_table() -> str:
    """All published models, every GEMM of the step, on the default array with wide ports."""
    rows = []
    for name, spec in MODELS.items():
        done = _simulated(workload=name, targets="all", bus_bytes=64)
        workload, auto = done.workload, done.policies["auto"]
        rows.append(
            [
                spec.title,
                f"{workload.gemm_count:,}",
                f"{workload.macs() / 1e9:,.1f}",
                f"{auto.utilization:.1%}",
                f"{auto.cycles / 2e8:.2f}",
                f"{done.step_seconds():.2f}",
                f"{sum(auto.energy().values()):.1f}",
            ]
        )
    return _table(("model", "GEMMs", "GMAC", "utilization", "GEMM s", "step s", "GEMM energy J"), rows)


def render_page() -> str:
    """The page as Markdown."""
    environment = template_environment("systolora.cost")
    found = gains()
    return environment.get_template("performance.md").render(
        ratios=ratio_table(found),
        verdict=verdict(found),
        paper=PAPER,
        narrow=utilization_table(16),
        wide=utilization_table(64),
        without_products={bus: f"{utilization_without_products(bus):.1%}" for bus in _WIDTHS},
        array_limit=f"{_array_limit():.1%}",
        boards=board_table(),
        host=host_table(),
        processor=HostAssumptions(),
        system=SYSTEM_BYTES,
        sharing_narrow=sharing_table(16),
        sharing_wide=sharing_table(64),
        roles=roles_table(),
        sensitivity=sensitivity_table(),
        models=model_table(),
    )


def _array_limit() -> float:
    """Utilization of SD 1.5 `all` if only the array counted."""
    workload = _traced("sd15", "all", 16, True)
    config = ArrayConfig()
    cycles = array_alone(config, ArrayKind.OVERLAPPED, workload.gemms)["auto"]
    return workload.macs() / (config.rows * config.cols * cycles)


def main() -> None:
    """Writes the page to the file named on the command line, or prints it."""
    page = render_page()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page, encoding="utf-8")
    else:
        print(page, end="")


if __name__ == "__main__":
    main()
