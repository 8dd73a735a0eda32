"""Where a model comes from: a pipeline folder, one checkpoint file with a folder of configurations, or the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from systolora.errors import UserError
from systolora.libraries import quiet_libraries

from .folder import INDEX, folder_layout, read_json
from .pipeline import PipelineParts, check_fit, load_parts, parts_of

HUB = "hub:"
"""Begins the name of a model of the hub: hub:OWNER/NAME."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SINGLE_FILES = frozenset({".safetensors"})
"""Endings of checkpoint files. Others (.ckpt, .bin) are pickles and are not read."""


def load_model(model: str, variant: str = "", config: str = "") -> PipelineParts:
    """The parts of a model that training needs, as float32.

    Args:
        model: a pipeline folder, a .safetensors file, or hub:OWNER/NAME. variant: of the weight files of a folder.
        config: for a file: a pipeline folder (or hub:OWNER/NAME) whose configurations, tokenizers and scheduler it goes with.

    Raises:
        UserError: for a model that cannot be found or used.
    """
    if not os.path.isfile(model):
        if config:
            raise UserError(
                f"--model-config {config}: it goes with a checkpoint file, but --model is {model}; leave it out"
            )
        return load_parts(local_path(model, variant), variant)
    if variant:
        raise UserError(f"--variant {variant}: it goes with a folder, but --model is a file; leave it out")
    if not config:
        raise UserError(
            f"--model {model}: a checkpoint file holds weights alone; give --model-config, a pipeline folder of its kind "
            "(its configurations, tokenizer and scheduler; weights are not needed)"
        )
    return _load_file(Path(model), local_path(config, option="--model-config"))


def local_path(model: str, variant: str = "", option: str = "--model") -> Path:
    """The folder or file of a model on this computer. One of the hub is fetched, if it is not there and the hub may be asked.

    Raises:
        UserError: for a name that is none, or a model of the hub that cannot be had.
    """
    if not model.startswith(HUB):
        return Path(model)
    name = model.removeprefix(HUB)
    if not _HUB_NAME.fullmatch(name):
        raise UserError(f"{option} {model}: expected {HUB}OWNER/NAME")
    from diffusers import DiffusionPipeline
    from huggingface_hub import constants

    quiet_libraries()
    offline = bool(constants.HF_HUB_OFFLINE)
    try:
        return Path(DiffusionPipeline.download(name, variant=variant or None, local_files_only=offline))
    except Exception as error:  # the hub's client raises many kinds; each is a model that cannot be had
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if offline:
            reason = (
                "it is not in the hub's cache here, and HF_HUB_OFFLINE forbids to ask; set HF_HUB_OFFLINE=0 to fetch it"
            )
        raise UserError(f"{option} {model}: {reason}; or give a folder") from None


def _load_file(file: Path, config: Path) -> PipelineParts:
    if file.suffix not in SINGLE_FILES:
        raise UserError(
            f"--model {file}: of checkpoint files, those that end in .safetensors are read; others can hold programs"
        )
    try:
        layout = folder_layout(config)
    except UserError as error:
        raise UserError(str(error).replace("--model ", "--model-config ", 1)) from None
    import diffusers

    quiet_libraries()
    kind: Any = getattr(diffusers, read_json(config / INDEX)["_class_name"])
    try:
        pipe = kind.from_single_file(
            str(file), config=str(config), torch_dtype=torch.float32, local_files_only=True, **_left_out(kind)
        )
    except Exception as error:  # the libraries raise many kinds; each is a file that cannot be used
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--model {file}: it cannot be loaded as a {kind.__name__} with --model-config {config}: {reason}"
        ) from None
    parts = {name: part for name in layout.parts if (part := getattr(pipe, name, None)) is not None}
    for name, part in parts.items():
        lacking = (
            [key for key, value in part.named_parameters() if value.is_meta]
            if isinstance(part, torch.nn.Module)
            else []
        )
        if lacking:
            raise UserError(
                f"--model {file}: it has no weights for {name} ({lacking[0]}); give a checkpoint of the whole model"
            )
    missing = sorted(layout.parts.keys() - layout.optional - parts.keys())
    if missing:
        raise UserError(f"--model {file} with --model-config {config}: there is no {missing[0]}")
    check_fit(f"--model {file}:", layout, parts)
    return parts_of(pipe)


def _left_out(kind: Any) -> dict[str, Any]:
    """Parts that are not needed and not looked for."""
    names = ("safety_checker", "feature_extractor", "image_encoder")
    return {name: None for name in names if name in kind._get_signature_keys(kind)[0]}
