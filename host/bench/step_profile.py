"""Where the time of a training step goes, by torch's profiler: shares of the step's own time by what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

GROUPS: dict[str, tuple[str, ...]] = {
    "torch's fused attention, backward": ("scaled_dot_product_flash_attention_for_cpu_backward",),
    "torch's fused attention, forward": ("scaled_dot_product",),
    "convolutions, forward": (
        "_OffloadedConvolution",
        "aten::mkldnn_convolution",
        "aten::_slow_conv",
        "aten::thnn_conv",
    ),
    "convolutions, backward": ("_OffloadedConvolutionBackward", "aten::convolution_backward"),
    "linear layers, forward and backward": (
        "_OffloadedLinear",
        "aten::mm",
        "aten::addmm",
        "aten::_int_mm",
        "aten::bmm",
    ),
    "attention products on the device": ("_Attention",),
    "copies and concatenations": ("aten::copy_", "aten::cat", "aten::clone", "aten::fill_"),
    "norms, activations, additions": (
        *("aten::native_group_norm", "aten::native_layer_norm", "aten::gelu", "aten::silu", "aten::softmax"),
        *("aten::_softmax", "aten::add", "aten::mul", "aten::div", "aten::sub", "aten::sum"),
    ),
}
"""What is shown, and the beginnings of the profiler's names of it; the longest that fits counts."""

REST = "everything else"


def profiled(run: Callable[[], object]) -> dict[str, float]:
    """Calls `run` under the profiler; the share of each group in its time, largest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as record:
        run()
    return shares((event.key, event.self_cpu_time_total) for event in record.key_averages())


def shares(events: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Share of each group in the times of events (name, own time), largest first."""
    found: dict[str, float] = {}
    for name, spent in events:
        group = group_of(name)
        found[group] = found.get(group, 0.0) + spent
    total = sum(found.values()) or 1.0
    return {group: spent / total for group, spent in sorted(found.items(), key=lambda item: -item[1])}


def group_of(name: str) -> str:
    """The group of an event of the profiler."""
    best, longest = REST, 0
    for group, beginnings in GROUPS.items():
        for beginning in beginnings:
            place = name.find(beginning)
            if place in (0, len("aten::"), len("aten::_")) and len(beginning) > longest:
                best, longest = group, len(beginning)
    return best
