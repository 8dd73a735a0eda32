"""The published models by name, as the configurations that diffusers builds them from, and what one training step is fed.

Shapes only: no weight is ever loaded. The values are those of the models' own config.json (and of their pipelines for the
number of text tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolora.errors import UserError

from .folder import read_json, square_side


@dataclass(frozen=True)
class ModelSpec:
    """A denoising model and the size of its inputs.

    Attributes:
        title: as its authors write it.
        class_name: in diffusers. config: arguments of that class.
        resolution: pixels of the square that it was trained on. tokens: of the text.
        cell: pixels along one side of a latent element.
    """

    title: str
    class_name: str
    config: Mapping[str, Any]
    resolution: int
    tokens: int
    cell: int = 8


_SD1 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}
_SD2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "block_out_channels": (320, 640, 1280, 1280),
    "use_linear_projection": True,
}
_SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_PIXART = {
    "sample_size": 128,
    "num_layers": 28,
    "caption_channels": 4096,
    "interpolation_scale": 2,
    "use_additional_conditions": False,
}
_SD3 = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
_FLUX = {"guidance_embeds": True}

MODELS: dict[str, ModelSpec] = {
    "sd15": ModelSpec("Stable Diffusion 1.5", "UNet2DConditionModel", _SD1, 512, 77),
    "sd21": ModelSpec("Stable Diffusion 2.1", "UNet2DConditionModel", _SD2, 768, 77),
    "sdxl": ModelSpec("Stable Diffusion XL", "UNet2DConditionModel", _SDXL, 1024, 77),
    "pixart": ModelSpec("PixArt-Sigma XL 1024", "PixArtTransformer2DModel", _PIXART, 1024, 300),
    "sd3": ModelSpec("Stable Diffusion 3 medium", "SD3Transformer2DModel", _SD3, 1024, 154),
    "flux": ModelSpec("FLUX.1 dev", "FluxTransformer2DModel", _FLUX, 1024, 512, cell=16),
}
"""Models by the name that `--workload` takes."""

_TOKENS = {spec.class_name: spec.tokens for spec in reversed(MODELS.values())}
_MOST_BLOCKS = 8
"""Of an autoencoder: a latent of 128 x 128 pixels, more than any has."""
_CELLS = {spec.class_name: spec.cell for spec in MODELS.values()}


def model_spec(name: str) -> ModelSpec:
    """The model of a name, or of a folder that holds a diffusers pipeline or model.

    Raises:
        UserError: for a name that is neither, or a model of a class whose inputs are not known here.
    """
    if name in MODELS:
        return MODELS[name]
    folder = Path(name)
    files = [folder / part / "config.json" for part in ("unet", "transformer", "")]
    found = [file for file in files if file.is_file()]
    if not found:
        raise UserError(
            f"--workload {name}: neither one of {', '.join(MODELS)} nor a folder with unet/config.json or transformer/config.json"
        )
    config = read_json(found[0])
    class_name = config.get("_class_name", "")
    if class_name not in _TOKENS:
        raise UserError(f"{found[0]}: class {class_name!r}; allowed are {', '.join(sorted(_TOKENS))}")
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    cell, tokens = _CELLS[class_name], _TOKENS[class_name]
    if class_name == "UNet2DConditionModel" and found[0].parent.name == "unet":
        cell, tokens = _cell_of(folder, cell), _tokens_of(folder, tokens)
    size = own.get("sample_size")
    side = 128 if size is None else square_side(size)
    if side is None:
        raise UserError(f"{found[0]}: sample_size is {size!r}; expected a number, or two equal ones")
    resolution = 1024 if class_name == "FluxTransformer2DModel" else side * cell
    return ModelSpec(folder.name, class_name, own, resolution, tokens, cell)


def _cell_of(folder: Path, usual: int) -> int:
    """Pixels along one side of a latent of a pipeline's autoencoder; the usual number where the folder has none."""
    blocks = _config_value(folder / "vae" / "config.json", "block_out_channels")
    return 1 << (len(blocks) - 1) if isinstance(blocks, list) and 1 <= len(blocks) <= _MOST_BLOCKS else usual


def _tokens_of(folder: Path, usual: int) -> int:
    """Tokens of a pipeline's text, as `encoding.caption_limit` finds them; the usual number where its folder does not say."""
    places = (
        ("tokenizer", "tokenizer_config.json", "model_max_length"),
        ("text_encoder", "config.json", "max_position_embeddings"),
    )
    values = [_config_value(folder / part / file, key) for part, file, key in places]
    return min((value for value in values if isinstance(value, int) and 0 < value < 2**31), default=usual)


def _config_value(file: Path, key: str) -> Any:
    return read_json(file).get(key) if file.is_file() else None


def build_model(spec: ModelSpec) -> Any:
    """The model on the meta device, frozen."""
    import diffusers
    import torch

    with torch.device("meta"):
        model = getattr(diffusers, spec.class_name)(**spec.config)
    return model.requires_grad_(False)


def step_inputs(spec: ModelSpec, model: Any, batch: int, resolution: int) -> dict[str, Any]:
    """What the model's forward takes for `batch` pictures of `resolution` x `resolution` pixels.

    Raises:
        UserError: if the resolution does not fit the model.
    """
    import torch

    unit = spec.cell * (1 if spec.class_name == "FluxTransformer2DModel" else 8)
    if resolution < unit or resolution % unit:
        raise UserError(f"--resolution {resolution}: {spec.title} takes multiples of {unit}")
    config, side = model.config, resolution // spec.cell

    def floats(*shape: int) -> Any:
        return torch.empty(shape, device="meta")

    time = torch.empty(batch, device="meta", dtype=torch.int64)
    if spec.class_name == "UNet2DConditionModel":
        text = floats(batch, spec.tokens, config.cross_attention_dim)
        inputs = {
            "sample": floats(batch, config.in_channels, side, side),
            "timestep": time,
            "encoder_hidden_states": text,
        }
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            inputs["added_cond_kwargs"] = {"text_embeds": floats(batch, pooled), "time_ids": floats(batch, 6)}
        return inputs
    if spec.class_name == "FluxTransformer2DModel":
        return {
            "hidden_states": floats(batch, side * side, config.in_channels),
            "encoder_hidden_states": floats(batch, spec.tokens, config.joint_attention_dim),
            "pooled_projections": floats(batch, config.pooled_projection_dim),
            "timestep": floats(batch),
            "img_ids": floats(side * side, 3),
            "txt_ids": floats(spec.tokens, 3),
            "guidance": floats(batch),
        }
    inputs = {"hidden_states": floats(batch, config.in_channels, side, side), "timestep": time}
    if spec.class_name == "SD3Transformer2DModel":
        inputs["encoder_hidden_states"] = floats(batch, spec.tokens, config.joint_attention_dim)
        return inputs | {"pooled_projections": floats(batch, config.pooled_projection_dim)}
    inputs["encoder_hidden_states"] = floats(batch, spec.tokens, config.caption_channels)
    return inputs | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
