"""The order of pictures: a pure function of seed and number, each picture as often as any other, whatever the sizes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systolora.training.order import batch_place, generator


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    size=st.integers(1, 7),
    seed=st.integers(0, 5),
    epochs=st.integers(1, 4),
)
def test_over_whole_epochs_each_picture_comes_as_often_as_any_other(
    counts: list[int], size: int, seed: int, epochs: int
) -> None:
    # After `size` epochs every stream ends with a full batch.
    batches = sum(counts) * epochs
    seen: Counter[tuple[int, int]] = Counter()
    for number in range(batches):
        bucket, places = batch_place(counts, size, seed, number)
        assert len(places) == size
        seen.update((bucket, place) for place in places)
    assert seen == {(bucket, place): size * epochs for bucket, count in enumerate(counts) for place in range(count)}


def test_one_size_has_the_order_of_one_stream() -> None:
    count, size, seed = 5, 3, 7
    stream = [
        int(place) for epoch in range(3) for place in torch.randperm(count, generator=generator("order", seed, epoch))
    ]
    found = [place for number in range(5) for place in batch_place([count], size, seed, number)[1]]
    assert found == stream[: 5 * size]


@pytest.mark.parametrize("counts", [[1, 40], [3, 3, 3]])
def test_a_batch_depends_on_its_number_alone(counts: list[int]) -> None:
    numbers = [1000, 3, 77, 0, 1000]
    found = [batch_place(counts, 4, 1, number) for number in numbers]
    assert found[0] == found[-1]
    assert found[1:4] == [batch_place(counts, 4, 1, number) for number in numbers[1:4]]


def test_buckets_take_turns_in_an_order_of_the_seed() -> None:
    buckets = {seed: [batch_place([8, 8], 2, seed, number)[0] for number in range(8)] for seed in (0, 1)}
    assert all(sorted(order) == [0] * 4 + [1] * 4 for order in buckets.values())
    assert buckets[0] != buckets[1]
