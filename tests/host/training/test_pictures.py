"""Reading pictures: upright, on a background, of any depth, and one line for each kind of broken file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from systolora.errors import UserError
from systolora.training.pictures import load_picture, parse_colour

from .examined import check_pictures

GREEN = (0, 128, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (40, 20), colour).save(tmp_path / name)
    return tmp_path


def levels(path: Path, size: int = 16, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """The picture's values from 0 to 255, [3, size, size]."""
    return (load_picture(path, size, background) + 1) * 127.5


def test_a_picture_is_its_centred_square_in_minus_one_to_one(folder: Path) -> None:
    picture = load_picture(folder / "a.png", 16)
    assert picture.shape == (3, 16, 16) and picture.dtype == np.float32
    assert np.allclose(picture[0], 1, atol=0.02) and np.allclose(picture[1:], -1, atol=0.02)


def test_a_broken_picture_is_named(folder: Path) -> None:
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:40])
    with pytest.raises(UserError, match="a.png: cannot be read as a picture"):
        load_picture(folder / "a.png", 16)


RAMP = (np.arange(256).reshape(16, 16) * 257).astype(np.uint16)
"""Each 16-bit level that is an 8-bit one."""


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_greyscale_keeps_its_levels(tmp_path: Path, name: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / name)
    assert Image.open(tmp_path / name).mode.startswith("I;16")
    np.testing.assert_allclose(levels(tmp_path / name), np.broadcast_to(RAMP / 257, (3, 16, 16)), atol=1e-3)


def test_32_bit_integers_and_floats_have_a_range_of_their_own(tmp_path: Path) -> None:
    expected = np.broadcast_to(RAMP / 257, (3, 16, 16))
    Image.fromarray(RAMP.astype(np.int32)).save(tmp_path / "integers.tif")
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(tmp_path / "floats.tif")
    for name, mode in (("integers.tif", "I"), ("floats.tif", "F")):
        assert Image.open(tmp_path / name).mode == mode
        np.testing.assert_allclose(levels(tmp_path / name), expected, atol=1e-3)


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_greyscale_out_of_its_range_is_refused(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a.tif: .*greyscale values from .* where 0 to 1 are taken"):
        load_picture(tmp_path / "a.tif", 4)


def test_a_16_bit_picture_is_resampled_without_leaving_the_range(tmp_path: Path) -> None:
    Image.fromarray(np.repeat([[0, 65535]], 64, 0).repeat(32, 1).astype(np.uint16)).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png", 23)
    assert picture.min() == -1 and picture.max() == 1


def write_transparent(path: Path, mode: str) -> None:
    """Left half opaque grey 40, right half fully transparent over a hidden level of 200."""
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:, :8] = (40, 40, 40, 255)
    rgba[:, 8:] = (200, 200, 200, 0)
    if mode in ("RGBA", "LA"):
        Image.fromarray(rgba).convert(mode).save(path)
    elif mode == "P":
        picture = Image.fromarray((rgba[..., 0] == 200).astype(np.uint8), "P")
        picture.putpalette([40, 40, 40, 200, 200, 200])
        picture.save(path, transparency=1)
    elif mode == "I;16":
        Image.fromarray(rgba[..., 0].astype(np.uint16) * 257).save(path)
        _insert_transparency(path, struct.pack(">H", 200 * 257))
    else:
        Image.fromarray(rgba[..., :3]).convert(mode).save(path, transparency=200 if mode == "L" else (200, 200, 200))


def _insert_transparency(path: Path, content: bytes) -> None:
    """Puts a tRNS chunk into a PNG: Pillow cannot write one at 16 bits."""
    data = path.read_bytes()
    at = data.index(b"IDAT") - 4
    chunk = b"tRNS" + content
    path.write_bytes(
        data[:at] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_transparent_pixels_show_the_background_not_their_hidden_colour(tmp_path: Path, mode: str) -> None:
    write_transparent(tmp_path / "a.png", mode)
    assert Image.open(tmp_path / "a.png").mode == mode
    for background in ((255, 255, 255), GREEN):
        found = levels(tmp_path / "a.png", 16, background)
        np.testing.assert_allclose(found[:, :, :8], 40, atol=0.01)
        np.testing.assert_allclose(found[:, 0, 8:], np.repeat(np.array(background)[:, None], 8, 1), atol=0.01)


def test_half_transparent_is_half_background(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_allclose(levels(tmp_path / "a.webp", 8), 127, atol=1)


def test_opaque_alpha_changes_no_bit(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "plain.png")
    Image.fromarray(np.dstack([colours, np.full((30, 40), 255, np.uint8)])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(load_picture(tmp_path / "plain.png", 16), load_picture(tmp_path / "alpha.png", 16))


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 16), "black")
    picture.paste("white", (0, 0, 16, 16))  # the left half
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = load_picture(tmp_path / "a.jpg", 16)
    assert found[:, 1].mean() > 0.9 and found[:, -2].mean() < -0.9


def test_cmyk_becomes_the_colour_that_it_stands_for(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    np.testing.assert_allclose(levels(tmp_path / "a.jpg").mean((1, 2)), [255, 0, 0], atol=6)


def test_of_an_animation_the_first_picture_is_taken_and_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "b.png", "c.webp", "d.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    Image.new("RGB", (8, 8)).save(tmp_path / "e.gif")
    frames[0].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=frames[1:])
    notes = check_pictures(sorted(tmp_path.iterdir()))
    assert notes == ["the first picture is taken of files that hold several: a.gif, b.png, c.webp and 1 more"]
    np.testing.assert_allclose(levels(tmp_path / "b.png", 8).mean((1, 2)), [255, 0, 0], atol=0.01)


def png(width: int, height: int) -> bytes:
    """A PNG of one bit per pixel that claims a size and holds nothing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def whole(kind: str) -> bytes:
    """A file that Pillow reads."""
    import io

    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


BROKEN = {
    "text.png": b"no picture",
    "empty.png": b"",
    "bomb.png": png(60000, 60000),
    "no-width.png": png(0, 10),
    "no-rows.png": png(10, 10),
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    **{
        f"half.{kind.lower()}": whole(kind)[: len(whole(kind)) // 2]
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_kind_of_broken_file_gets_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    for read in (lambda: check_pictures([path]), lambda: load_picture(path, 8)):
        with pytest.raises(UserError, match=f"{name}: cannot be read as a picture") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_random_damage_is_read_or_named(tmp_path: Path, kind: str) -> None:
    good, random = whole(kind), np.random.default_rng(1)
    path = tmp_path / "a.png"
    for _ in range(40):
        damaged = bytearray(good)
        for place in random.integers(0, min(len(good), 600), 4):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            assert load_picture(path, 8).shape == (3, 8, 8)
        except UserError as error:
            assert "a.png: cannot be read as a picture" in str(error)


def test_all_broken_pictures_are_named_at_once(folder: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a.png: cannot be read .*; the same holds for b.jpg"):
        check_pictures([folder / "a.png", folder / "b.jpg"])


def test_a_large_camera_picture_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)  # Pillow warns above, refuses above twice
    assert check_pictures([tmp_path / "a.png"]) == [] and load_picture(tmp_path / "a.png", 8).shape == (3, 8, 8)
    assert not recwarn.list


def test_colours_are_names_or_hexadecimal() -> None:
    assert parse_colour("white") == (255, 255, 255) and parse_colour("#008000") == GREEN
    for text in ("", "whitish", "#12"):
        with pytest.raises(UserError, match="--background .*: give a colour's name"):
            parse_colour(text)
