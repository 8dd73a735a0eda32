"""The drawn world: determinism, captions, what the words do to the pixels, the image folder, the tiling."""

import json
import random

import numpy as np
import pytest
from PIL import Image
from systolora.demo.scribbles import make_scribbles
from systolora.demo.sprites import (
    BACKGROUNDS,
    BASE_SHAPES,
    COLOURS,
    CONCEPTS,
    SHAPES,
    Sprite,
    draw_sprite,
    full_caption,
    make_sprites,
    random_caption,
    tile_pictures,
    write_image_folder,
)


def test_same_seed_same_bytes_and_other_seed_other_bytes():
    first, again, other = make_sprites(50, 3), make_sprites(50, 3), make_sprites(50, 4)
    assert first.pictures.tobytes() == again.pictures.tobytes()
    assert (first.captions, first.sprites) == (again.captions, again.sprites)
    assert first.pictures.tobytes() != other.pictures.tobytes()


def test_a_longer_set_starts_with_the_shorter_one():
    assert np.array_equal(make_sprites(30, 5).pictures[:10], make_sprites(10, 5).pictures)


def test_concepts_are_never_drawn_unless_asked_for():
    assert len(CONCEPTS) >= 3
    assert not set(BASE_SHAPES) & set(CONCEPTS)
    assert {sprite.shape for sprite in make_sprites(500, 0).sprites} == set(BASE_SHAPES)
    captions = " ".join(make_sprites(500, 0).captions)
    assert not any(concept in captions for concept in CONCEPTS)
    assert {sprite.shape for sprite in make_sprites(50, 0, ("robot",)).sprites} == {"robot"}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_shows_its_colour_on_its_background(shape):
    for colour in COLOURS:
        for background in BACKGROUNDS:
            picture = draw_sprite(Sprite(shape, colour, background, "big"), random.Random(1)).astype(int)
            corner_error = np.abs(picture[0, 0] - BACKGROUNDS[background]).max()
            # Each channel is jittered by at most 10 levels, plus rounding.
            assert corner_error <= 11, (colour, background)
            nearest = np.abs(picture - np.array(COLOURS[colour])).max(-1).min()
            assert nearest <= 11, (colour, background)


def test_shapes_differ_in_their_pixels():
    drawn = {s: draw_sprite(Sprite(s, "red", "black", "big"), random.Random(1)).astype(int) for s in SHAPES}
    for shape in SHAPES:
        for other in SHAPES:
            if shape != other:
                assert np.abs(drawn[shape] - drawn[other]).mean() > 3, (shape, other)


def test_big_covers_more_than_small_and_stays_inside():
    def covered(size: str, seed: int) -> int:
        picture = draw_sprite(Sprite("square", "white", "black", size), random.Random(seed))
        assert max(picture[0].max(), picture[-1].max(), picture[:, 0].max(), picture[:, -1].max()) < 60
        return int((picture.min(-1) > 128).sum())

    assert min(covered("big", seed) for seed in range(20)) > max(covered("small", seed) for seed in range(20))


def test_full_caption_says_everything_and_takes_a_made_up_name():
    sprite = Sprite("heart", "cyan", "mint", "small")
    assert full_caption(sprite) == "a small cyan heart on a mint background"
    assert full_caption(sprite, "zyx") == "a small cyan zyx on a mint background"


def test_random_captions_always_name_the_shape_and_sometimes_leave_facts_out():
    sprite = Sprite("star", "red", "navy", "big")
    captions = [random_caption(sprite, random.Random(seed)) for seed in range(300)]
    assert all(" star" in caption for caption in captions)
    assert 0.4 < sum(caption == full_caption(sprite) for caption in captions) / 300 < 0.7
    assert len(set(captions)) == 5


def test_made_up_words_stand_for_the_shape_in_their_share_of_the_captions():
    drawn = make_sprites(1000, 0, full_captions=True, made_up_share=0.25)
    unknown = [c for c, s in zip(drawn.captions, drawn.sprites, strict=True) if f" {s.shape} " not in c]
    assert 0.2 < len(unknown) / 1000 < 0.3
    words = {caption.split()[3] for caption in unknown}
    assert len(words) > 0.9 * len(unknown)
    assert not words & set(SHAPES)
    assert all(word.isalpha() and word.islower() and 3 <= len(word) <= 9 for word in words)


def test_choices_are_kept_to():
    drawn = make_sprites(80, 0, ("heart",), ("red", "blue"), ("black",), full_captions=True)
    assert {s.colour for s in drawn.sprites} == {"red", "blue"}
    assert {s.background for s in drawn.sprites} == {"black"}
    assert list(drawn.captions) == [full_caption(s) for s in drawn.sprites]


def test_scribbles_are_deterministic_and_can_take_a_sprites_colours():
    free, inked = make_scribbles(40, 1), make_scribbles(40, 1, sprite_colours=True)
    assert free.shape == inked.shape == (40, 16, 16, 3)
    assert np.array_equal(free, make_scribbles(40, 1))
    # One ink on one ground: the red channel takes few values where strokes do not mix at their edges.
    assert np.mean([len(np.unique(p)) for p in inked]) < np.mean([len(np.unique(p)) for p in free])


def test_image_folder_holds_the_pictures_and_their_captions(tmp_path):
    drawn = make_sprites(7, 2)
    folder = write_image_folder(tmp_path / "new" / "folder", drawn)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == list(drawn.captions)
    for line, picture in zip(lines, drawn.pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / line["file_name"])), picture)


def test_image_folder_is_not_written_over(tmp_path):
    write_image_folder(tmp_path, make_sprites(1, 0))
    with pytest.raises(ValueError, match="exists"):
        write_image_folder(tmp_path, make_sprites(2, 0))


def test_tiling_places_every_picture():
    pictures = make_sprites(5, 0).pictures
    sheet = np.asarray(tile_pictures(pictures, columns=3, scale=2, gap=1))
    assert sheet.shape == (2 * (2 * 17 + 1), 2 * (3 * 17 + 1), 3)
    small = sheet[::2, ::2]
    assert np.array_equal(small[1:17, 1:17], pictures[0])
    assert np.array_equal(small[18:34, 18:34], pictures[4])
    assert (small[18:34, 35:51] == 255).all()
    assert (small[0] == 255).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sprite("dragon", "red", "black", "big"), "shape 'dragon'.*circle"),
        (lambda: Sprite("star", "beige", "black", "big"), "colour 'beige'.*red"),
        (lambda: Sprite("star", "red", "lawn", "big"), "background 'lawn'.*navy"),
        (lambda: Sprite("star", "red", "black", "huge"), "size 'huge'.*small"),
        (lambda: make_sprites(-1, 0), "count is -1"),
        (lambda: make_sprites(1, 0, shapes=()), "shapes is empty"),
        (lambda: tile_pictures(np.zeros((0, 16, 16, 3), np.uint8), 4), "tiling needs uint8"),
        (lambda: tile_pictures(np.zeros((2, 16, 16, 3)), 4), "tiling needs uint8"),
    ],
)
def test_bad_input_gets_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
