"""Sizes by shape: multiples of the unit, no larger than the square, the nearest shape chosen."""

from __future__ import annotations

import math

import pytest
from systolora.training.buckets import bucket_sizes, nearest_size


@pytest.mark.parametrize("resolution,unit", [(512, 64), (768, 64), (1024, 64), (1024, 32), (500, 64), (64, 16)])
def test_sizes_are_multiples_of_the_unit_and_have_about_the_pixels_of_the_square(resolution: int, unit: int) -> None:
    sizes = bucket_sizes(resolution, unit)
    assert len(sizes) == len(set(sizes)) > 2
    for width, height in sizes:
        assert width % unit == height % unit == 0 and (height, width) in sizes
        assert 0.7 * resolution**2 <= width * height <= resolution**2 or width == height
        assert resolution / 2 <= min(width, height) and max(width, height) <= 2 * resolution
    shapes = [width / height for width, height in sizes]
    assert shapes == sorted(shapes)


def test_the_sizes_of_stable_diffusion() -> None:
    sizes = bucket_sizes(512, 64)
    assert (512, 512) in sizes and (448, 576) in sizes and (384, 640) in sizes and (256, 1024) in sizes


@pytest.mark.parametrize("resolution,unit", [(16, 16), (8, 16)])
def test_a_resolution_of_one_unit_leaves_the_square(resolution: int, unit: int) -> None:
    assert bucket_sizes(resolution, unit) == [(16, 16)]


@pytest.mark.parametrize(
    "picture,expected",
    [((100, 100), (512, 512)), ((300, 400), (448, 576)), ((4000, 10), (1024, 256)), ((1, 9), (256, 1024))],
)
def test_the_nearest_shape_is_taken(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    sizes = bucket_sizes(512, 64)
    assert nearest_size(picture, sizes) == expected
    best = min(abs(math.log(width / height * picture[1] / picture[0])) for width, height in sizes)
    assert abs(math.log(expected[0] / expected[1] * picture[1] / picture[0])) == pytest.approx(best)
