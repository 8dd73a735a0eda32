"""Names of adapted layers, from and to those of kohya's tools, where a dot and an underscore are the same.

What a name there means is what diffusers' own loader makes of it, so that a file which is written here is read right there. What that
loader would take for another layer is refused, or written in a spelling that it knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

from diffusers.loaders.lora_conversion_utils import (
    _convert_text_encoder_lora_key,
    _convert_unet_lora_key,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from systolora.errors import UserError

KOHYA_PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
_SPELLED = {"add_embedding.linear_1": "label_emb_0_0", "add_embedding.linear_2": "label_emb_0_2"}
"""SDXL's layers that diffusers reads under the names of the original U-Net alone."""

_TEXT = {"to_q_lora": "q_proj", "to_k_lora": "k_proj", "to_v_lora": "v_proj", "to_out_lora": "out_proj"}
_ORIGINAL = ("lora_unet_input_blocks_", "lora_unet_middle_block_", "lora_unet_output_blocks_")
_DIFFUSERS = ("lora_unet_down_blocks_", "lora_unet_mid_block_", "lora_unet_up_blocks_")


def kohya_name(part: str, module: str, two_encoders: bool) -> str:
    """A layer's name as kohya's tools have it.

    Args:
        two_encoders: the model is an SDXL.

    Raises:
        UserError: if there is none that diffusers would read as this layer.
    """
    encoder = "lora_te1_" if two_encoders else "lora_te_"
    prefix = {"unet": "lora_unet_", "text_encoder": encoder, "text_encoder_2": "lora_te2_"}.get(part)
    if prefix is None:
        raise UserError(
            f"{part}.{module}: kohya's names are known here for U-Nets and CLIP text encoders; keep diffusers' or peft's names"
        )
    name = prefix + _SPELLED.get(module, module.replace(".", "_"))
    if layer_of(name) != (part, module):
        raise UserError(f"{part}.{module}: diffusers would read its name in kohya's form, {name}, as another layer")
    return name


def layer_of(name: str) -> tuple[str, str]:
    """(part, module) that diffusers understands by a name of kohya's with diffusers' blocks."""
    prefix = next(prefix for prefix in KOHYA_PREFIXES if name.startswith(prefix))
    part, key = KOHYA_PREFIXES[prefix], f"{name}.lora_down.weight"
    if part == "unet":
        (found,) = convert_unet_state_dict_to_peft({_convert_unet_lora_key(key): None})
    else:
        found = _convert_text_encoder_lora_key(key, name)
        for old, new in _TEXT.items():
            found = found.replace(old, new)
    for ending in (".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight", ".down.weight"):
        found = found.removesuffix(ending)
    return part, found


def with_diffusers_blocks(names: Iterable[str]) -> dict[str, str]:
    """Of each name of kohya's, the same with diffusers' blocks in it: SDXL's come with those of the original U-Net.

    Raises:
        UserError: for names that mix both, or that no U-Net with two layers a block has.
    """
    found = {name: name for name in names}
    original = {name for name in found if name.startswith(_ORIGINAL)}
    if original and any(name.startswith(_DIFFUSERS) for name in found):
        raise UserError("it mixes names of the original U-Net (input_blocks) with those of diffusers' (down_blocks)")
    try:
        # Its dictionary is from new names to what the old ones held: here the old names themselves.
        mapped = _maybe_map_sgm_blocks_to_diffusers(
            {name: name for name in original}, SimpleNamespace(layers_per_block=2)
        )
    except (ValueError, IndexError, KeyError):
        raise UserError("it has block names that are none of SDXL's U-Net") from None
    return found | {old: new for new, old in mapped.items()}
