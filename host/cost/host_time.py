"""How long the processor beside the accelerator takes for its part of a step: all operators but the products, and products left to it.

    seconds = sum over operators of elements * nanoseconds an element + multiply-accumulates / rate
    nanoseconds an element = max(cycles / (cores * clock), bytes / bandwidth)

It waits for the accelerator and the accelerator for it, so the step takes the sum of both. Python's and torch's own time for each call, and cache
maintenance of buffers that cross, are not in it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.files import read_utf8
from systolora.hls.isa import Result

from .step_gemms import StepGemm, StepQuantize
from .step_trace import OPERATORS, OTHER, AttentionCall
from .workloads import Workload

UPLOAD, OPTIMIZER, COPY = "upload", "optimizer", "copy"
HOST_OPERATORS = (*OPERATORS, OTHER, UPLOAD, OPTIMIZER)
"""All that a processor is said to take a time for, beside multiply-accumulates."""

_FORMAT = "systolora host rates 1"
_NAME, _LONGEST_NAME = "--host", 80
_UPLOADED_ONCE = frozenset({"x", "grad_y", "grad_o", "grad_s"})
"""Tensors of a layer that several quantizations read from one upload; the others are uploaded for each."""
_MADE_THERE = frozenset({"h", "grad_h"})
"""Tensors that are on the device already."""


@dataclass(frozen=True)
class HostAssumptions:
    """A processor that was not measured: each figure is to be replaced by a measurement (`systolora bench host`).

    The default is that of all boards of the list: four A53 with NEON, float32.

    Attributes:
        cores, clock_ghz: of the Zynq UltraScale+ at its usual speed grade (data sheet DS925).
        gbps: bandwidth that the cores together reach, in 10**9 bytes a second. Nobody's STREAM of a ZynqMP was found: TI's AM62x (4 x A53,
            16-bit DDR4) has 2.5, and 2.0 to 5.0 is plausible.
        gmacs: float32 multiply-accumulates, 10**9 a second: XNNPACK's MobileNet v1 on a Raspberry Pi 3+ (4 x A53) takes 115 ms, which is 4.9;
            Stable Diffusion 1.5 on a ZCU102's A53 takes 3.5 hours an image (SDA, FPL 2024), which is 3 to 4.
        cycles: of one core an element, counted from what NEON code of it needs: an exponential by polynomial 14, a division 4, and so on.
        nbytes: of memory an element: read and written once each; norms read twice; the softmax's gradient as `offloading/attention.py`
            writes it goes through memory in four passes.
    """

    name: str = "four A53 at 1.333 GHz, assumed"
    cores: int = 4
    clock_ghz: float = 1.333
    gbps: float = 3.5
    gmacs: float = 4.5
    cycles: Mapping[str, float] = field(
        default_factory=lambda: {
            **{"softmax": 14, "softmax_gradient": 10, "norm": 5, "norm_gradient": 9, "gelu": 18, "gelu_gradient": 28},
            **{"silu": 14, "silu_gradient": 20, "add": 2, "multiply": 2, "copy": 1, "concatenate": 1, "other": 2},
            **{"upload": 1, "optimizer": 20},
        }
    )
    nbytes: Mapping[str, float] = field(
        default_factory=lambda: {
            **{"softmax": 8, "softmax_gradient": 36, "norm": 12, "norm_gradient": 20, "gelu": 8, "gelu_gradient": 12},
            **{"silu": 8, "silu_gradient": 12, "add": 12, "multiply": 12, "copy": 8, "concatenate": 8, "other": 12},
            **{"upload": 8, "optimizer": 28},
        }
    )

    def rates(self) -> HostRates:
        """What they come to, by operator."""
        return HostRates(
            name=self.name,
            measured=False,
            gmacs=self.gmacs,
            gbps=self.gbps,
            ns={
                name: max(self.cycles[name] / (self.cores * self.clock_ghz), self.nbytes[name] / self.gbps)
                for name in HOST_OPERATORS
            },
        )


@dataclass(frozen=True)
class HostRates:
    """How fast a processor is.

    Attributes:
        name: which. measured: by `systolora bench host`, or assumed.
        ns: nanoseconds an element, by operator. gmacs: 10**9 float32 multiply-accumulates a second.
        gbps: of copying, 10**9 bytes read or written a second; for information, `ns` has its effect.
    """

    name: str
    measured: bool
    gmacs: float
    gbps: float
    ns: Mapping[str, float]

    def as_json(self) -> str:
        """For a file that `read_rates` takes."""
        values = {**vars(self), "ns": dict(self.ns)}
        return json.dumps({"format": _FORMAT, **values}, indent=1) + "\n"


RATES_MARK = f'"format": "{_FORMAT}"'.encode()
"""Stands in the head of every file of rates."""


def read_rates(path: str) -> HostRates:
    """The rates of a file that `systolora bench host` wrote; the assumptions for "".

    Raises:
        UserError: if it is another file, or a figure is missing or no positive number.
    """
    if not path:
        return HostAssumptions().rates()
    advice = "give a file that 'systolora bench host --out FILE' wrote"
    if not Path(path).is_file():
        raise UserError(f"{_NAME} {path}: there is no such file; {advice}")
    try:
        found = json.loads(read_utf8(Path(path)))
    except (ValueError, RecursionError, OSError):
        found = None
    if not isinstance(found, dict) or found.get("format") != _FORMAT or not isinstance(found.get("ns"), dict):
        raise UserError(f"{_NAME} {path}: these are no rates of a processor; {advice}")
    figures = {
        "gmacs": found.get("gmacs"),
        "gbps": found.get("gbps"),
        **{n: found["ns"].get(n) for n in HOST_OPERATORS},
    }
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise UserError(f"{_NAME} {path}: {name} is {value!r}, expected a positive number; {advice}")
    ns = {name: float(found["ns"][name]) for name in HOST_OPERATORS}
    return HostRates(
        str(found.get("name", path))[:_LONGEST_NAME], bool(found.get("measured")), found["gmacs"], found["gbps"], ns
    )


@dataclass(frozen=True)
class HostCost:
    """The processor's part of a step.

    Attributes:
        rates: of the processor. elements: by operator. macs: multiply-accumulates left to it.
    """

    rates: HostRates
    elements: Mapping[str, int]
    macs: int

    def seconds_by_operator(self) -> dict[str, float]:
        """Operator to seconds, products among them; the largest first."""
        found = {name: 1e-9 * count * self.rates.ns[name] for name, count in self.elements.items()}
        found["products"] = 1e-9 * self.macs / self.rates.gmacs
        return {name: value for name, value in sorted(found.items(), key=lambda pair: -pair[1]) if value}

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.seconds_by_operator().values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "processor": self.rates.name,
            "measured": self.rates.measured,
            "macs": self.macs,
            "gmacs_per_second": self.rates.gmacs,
            "elements": dict(self.elements),
            "ns_per_element": dict(self.rates.ns),
            "seconds_by_operator": self.seconds_by_operator(),
            "seconds": self.seconds,
        }


def host_cost(workload: Workload, rates: HostRates) -> HostCost:
    """What a traced workload leaves to the processor.

    Raises:
        ValueError: for a list of GEMMs.
    """
    if workload.trace is None:
        raise ValueError("a list of GEMMs says nothing of the processor's part")
    elements = Counter(workload.trace.operators)
    for calls, offloaded in ((workload.calls, True), (workload.host_calls, False)):
        for call in calls:
            if isinstance(call, AttentionCall):
                elements += _softmax(call, offloaded)
    elements[UPLOAD] = _uploaded(workload)
    elements[COPY] += _widened(workload)
    elements[OPTIMIZER] = workload.trainable
    return HostCost(rates, dict(elements), workload.host_macs)


def _softmax(call: AttentionCall, offloaded: bool) -> Counter[str]:
    """Elements of the softmax of an attention and of its gradient.

    torch's fused kernel computes the probabilities again in its backward, and the gradient from them without going through memory.
    """
    size = call.heads * call.queries * call.keys
    found = Counter({"softmax": size})
    if not offloaded:
        found["softmax"] += size if call.needs_backward else 0
    elif call.query_grad or call.key_grad:
        found["softmax_gradient"] += size
    return found


def _uploaded(workload: Workload) -> int:
    """Elements that are copied to where the device reads them: the sources of quantizations."""
    seen: set[tuple[str, str]] = set()
    elements = 0
    for work in workload.order:
        if not isinstance(work, StepQuantize) or work.tensor in _MADE_THERE:
            continue
        key = (work.layer, work.tensor)
        if work.tensor in _UPLOADED_ONCE and key in seen:
            continue
        seen.add(key)
        elements += work.repeats * work.op.m * work.op.n
    return elements


def _widened(workload: Workload) -> int:
    """Elements of results that come in bfloat16 and are made float32, as the model is; others are taken where they lie.

    Scores stay in bfloat16: the softmax takes them so.
    """
    gemms = (work for work in workload.order if isinstance(work, StepGemm) and work.kind != "forward_scores")
    return sum(work.repeats * work.op.m * work.op.n for work in gemms if work.op.result == Result.BFLOAT16)
