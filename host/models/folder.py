"""A pipeline folder before anything is loaded: which parts it has, of which class, and which of their weight files to take."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.files import read_utf8

SUPPORTED = "StableDiffusionPipeline"
INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
# The file that a part must have, and whether it has weights.
_PARTS = {
    "unet": ("config.json", True),
    "vae": ("config.json", True),
    "text_encoder": ("config.json", True),
    "tokenizer": ("", False),  # which files it has differs by version
    "scheduler": ("scheduler_config.json", False),
}
# model.safetensors, model.fp16.safetensors, model.fp16-00001-of-00002.safetensors and, older, model-00001-of-00002.fp16.safetensors
_SHARD = r"(?:-\d+-of-\d+)?"
_WEIGHTS = re.compile(
    rf"(?:diffusion_pytorch_model|pytorch_model|model){_SHARD}(?:\.(?P<variant>[^.]+?))?{_SHARD}\.(?:safetensors|bin)"
)
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class FolderPart:
    """A part of a pipeline folder.

    Attributes:
        name: of its subfolder. library, class_name: what loads it.
        variant: of its weight files; "" for the plain ones, or a part without weights. safetensors: whether they are; else they are
            the older .bin.
    """

    name: str
    library: str
    class_name: str
    variant: str = ""
    safetensors: bool = True


def read_folder(folder: Path) -> dict[str, FolderPart]:
    """The parts that training needs, by name; each is there and has weights.

    Where a part has weights of one variant alone (model.fp16.safetensors), that variant is taken.

    Raises:
        UserError: for a missing folder, one that is no pipeline, another kind of pipeline, or a part that is missing or broken.
    """
    if not os.path.isdir(folder):
        raise UserError(
            f"--model {folder}: there is no such folder; give a pipeline folder as diffusers' save_pretrained writes it"
        )
    if not os.path.isfile(folder / INDEX):
        raise UserError(
            f"--model {folder}: no {INDEX} in it, so it is no pipeline folder; give the folder that holds unet/ and vae/"
        )
    index = read_json(folder / INDEX)
    kind = index.get("_class_name", "")
    if kind != SUPPORTED:
        raise UserError(
            f"--model {folder}: it holds a {kind or 'nameless pipeline'}; `train` takes a {SUPPORTED} (others: systolora.offload)"
        )
    return {name: _read_part(folder, name, index.get(name)) for name in _PARTS}


def variant_note(parts: Iterable[FolderPart]) -> list[str]:
    """One line that says which parts are loaded from a variant's files, if any is."""
    found = [f"{part.name}/ {part.variant}" for part in parts if part.variant]
    return [f"only weights of a variant are there and are taken, as float32: {', '.join(found)}"] if found else []


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: naming the file, if it cannot be read, is not UTF-8, or holds no JSON object.
    """
    try:
        content = json.loads(read_utf8(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: it cannot be read as JSON ({' '.join(str(error).split())}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}; copy it again")
    return content


def square_side(size: object) -> int | None:
    """The side that a model's `sample_size` names: a number, or two equal ones; None for anything else (null, an oblong)."""
    if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def _read_part(folder: Path, name: str, entry: object) -> FolderPart:
    config, has_weights = _PARTS[name]
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)):
        raise UserError(f"--model {folder}: {INDEX} names no {name}; copy the whole pipeline, with its {name}/")
    if not os.path.isdir(folder / name):
        raise UserError(f"--model {folder}: the part {name}/ is missing; copy the whole pipeline")
    if config and not os.path.isfile(folder / name / config):
        raise UserError(f"--model {folder}: {name}/{config} is missing; copy the whole pipeline")
    library, class_name = entry
    if library not in LIBRARIES:
        raise UserError(
            f"--model {folder}: {INDEX} takes {name} from {library!r}, where only {' and '.join(LIBRARIES)} are used"
        )
    if not has_weights:
        return FolderPart(name, library, class_name)
    return FolderPart(name, library, class_name, *_weights(folder / name))


def _weights(part: Path) -> tuple[str, bool]:
    """(variant, whether as safetensors) of the weights to load: the plain ones, else those of the only variant that there is."""
    files = sorted(path for path in part.iterdir() if _WEIGHTS.fullmatch(path.name))
    if not files:
        raise UserError(
            f"--model: {part} holds no weights, as diffusion_pytorch_model.safetensors or model.safetensors"
        )
    variants: dict[str, list[Path]] = {}
    for path in files:
        match = _WEIGHTS.fullmatch(path.name)
        variants.setdefault((match and match["variant"]) or "", []).append(path)
    if "" not in variants and len(variants) > 1:
        raise UserError(
            f"--model: {part} holds weights of the variants {', '.join(variants)} and none without; "
            "leave one of them in the folder"
        )
    chosen = "" if "" in variants else next(iter(variants))
    for path in variants[chosen]:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(f"{path}: it holds a pointer of Git LFS, not the weights; run: git lfs pull")
    return chosen, any(path.suffix == ".safetensors" for path in variants[chosen])
