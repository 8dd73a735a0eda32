"""What a step sees does not depend on how the step is cut: into micro-batches, or among processes."""

from __future__ import annotations

import pytest
import torch
from systolora.training.batches import Batch, Bucket, EncodedPictures, draw_batch
from systolora.training.settings import TrainSettings

PICTURES = 5


def timesteps(count: int, random: torch.Generator) -> torch.Tensor:
    return torch.randint(1000, (count,), generator=random)


@pytest.fixture
def data() -> EncodedPictures:
    torch.manual_seed(0)
    mean, deviation = torch.randn(2, PICTURES, 4, 6, 6), torch.rand(2, PICTURES, 4, 6, 6)
    told, added = {"pooled": torch.randn(PICTURES, 3)}, {"time_ids": torch.rand(2, PICTURES, 6)}
    every = tuple(range(PICTURES))
    bucket = Bucket(mean, deviation, every, every, added)
    captions = tuple(f"picture {number}" for number in every)
    return EncodedPictures(
        (bucket,), torch.randn(PICTURES, 7, 8), torch.randn(7, 8), (), told, {"pooled": torch.zeros(3)}, captions
    )


def settings(batch: int, accumulation: int) -> TrainSettings:
    return TrainSettings(
        batch=batch, accumulation=accumulation, seed=3, noise_offset=0.1, caption_dropout=0.4, random_flip=True
    )


def joined(parts: list[Batch]) -> Batch:
    tensors = [torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "noise", "timesteps", "text")]
    told = {name: torch.cat([part.told[name] for part in parts]) for name in parts[0].told}
    return Batch(*tensors, told, tuple(text for part in parts for text in part.captions))


def same(first: Batch, second: Batch) -> bool:
    return (
        all(torch.equal(first.rows[name], second.rows[name]) for name in first.rows)
        and all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("latents", "noise", "timesteps"))
        and first.rows.keys() == second.rows.keys() == {"text", "pooled", "time_ids"}
        and first.captions == second.captions
    )


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_micro_batches_see_what_one_larger_batch_sees(data: EncodedPictures, batch: int) -> None:
    for step in range(3):
        whole = draw_batch(data, settings(6, 1), timesteps, step, 0)
        cut = settings(batch, 6 // batch)
        assert same(joined([draw_batch(data, cut, timesteps, step, i) for i in range(6 // batch)]), whole)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_see_what_one_process_sees(data: EncodedPictures, world: int) -> None:
    whole = draw_batch(data, settings(6, 1), timesteps, 4, 0)
    parts = [whole.part(rank, world) for rank in range(world)]
    assert same(joined(parts), whole)
    micro = settings(6 // world, world)
    assert all(same(part, draw_batch(data, micro, timesteps, 4, rank)) for rank, part in enumerate(parts))


def test_steps_differ_and_an_epoch_has_every_picture_once(data: EncodedPictures) -> None:
    one = settings(PICTURES, 1)
    first, second = (draw_batch(data, one, timesteps, step, 0) for step in range(2))
    assert not torch.equal(first.noise, second.noise)
    plain = TrainSettings(batch=PICTURES, seed=3)
    every = tuple(range(PICTURES))
    bucket = Bucket(data.buckets[0].mean[:1], torch.zeros(1, PICTURES, 4, 6, 6), every, every)
    still = EncodedPictures((bucket,), data.text, data.empty)
    for step in range(2):
        seen = draw_batch(still, plain, timesteps, step, 0).text
        assert sorted(seen[:, 0, 0].tolist()) == sorted(data.text[:, 0, 0].tolist())
