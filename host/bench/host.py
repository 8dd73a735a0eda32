"""How fast this machine's processor does its part of a step: every operator of `cost.host_time`, float32 products, and copying.

Run on a board it replaces the assumptions of `simulate`: nothing of it needs the accelerator.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from systolora.cost.host_time import HOST_OPERATORS, OPTIMIZER, UPLOAD, HostRates
from systolora.cost.step_trace import OTHER
from systolora.offloading.attention import softmax_gradient
from torch import Tensor
from torch.nn import functional

_SIDE = 1024
"""Of the matrices that are multiplied."""
_CHANNELS, _GROUPS = 320, 32
_LEAST_ROWS = 8
_ATEN = torch.ops.aten


def bench_host(elements: int = 1 << 22, repeats: int = 5) -> HostRates:
    """Measures this machine with as many threads as torch has.

    Args:
        elements: of the tensors that operators work on; they should not fit the caches. repeats: of each; the median counts.
    """
    calls = {**_elementwise(elements), **_rows(elements), **_norms(elements)}
    assert calls.keys() == set(HOST_OPERATORS)
    ns = {name: 1e9 * _seconds(run, repeats) / count for name, (run, count) in calls.items()}
    a, b = torch.rand(2, _SIDE, _SIDE)
    result = torch.empty(_SIDE, _SIDE)
    gmacs = 1e-9 * _SIDE**3 / _seconds(lambda: torch.mm(a, b, out=result), repeats)
    return HostRates(f"{_processor()}, {torch.get_num_threads()} threads", True, gmacs, 8 / ns["copy"], ns)


_Calls = dict[str, tuple[Callable[[], Any], int]]
"""By operator: what to run, and how many elements that is."""


def _elementwise(elements: int) -> _Calls:
    x, y, out = torch.rand(3, elements) + 0.5
    parameter = torch.nn.Parameter(x.clone())
    parameter.grad = y
    optimizer = torch.optim.AdamW([parameter])
    whole: dict[str, Callable[[], Any]] = {
        "add": partial(torch.add, x, y, out=out),
        "multiply": partial(torch.mul, x, y, out=out),
        "copy": partial(out.copy_, x),
        "silu": partial(functional.silu, x),
        "silu_gradient": partial(_ATEN.silu_backward, y, x),
        "gelu": partial(functional.gelu, x),
        "gelu_gradient": partial(_ATEN.gelu_backward, y, x),
        "concatenate": partial(torch.cat, (x[: elements // 2], y[elements // 2 :]), out=out),
        OTHER: partial(torch.maximum, x, y, out=out),
        OPTIMIZER: optimizer.step,
    }
    return {name: (run, elements) for name, run in whole.items()}


def _rows(elements: int) -> _Calls:
    """Operators on probabilities, and the upload of an image channels last."""
    keys = max(2, min(4096, elements // _LEAST_ROWS))
    scores, grads = torch.rand(2, max(1, elements // keys), keys)
    p = torch.softmax(scores, -1)
    image = _image(elements).permute(0, 2, 3, 1)
    inbox = torch.empty(image.shape)
    return {
        "softmax": (partial(torch.softmax, scores, -1), scores.numel()),
        "softmax_gradient": (partial(softmax_gradient, p, grads), scores.numel()),
        UPLOAD: (partial(inbox.copy_, image), image.numel()),
    }


def _norms(elements: int) -> _Calls:
    """Half of the elements in groups of channels of an image, half in tokens."""
    image = _image(elements // 2)
    tokens = torch.rand(image.shape[2] * image.shape[3], _CHANNELS)
    weight, bias, pixels = torch.ones(_CHANNELS), torch.zeros(_CHANNELS), image.shape[2] * image.shape[3]
    sizes = (1, _CHANNELS, pixels, _GROUPS)
    wanted = [True, False, False]
    _, *of_groups = _ATEN.native_group_norm(image, weight, bias, *sizes, 1e-5)
    _, *of_tokens = _ATEN.native_layer_norm(tokens, [_CHANNELS], weight, bias, 1e-5)

    def forward() -> None:
        _ATEN.native_group_norm(image, weight, bias, *sizes, 1e-5)
        _ATEN.native_layer_norm(tokens, [_CHANNELS], weight, bias, 1e-5)

    def backward() -> None:
        _ATEN.native_group_norm_backward(image, image, *of_groups, weight, *sizes, wanted)
        _ATEN.native_layer_norm_backward(tokens, tokens, [_CHANNELS], *of_tokens, weight, bias, wanted)

    count = image.numel() + tokens.numel()
    return {"norm": (forward, count), "norm_gradient": (backward, count)}


def _image(elements: int) -> Tensor:
    """[1, channels, height, width] of about so many elements, at least one pixel."""
    side = max(1, round((elements / _CHANNELS) ** 0.5))
    return torch.rand(1, _CHANNELS, side, side)


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median of the repeats, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return max(median(times), 1e-9)


def _processor() -> str:
    """What the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.machine() or "processor"
