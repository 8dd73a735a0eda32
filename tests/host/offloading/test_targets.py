"""Which layers each target takes, in every transformer and U-Net class of the installed diffusers; expected in tests/golden."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import systolora
import torch
from diffusers.models import transformers, unets
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig
from systolora.offloading.target_names import TARGETS
from systolora.offloading.targets import OffloadError, adaptable_names, layer_names, select
from torch import nn

NUMBERS = r"\.\d+(?=\.|$)"
GOLDEN = Path(__file__).parents[2] / "golden" / "targets.txt"

NEEDED: dict[str, dict[str, Any]] = {
    "DreamLiteTransformer2DModel": {"in_channels": 32},
    "EasyAnimateTransformer3DModel": {"in_channels": 16, "out_channels": 16, "patch_size": 2},
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "caption_channels": [8, 4],
        "text_emb_dim": 64,
        "axes_dims_rope": (4, 2, 2),
        "max_resolution": (32, 32),
        "llama_layers": (0, 1),
    },
    "HunyuanDiT2DModel": {"sample_size": 16, "patch_size": 2, "in_channels": 4},
    "LatteTransformer3DModel": {
        "in_channels": 4,
        "sample_size": 8,
        "patch_size": 2,
        "caption_channels": 8,
        "cross_attention_dim": 1408,
    },
    "LuminaNextDiT2DModel": {"num_kv_heads": 8},
    "OmniGenTransformer2DModel": {
        "rope_scaling": {"short_factor": [1.0] * 48, "long_factor": [1.0] * 48, "type": "su"}
    },
    "Transformer2DModel": {"in_channels": 32, "cross_attention_dim": 32},
    "TransformerTemporalModel": {"in_channels": 32},
    # Parts that the defaults leave out.
    "ConsisIDTransformer3DModel": {"is_train_face": True},
    "SD3Transformer2DModel": {"dual_attention_layers": (0,)},
    "WanVACETransformer3DModel": {"num_layers": 2, "vace_layers": [0, 1]},
    "WanTransformer3DModel": {"added_kv_proj_dim": 64, "image_dim": 64},
}
"""Arguments without which a class cannot be built, or would lack attention that it can have."""


def model_classes() -> dict[str, type[ModelMixin]]:
    """Every model class in diffusers' folders of transformers and U-Nets."""
    found = {}
    for package in (transformers, unets):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            for name, kind in vars(module).items():
                own = inspect.isclass(kind) and kind.__module__ == module.__name__
                if own and issubclass(kind, ModelMixin):
                    found[name] = kind
    return found


CLASSES = model_classes()


def build(name: str, **settings: Any) -> nn.Module:
    """A frozen model on the meta device, two layers deep wherever the class lets that be said."""
    kind = CLASSES[name]
    depth = re.compile(r"(num|n)_(\w+_)?(layers|blocks)|layers_per_block|depth")
    defaults = {p.name: p.default for p in inspect.signature(kind.__init__).parameters.values()}
    shallow = {key: 2 for key, value in defaults.items() if depth.fullmatch(key) and type(value) is int and value > 2}
    given = {**NEEDED.get(name, {}), **settings}
    with torch.device("meta"):
        try:
            model = kind(**{**shallow, **given})
        except Exception:  # some want as many entries in another list
            model = kind(**given)
    return model.requires_grad_(False)


def patterns(names: Iterable[str]) -> Iterator[str]:
    """Names that differ in numbers only, and children of one module, on one line: '2 blocks.*.attn: to_k to_v'."""
    holders: dict[str, Counter[str]] = {}
    for name in names:
        child = _last(name)
        holder = name.removesuffix(child).removesuffix(".")
        pattern = re.sub(NUMBERS, ".*", holder) or "(model)"
        holders.setdefault(pattern, Counter())[child] += 1
    for pattern, children in holders.items():
        by_count: dict[int, list[str]] = {}
        for child, count in children.items():
            by_count.setdefault(count, []).append(child)
        for count, found in by_count.items():
            yield f"{count} {pattern}: {' '.join(found)}"


def _last(name: str) -> str:
    """What a layer is called in the module that holds it: to_q, to_out.0."""
    parts = name.split(".")
    return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])


def describe(name: str) -> str:
    """What each target takes of a class, and what it leaves out with a reason."""
    model = build(name)
    lines = [name]
    for target in ("kv", "attention"):
        try:
            selection = select(model, target)
        except OffloadError as error:
            assert "\n" not in str(error)
            lines.append(f"  {target}: none")
            continue
        taken = [found for found, _ in selection.chosen]
        lines += [f"  {target}: {line}" for line in patterns(taken)]
        for why in dict.fromkeys(why for _, why in selection.skipped):
            lines += [
                f"  {target}, not: {line} ({why})" for line in patterns(n for n, w in selection.skipped if w == why)
            ]
    others = layer_names(model, "linear") - layer_names(model, "attention")
    lines.append(
        f"  linear, beside attention: {' '.join(sorted({re.sub(NUMBERS, '.*', _last(name)) for name in others}))}"
    )
    counts = {target: len(select(model, target).chosen) for target in ("linear", "all")}
    lines.append(f"  linear: {counts['linear']} layers, all: {counts['all']}")
    return "\n".join(lines) + "\n"


def test_layers_of_every_class_are_as_expected(update_golden: bool) -> None:
    """All in one test, so that a class that is new or gone shows."""
    head = f"Layers that each target takes, classes of diffusers {diffusers.__version__}; written by pytest --update-golden\n"
    if not update_golden and GOLDEN.read_text(encoding="utf-8").partition("\n")[0] != head.rstrip("\n"):
        pytest.skip("the expected text is of another version of diffusers")
    text = "\n".join([head, *(describe(name) for name in sorted(CLASSES))])
    if update_golden:
        GOLDEN.write_text(text, encoding="utf-8")
    difference = difflib.unified_diff(GOLDEN.read_text(encoding="utf-8").splitlines(), text.splitlines(), lineterm="")
    assert not list(difference), "read the difference, then run pytest --update-golden"


@pytest.mark.parametrize("name", ["SD3Transformer2DModel", "QwenImageTransformer2DModel", "UNet2DConditionModel"])
def test_what_gets_an_adapter_is_among_the_targets(name: str) -> None:
    for targets in TARGETS:
        model = build(name)
        adapted = adaptable_names(model, targets)
        assert adapted and set(adapted) <= layer_names(model, targets)
        model.add_adapter(LoraConfig(r=2, target_modules=adapted))
        chosen = [found for found, _ in select(model, targets).chosen]
        assert [found for found in chosen if found in adapted] == adapted
        assert targets not in ("kv", "attention") or chosen == adapted


def test_second_attention_of_sd3_5_is_self_attention() -> None:
    names = layer_names(build("SD3Transformer2DModel"), "kv")
    assert names and all(name.endswith(("add_k_proj", "add_v_proj")) for name in names)


def test_adapters_that_are_all_elsewhere_are_refused() -> None:
    model = build("QwenImageTransformer2DModel")
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    with pytest.raises(
        OffloadError, match="none of the 8 adapted layers .* is among the targets 'kv'.*choose other"
    ) as caught:
        systolora.offload(model, "kv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["ZImageTransformer2DModel", "CogVideoXTransformer3DModel", "Lumina2Transformer2DModel"]
)
def test_a_model_without_cross_attention_says_so(name: str) -> None:
    with pytest.raises(
        OffloadError, match=f"no layer of this {name} matches targets 'kv' .targets that match: attention"
    ):
        systolora.offload(build(name), "kv", rank=4)


@pytest.mark.parametrize("targets", ["kv", "attention"])
def test_fused_projections_are_taken_and_their_parts_are_not(targets: str) -> None:
    model: Any = build("UNet2DConditionModel")
    model.fuse_qkv_projections()
    selection = select(model.requires_grad_(False), targets)
    taken = {_last(name) for name, _ in selection.chosen}
    assert taken == ({"to_kv"} if targets == "kv" else {"to_kv", "to_qkv", "to_q", "to_out.0"})
    assert {why for _, why in selection.skipped} == {
        f"fused into {fused} (fuse_qkv_projections)"
        for fused in (["to_kv"] if targets == "kv" else ["to_kv", "to_qkv"])
    }
    assert all("attn2" in name for name, _ in selection.chosen if _last(name) == "to_q")
