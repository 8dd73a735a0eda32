"""The HTML report of a simulation: one self-contained file with inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from systolora.hls.rendering import template_environment
from systolora.offloading.target_names import adapted_by

from .policies import POLICIES, GemmCost
from .simulation import Simulation
from .svg import Bar, Dot, bar_chart, roofline

REPORT_MARK = b'<meta name="generator" content="systolora simulate">'
"""Stands in the head of every report."""

_CLASSES_SHOWN, _GEMMS_SHOWN = 10, 24
_COLOURS = 10
"""Of the series of a chart, in the page's style."""


def render_report(simulation: Simulation) -> str:
    """The report as HTML."""
    environment = template_environment("systolora.cost", autoescape=True)
    charts = {
        "policies": _policies(simulation),
        "classes": _classes(simulation),
        "kinds": _kinds(simulation),
        "layers": _layers(simulation),
        "energy": _energy(simulation),
        "roofline": "" if simulation.settings.compat else _roofline(simulation),
    }
    return environment.get_template("simulate.html").render(
        simulation=simulation,
        settings=simulation.settings,
        adapted=adapted_by(simulation.settings.targets, simulation.settings.adapt),
        workload=simulation.workload,
        config=simulation.machine.config,
        policies=[(name, simulation.policies[name]) for name in POLICIES],
        gemms=[_row(cost) for cost in _longest(simulation)],
        gemms_left_out=max(0, len(simulation.chosen.gemms) - _GEMMS_SHOWN),
        classes_left_out=max(0, len(simulation.cycles_by("layer_class")) - _CLASSES_SHOWN),
        charts=charts,
        provenance=provenance_sections(simulation.provenance()),
    )


def provenance_sections(found: Mapping[str, Any], but: str = "") -> dict[str, Any]:
    """What `provenance.provenance` found, as the page shows it: texts, and under each title the names with their values.

    `but` is said beside what differs between the points of a sweep.
    """
    titles = {
        "array": f"Array, resolved{but}",
        "dram": f"Device memory{but}",
        "energy": "Energy per operation (pJ)",
        "settings": "Settings",
        "constants": "Constants of the models",
    }
    libraries = {"Python": found["python"], **found["libraries"]}
    return {
        **{name: found[name] for name in ("command", "version", "commit")},
        "libraries": ", ".join(f"{name} {version}" for name, version in libraries.items() if version),
        "sections": [(title, list(_facts("", found[name]))) for name, title in titles.items()],
    }


def _facts(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Names with dots, and values as text."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _facts(f"{prefix}.{name}" if prefix else str(name), part)
    elif isinstance(value, bool):
        yield prefix, "yes" if value else "no"
    elif isinstance(value, float):
        yield prefix, f"{value:.6g}"
    else:
        yield prefix, "-" if value in (None, "") else str(value)


def _longest(simulation: Simulation) -> list[GemmCost]:
    return sorted(simulation.chosen.gemms, key=lambda cost: -cost.total_cycles)[:_GEMMS_SHOWN]


def _called(simulation: Simulation, cost: GemmCost) -> str:
    """What a GEMM is called: of a step which of its products it is, of a list its name."""
    return cost.item.gemm.layer if simulation.settings.gemms else cost.item.gemm.kind


def _row(cost: GemmCost) -> dict[str, Any]:
    return {
        "cost": cost,
        "op": cost.item.gemm.op,
        "tile": "" if cost.op is None else f"{cost.op.tile_m} x {cost.op.tile_n} x {cost.op.tile_k}",
    }


def _millions(cycles: float) -> str:
    return f"{cycles / 1e6:,.0f} M" if cycles >= 1e9 else f"{cycles / 1e6:.3g} M"


def _policies(simulation: Simulation) -> str:
    bars = []
    for name in POLICIES:
        policy = simulation.policies[name]
        stall = policy.cycles - policy.array_cycles
        texts = (_millions(policy.array_cycles), _millions(stall))
        bars.append(
            Bar({"auto": "best for each GEMM"}.get(name, f"{name.upper()} only"), (policy.array_cycles, stall), texts)
        )
    return bar_chart(bars, max(max(bar.values) for bar in bars), ("array at work", "array waiting"))


def _classes(simulation: Simulation) -> str:
    names = list(simulation.cycles_by("layer_class"))[:_CLASSES_SHOWN]
    sums = {policy: simulation.cycles_by("layer_class", policy) for policy in POLICIES}
    bars = [
        Bar(
            name,
            tuple(float(sums[policy][name]) for policy in POLICIES),
            tuple(_millions(sums[policy][name]) for policy in POLICIES),
        )
        for name in names
    ]
    return bar_chart(bars, max(max(bar.values) for bar in bars), ("WS", "OS", "best for each"))


def _kinds(simulation: Simulation) -> str:
    sums = {**simulation.cycles_by("kind")}
    if simulation.quantize_cycles:
        sums["quantize"] = simulation.quantize_cycles
    longest_first = sorted(sums.items(), key=lambda pair: -pair[1])
    bars = [Bar(name, (float(cycles),), (_millions(cycles),)) for name, cycles in longest_first]
    return bar_chart(bars, max(sums.values()))


def _layers(simulation: Simulation) -> str:
    bars = []
    for cost in _longest(simulation):
        gemm, op = cost.item.gemm, cost.item.gemm.op
        label = f"{_called(simulation, cost)} {op.m} x {op.n} x {op.k}"
        note = f"{gemm.layer} and {cost.item.count - 1} more, {cost.dataflow}, bound by {cost.bound}"
        bars.append(Bar(label, (cost.utilization,), (f"{cost.utilization:.0%} ({cost.dataflow}, {cost.bound})",), note))
    return bar_chart(bars, 1.0)


def _energy(simulation: Simulation) -> str:
    parts = {name: simulation.policies[name].energy() for name in POLICIES}
    bars = [
        Bar(
            component,
            tuple(parts[name][component] for name in POLICIES),
            tuple(f"{parts[name][component]:.3g} J" for name in POLICIES),
        )
        for component in parts["auto"]
    ]
    return bar_chart(bars, max(max(bar.values) for bar in bars) or 1.0, ("WS", "OS", "best for each"))


def _roofline(simulation: Simulation) -> str:
    chosen, peak = simulation.chosen, simulation.peak
    classes = list(simulation.cycles_by("layer_class"))
    dots = []
    for cost in chosen.gemms:
        gemm = cost.item.gemm
        rate = 2 * gemm.macs * simulation.machine.config.clock_mhz * 1e6 / cost.cycles / 1e12
        note = f"{gemm.kind} of {gemm.layer_class}, {gemm.op.m} x {gemm.op.n} x {gemm.op.k}: {rate:.3g} TOPS"
        share = cost.total_cycles / chosen.cycles
        dots.append(Dot(2 * gemm.macs / cost.dram_bytes, rate, share, classes.index(gemm.layer_class) % _COLOURS, note))
    slopes = [
        (f"device memory {peak.dram_gbps:g} GB/s", peak.dram_gbps),
        (f"three ports {peak.port_gbps:.4g} GB/s", peak.port_gbps),
    ]
    return roofline(dots, peak.tops, slopes, classes)
