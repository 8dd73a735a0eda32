"""One LoRA training step on an array: cycles, stalls, traffic and energy, and where the time goes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from systolora.errors import UserError
from systolora.hls.isa import End, Instruction
from systolora.offloading.target_names import adapted_by
from systolora.programs.tensors import ElementType
from systolora.sim.cost.energy import PeakFigures, Technology, energy, peak_figures
from systolora.sim.cost.quantize_times import quantize_time, quantize_work
from systolora.sim.cost.tile_times import Machine

from .energy_table import energy_table
from .footprint import Footprint, step_footprint
from .host_time import HostCost, host_cost, read_rates
from .policies import POLICIES, PolicyResult, run_policies, scalesim_policies
from .provenance import provenance
from .settings import SimulateSettings
from .step_gemms import StepGemm
from .workloads import Workload

MOST_MACS = 1 << 56
"""What the clocks and bytes of one GEMM of any shape still fit 64 bits with."""


@dataclass(frozen=True)
class QuantizeCost:
    """All QUANTIZE instructions of a step: clocks, bytes to and from device memory, joules."""

    cycles: int = 0
    dram_bytes: int = 0
    energy_j: float = 0.0


@dataclass(frozen=True)
class TraceExtent:
    """How much of the step a written trace shows: its events, whether they are all, and clocks that they reach of those of the step."""

    events: int
    complete: bool
    cycles: int
    step_cycles: int


@dataclass(frozen=True)
class Simulation:
    """What a simulation found.

    Attributes:
        policies: by name, `policies.POLICIES`.
        quantize: all QUANTIZE instructions of the step.
        host: the processor's part of the step. footprint: what the step needs of memory; both None for a list of GEMMs.
        trace_seconds, model_seconds: that tracing the model, and all that came after it, took.
        trace: what the trace shows, if one was written.
    """

    settings: SimulateSettings
    machine: Machine
    technology: Technology
    workload: Workload
    policies: dict[str, PolicyResult]
    quantize: QuantizeCost
    host: HostCost | None
    footprint: Footprint | None
    trace_seconds: float
    model_seconds: float
    trace: TraceExtent | None = None

    def provenance(self) -> dict[str, Any]:
        """What the result depends on, for JSON and for the report."""
        return provenance(self.settings)

    @property
    def chosen(self) -> PolicyResult:
        """The policy that the step's figures are for: the settings' dataflow."""
        return self.policies[self.settings.dataflow]

    @property
    def peak(self) -> PeakFigures:
        """Peak rates and area of the array."""
        return peak_figures(self.machine.config, self.technology)

    @property
    def quantize_cycles(self) -> int:
        """Clocks of all QUANTIZE instructions of the step."""
        return self.quantize.cycles

    def step_utilization(self, policy: str = "") -> float:
        """Needed multiply-accumulates over all that the array could have done in the step's clocks, QUANTIZE included."""
        config = self.machine.config
        return self.workload.macs() / (config.rows * config.cols * self.step_cycles(policy))

    def step_cycles(self, policy: str = "") -> int:
        """Clocks of all instructions of the step; the chosen policy if none is named, here and below."""
        return self.policies[policy or self.settings.dataflow].cycles + self.quantize_cycles

    def step_seconds(self, policy: str = "") -> float:
        """Seconds of the step on the accelerator; the host's part is not in it."""
        return self.step_cycles(policy) / (1e6 * self.machine.config.clock_mhz)

    def wall_seconds(self, policy: str = "") -> float | None:
        """Seconds of the step: the accelerator's and then, as neither has anything to do without the other, the processor's.

        None for SCALE-Sim's array, and for a list of GEMMs, which says nothing of the processor's part.
        """
        if self.host is None or self.settings.compat:
            return None
        return self.step_seconds(policy) + self.host.seconds

    def step_traffic(self) -> dict[str, float | None]:
        """Bytes and joules of the whole step, QUANTIZE included; null in SCALE-Sim's totals, which have neither."""
        if self.settings.compat:
            return {"dram_bytes": None, "energy_j": None}
        chosen = self.chosen
        return {
            "dram_bytes": chosen.dram_bytes + self.quantize.dram_bytes,
            "energy_j": sum(chosen.energy().values()) + self.quantize.energy_j,
        }

    def step_figures(self) -> dict[str, Any]:
        """What the whole step takes under the chosen policy, QUANTIZE included, for JSON; of a sweep one such line a point."""
        return {
            "dataflow": self.settings.dataflow,
            "cycles": self.step_cycles(),
            "seconds": self.step_seconds(),
            "host_seconds": self.host.seconds if self.host else None,
            "wall_seconds": self.wall_seconds(),
            "gemm_cycles": self.chosen.cycles,
            "quantize_cycles": self.quantize_cycles,
            "utilization": round(self.step_utilization(), 6),
            **self.step_traffic(),
            "bottleneck": self.bottleneck(),
        }

    def ratios(self) -> dict[str, float]:
        """How much faster choosing per GEMM is than one dataflow for all."""
        best = self.policies["auto"].cycles
        return {name: self.policies[name].cycles / best for name in POLICIES[:2]}

    def cycles_by(self, what: str, policy: str = "") -> dict[str, int]:
        """GEMM cycles by "layer_class", "kind", "phase" or "bound", the largest first."""
        sums: dict[str, int] = defaultdict(int)
        for cost in self.policies[policy or self.settings.dataflow].gemms:
            key = cost.bound if what == "bound" else getattr(cost.item.gemm, what)
            sums[key] += cost.total_cycles
        return dict(sorted(sums.items(), key=lambda pair: -pair[1]))

    def bottleneck(self) -> str:
        """What takes most of the step: the unit that bounds most of the GEMMs' time, or the quantizations."""
        bounds = {**self.cycles_by("bound"), "quantize": self.quantize_cycles}
        return max(bounds, key=lambda name: bounds[name])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        config, workload, settings = self.machine.config, self.workload, self.settings
        step = ("targets", "attention_products", "rank", "batch")
        listed = bool(settings.gemms)
        return {
            "workload": settings.gemms or settings.workload,
            # A list says all of the step; options that it has no use for are null.
            **{name: None if listed else getattr(settings, name) for name in step},
            "adapt": None if listed else adapted_by(settings.targets, settings.adapt),
            "resolution": None if listed else settings.resolution or workload.spec.resolution,
            "macs": workload.macs_by_phase() | {"total": workload.macs()},
            "gemm_count": workload.gemm_count,
            "array": {
                "rows": config.rows,
                "cols": config.cols,
                "kind": "scalesim" if self.settings.compat else self.machine.kind.value,
                "bus_bytes": config.bus_bytes,
                "clock_mhz": config.clock_mhz,
                "port_mhz": config.port_mhz or config.clock_mhz,
                "port_bytes_per_clock": round(config.port_bytes, 6),
                "dram_gbps": config.dram_gbps,
                "board": config.board,
            },
            "policies": {name: policy.as_dict() for name, policy in self.policies.items()},
            "auto_is_faster_than": {name: round(ratio, 4) for name, ratio in self.ratios().items()},
            "step": self.step_figures(),
            "host": self.host.as_dict() if self.host else None,
            "memory": self.footprint.as_dict() if self.footprint else None,
            "peak": vars(self.peak),
            "technology": self.technology.name,
            "trace_seconds": round(self.trace_seconds, 3),
            "model_seconds": round(self.model_seconds, 3),
            "trace": None if self.trace is None else vars(self.trace),
            "provenance": self.provenance(),
        }


def _quantize_cost(machine: Machine, tech: Technology, workload: Workload) -> QuantizeCost:
    cycles = moved = 0
    spent = 0.0
    for item in workload.quantizes:
        work = quantize_work(machine.config, item.quantize.op)
        cycles += item.count * quantize_time(machine, item.quantize.op).cycles
        moved += item.count * work.dram_bytes
        spent += item.count * energy(tech, work).total
    return QuantizeCost(cycles, moved, spent)


def simulate_workload(settings: SimulateSettings, workload: Workload) -> Simulation:
    """Runs a workload that is traced or read already.

    Raises:
        UserError: for a step whose clocks or bytes do not fit 64 bits.
    """
    machine, tech = settings.machine(), energy_table(settings.technology, settings.energy)
    _check_sizes(workload)
    try:
        with np.errstate(invalid="raise"):  # a float that no int64 holds
            if settings.compat == "scalesim":
                policies = scalesim_policies(machine.config.rows, machine.config.cols, workload.gemms)
                quantize = QuantizeCost()
            else:
                policies = run_policies(machine, tech, workload)
                quantize = _quantize_cost(machine, tech, workload)
    except FloatingPointError:
        raise UserError(
            f"clocks of a GEMM at {machine.dram.gbps:g} GB/s do not fit 64 bits: give smaller sizes or a faster memory"
        ) from None
    traced = workload.trace is not None
    return Simulation(
        settings=settings,
        machine=machine,
        technology=tech,
        workload=workload,
        policies=policies,
        quantize=quantize,
        host=host_cost(workload, read_rates(settings.host)) if traced else None,
        footprint=step_footprint(
            *(workload, settings.rank, machine.config.bus_bytes, settings.board, settings.release_weights),
            transfer_bytes=ElementType[settings.result.upper()].nbytes,
        )
        if traced
        else None,
        trace_seconds=0.0,
        model_seconds=0.0,
    )


def _check_sizes(workload: Workload) -> None:
    for item in workload.gemms:
        op = item.gemm.op
        if op.m * op.n * op.k > MOST_MACS:
            raise UserError(
                f"{item.gemm.layer}: a GEMM of m = {op.m:,}, n = {op.n:,}, k = {op.k:,} has more than {MOST_MACS:.3g} "
                "multiply-accumulates: give smaller sizes (--batch, --resolution)"
            )


def step_program(simulation: Simulation) -> tuple[list[Instruction], dict[int, str]]:
    """The step's instructions, layer by layer, as the chosen policy tiles them, without addresses; and what each is for.

    The backward instructions of a layer follow its forward ones, so the order is not that of training; the times are.
    """
    tiled = {(c.item.gemm.op, c.item.gemm.turnable): c.op for c in simulation.chosen.gemms if c.op is not None}
    program: list[Instruction] = []
    labels: dict[int, str] = {}
    for work in simulation.workload.order:
        if isinstance(work, StepGemm):
            op: Instruction = tiled[work.op, work.turnable]
            what = work.kind
        else:
            op, what = work.op, f"quantize {work.tensor} by {work.op.axis.name.lower()}"
        for _ in range(work.repeats):
            labels[len(program)] = f"{what}: {work.layer}"
            program.append(op)
    return [*program, End()], labels
