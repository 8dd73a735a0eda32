"""What a step sees does not depend on how the step is cut: into micro-batches, or among processes."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from systolora.training.batches import Batch, EncodedPictures, draw_batch
from systolora.training.settings import TrainSettings

PICTURES, TIMESTEPS = 5, 1000


@pytest.fixture
def data() -> EncodedPictures:
    torch.manual_seed(0)
    mean, deviation = torch.randn(2, PICTURES, 4, 6, 6), torch.rand(2, PICTURES, 4, 6, 6)
    return EncodedPictures(mean, deviation, torch.randn(PICTURES, 7, 8), torch.randn(7, 8))


def settings(batch: int, accumulation: int) -> TrainSettings:
    return TrainSettings(
        batch=batch, accumulation=accumulation, seed=3, noise_offset=0.1, caption_dropout=0.4, random_flip=True
    )


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Batch)))


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, field.name), getattr(second, field.name)) for field in fields(Batch))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_micro_batches_see_what_one_larger_batch_sees(data: EncodedPictures, batch: int) -> None:
    for step in range(3):
        whole = draw_batch(data, settings(6, 1), TIMESTEPS, step, 0)
        cut = settings(batch, 6 // batch)
        assert same(joined([draw_batch(data, cut, TIMESTEPS, step, i) for i in range(6 // batch)]), whole)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_see_what_one_process_sees(data: EncodedPictures, world: int) -> None:
    whole = draw_batch(data, settings(6, 1), TIMESTEPS, 4, 0)
    parts = [whole.part(rank, world) for rank in range(world)]
    assert same(joined(parts), whole)
    micro = settings(6 // world, world)
    assert all(same(part, draw_batch(data, micro, TIMESTEPS, 4, rank)) for rank, part in enumerate(parts))


def test_steps_differ_and_an_epoch_has_every_picture_once(data: EncodedPictures) -> None:
    one = settings(PICTURES, 1)
    first, second = (draw_batch(data, one, TIMESTEPS, step, 0) for step in range(2))
    assert not torch.equal(first.noise, second.noise)
    plain = TrainSettings(batch=PICTURES, seed=3)
    still = EncodedPictures(data.mean[:1], torch.zeros(1, PICTURES, 4, 6, 6), data.text, data.empty)
    for step in range(2):
        seen = draw_batch(still, plain, TIMESTEPS, step, 0).text
        assert sorted(seen[:, 0, 0].tolist()) == sorted(data.text[:, 0, 0].tolist())
