"""What SDXL is told of each picture, against diffusers' own arithmetic: original size, corner of the crop, target size, each (height, width)."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from systolora.models.family import Shown
from systolora.models.pipeline import PipelineParts, load_parts
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.batches import encode_data
from systolora.training.pictures import load_picture
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer
from systolora.training.views import plan_pictures

from ..models.tiny_families import SIDE, make_family

RESOLUTION = 8 * SIDE


def diffusers_corner(own: tuple[int, int], side: int, place: tuple[float, float] | None, flip: bool) -> tuple[int, int]:
    """Of `train_text_to_image_lora_sdxl.py`: the shorter side is scaled to the resolution (torchvision's Resize), the picture is mirrored,
    then cut, and (top, left) of the cut is told. `place`: of the random crop, before mirroring; None is its `center_crop`."""
    width, height = own
    scaled = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    top, left = (max(0, round((length - side) / 2.0)) for length in scaled[::-1])
    if place:
        left, top = (round((length - side) * where) for length, where in zip(scaled, place, strict=True))
        left = scaled[0] - side - left if flip else left
    return top, left


@pytest.mark.parametrize("own", [(64, 64), (64, 200), (300, 96), (127, 1000), (1000, 333), (20, 31)])
@pytest.mark.parametrize("place", [None, (0.0, 0.0), (1.0, 1.0), (0.25, 0.7)])
@pytest.mark.parametrize("flip", [False, True])
def test_the_corner_is_that_of_diffusers_script(
    own: tuple[int, int], place: tuple[float, float] | None, flip: bool
) -> None:
    ours = Shown(own, (RESOLUTION, RESOLUTION), place or (0.5, 0.5), flip).corner
    theirs = diffusers_corner(own, RESOLUTION, place, flip)
    # It cuts the longer side's length to whole pixels, where we round it.
    whole = (RESOLUTION * max(own)) % min(own) == 0
    assert all(abs(a - b) <= (0 if whole and place else 1) for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_the_corner_is_where_the_pixels_are(tmp_path: Path) -> None:
    """A ramp tells by its values where it was cut, mirrored or not."""
    ramp = np.tile(np.arange(200, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    for place in ((0.0, 0.5), (0.3, 0.5), (1.0, 0.5)):
        cut = (load_picture(tmp_path / "ramp.png", (64, 64), place=place)[0, 0] + 1) * 127.5
        for flip in (False, True):
            _, left = Shown((200, 64), (64, 64), place, flip).corner
            whole, seen = (ramp[0, ::-1], cut[::-1]) if flip else (ramp[0], cut)
            np.testing.assert_allclose(seen, whole[left : left + 64], atol=1.01)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> PipelineParts:
    return load_parts(make_family("sdxl", tmp_path_factory.mktemp("sdxl") / "model"))


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    folder, random = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for name, (width, height) in {"a": (30, 80), "b": (80, 30), "c": (40, 40), "d": (90, 25)}.items():
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{name}.png")
    return TrainSettings(data=str(folder), prompt="a red heart", resolution=RESOLUTION)


@pytest.mark.parametrize(
    "changes", [{}, {"buckets": True}, {"random_crops": 2, "random_flip": True, "buckets": True}, {"random_flip": True}]
)
def test_each_view_is_told_what_was_cut_out_of_its_picture(
    parts: PipelineParts, settings: TrainSettings, changes: dict[str, object]
) -> None:
    from systolora.training.sources import find_data

    settings = replace(settings, **changes)  # type: ignore[arg-type]
    data = encode_data(parts, settings)
    plan = plan_pictures(find_data(Path(settings.data), settings)[0], settings, RESOLUTION, parts.vae_factor)
    assert len(data.buckets) == (4 if settings.buckets else 1)
    corners = set()
    for bucket in data.buckets:
        told, factor = bucket.added["time_ids"], parts.vae_factor
        views = max(1, settings.random_crops) * (1 + settings.random_flip)
        assert told.shape == (views, len(bucket.pictures), 6) and len(bucket.mean) == views
        for column, number in enumerate(bucket.pictures):
            planned = plan.pictures[number]
            for row, view in enumerate(planned.views):
                height, width, top, left, *target = told[row, column].tolist()
                assert (width, height) == planned.own
                assert target == [factor * side for side in bucket.mean.shape[-2:]] == list(planned.size[::-1])
                scale = max(target[0] / height, target[1] / width)
                assert 0 <= top <= round(height * scale) - target[0] and 0 <= left <= round(width * scale) - target[1]
                corners.add((number, view.mirrored, top, left))
                again = _encoded(parts, settings, planned.picture.path, planned.size, view.place, view.mirrored)
                torch.testing.assert_close(bucket.mean[row, column], again, rtol=1e-4, atol=1e-5)
    assert len(corners) >= (8 if settings.random_crops else 4)


def _encoded(
    parts: PipelineParts,
    settings: TrainSettings,
    path: Path,
    size: tuple[int, int],
    place: tuple[float, float],
    flip: bool,
) -> torch.Tensor:
    from systolora.models.encoding import encode_pictures

    pixels = torch.from_numpy(load_picture(path, size, place=place))[None]
    return encode_pictures(parts.vae, pixels.flip(-1) if flip else pixels)[0][0]


def test_a_second_run_from_the_cache_has_the_bits_of_the_first(
    parts: PipelineParts, settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(
        settings,
        **{"model": "m", "cache_dir": str(tmp_path / "cache"), "buckets": True, "random_flip": True, "random_crops": 1},
        **{"caption_dropout": 0.5, "steps": 2, "learning_rate": 0.02, "checkpoint_every": 0, "report_to": "none"},
    )
    adapters = []
    for name in ("first", "second"):
        trainer = Trainer(
            replace(settings, output=str(tmp_path / name)), replace(parts, unet=copy.deepcopy(parts.unet))
        )
        trainer.run()
        trainer.close()
        adapters.append(load_file(tmp_path / name / ADAPTER_FILE))
        # Nothing is encoded the second time.
        for part in (parts.vae, parts.text_encoder, parts.pipe.text_encoder_2):
            monkeypatch.setattr(part, "encode" if part is parts.vae else "forward", None)
    assert "10 encodings were in" in trainer.notes[-1] and "0 were made" in trainer.notes[-1]
    assert all(torch.equal(value, adapters[1][key]) for key, value in adapters[0].items())
