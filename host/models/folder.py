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

from .layouts import PIPELINES, Layout

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
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


def read_folder(folder: Path, variant: str = "") -> dict[str, FolderPart]:
    """The parts that training needs, by name; each is there and has weights. Parts that the family may lack are left out.

    Where a part has weights of one variant alone (model.fp16.safetensors), that variant is taken.

    Args:
        variant: takes the weights of this variant where a part has them.

    Raises:
        UserError: for a missing folder, one that is no pipeline, another kind of pipeline, or a part that is missing or broken.
    """
    layout = folder_layout(folder)
    index = read_json(folder / INDEX)
    absent = {name for name in layout.optional if index.get(name, [None, None]) == [None, None]}
    names = [name for name in layout.parts if name not in absent]
    parts = {name: _read_part(folder, name, index.get(name), layout, variant) for name in names}
    if variant and not any(part.variant == variant for part in parts.values()):
        raise UserError(f"--variant {variant}: no part of {folder} has weights of that variant; leave it out")
    return parts


def folder_layout(folder: Path) -> Layout:
    """What kind of pipeline a folder holds.

    Raises:
        UserError: for a missing folder, one that is no pipeline, or a kind that is not trained.
    """
    if not os.path.isdir(folder):
        raise UserError(
            f"--model {folder}: there is no such folder; give a pipeline folder as diffusers' save_pretrained writes it"
        )
    if not os.path.isfile(folder / INDEX):
        raise UserError(
            f"--model {folder}: no {INDEX} in it, so it is no pipeline folder; give the folder that holds unet/ and vae/"
        )
    kind = read_json(folder / INDEX).get("_class_name", "")
    if kind not in PIPELINES:
        raise UserError(
            f"--model {folder}: it holds a {kind or 'nameless pipeline'}; `train` takes a {', '.join(PIPELINES)} (others: systolora.offload)"
        )
    return PIPELINES[kind]


def variant_note(parts: Iterable[FolderPart], wanted: str = "") -> list[str]:
    """One line that says which parts are loaded from a variant's files, if any is.

    Args:
        wanted: the variant that was asked for, if one was.
    """
    found = [f"{part.name}/ {part.variant}" for part in parts if part.variant]
    why = "weights of a variant are taken, as asked" if wanted else "only weights of a variant are there and are taken"
    return [f"{why}, as float32: {', '.join(found)}"] if found else []


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


def _read_part(folder: Path, name: str, entry: object, layout: Layout, variant: str) -> FolderPart:
    config, has_weights = layout.parts[name]
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
    return FolderPart(name, library, class_name, *_weights(folder / name, variant))


def _weights(part: Path, wanted: str) -> tuple[str, bool]:
    """(variant, whether as safetensors) of the weights to load: the wanted ones, else the plain ones, else those of the only variant."""
    files = sorted(path for path in part.iterdir() if _WEIGHTS.fullmatch(path.name))
    if not files:
        raise UserError(
            f"--model: {part} holds no weights, as diffusion_pytorch_model.safetensors or model.safetensors"
        )
    variants: dict[str, list[Path]] = {}
    for path in files:
        match = _WEIGHTS.fullmatch(path.name)
        variants.setdefault((match and match["variant"]) or "", []).append(path)
    if wanted not in variants and "" not in variants and len(variants) > 1:
        raise UserError(
            f"--model: {part} holds weights of the variants {', '.join(variants)} and none without; "
            "leave one of them in the folder, or choose with --variant"
        )
    chosen = next((name for name in (wanted, "") if name in variants), next(iter(variants)))
    for path in variants[chosen]:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(f"{path}: it holds a pointer of Git LFS, not the weights; run: git lfs pull")
    return chosen, any(path.suffix == ".safetensors" for path in variants[chosen])
