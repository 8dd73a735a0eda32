"""Which picture files are read: what Pillow reads itself, without starting a program or opening further files."""

from __future__ import annotations

from PIL import Image

FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "PPM", "QOI", "PCX", "SGI"),
    *("ICO", "DDS", "PSD", "TGA"),  # a TGA has no mark at its beginning, so it is tried last
)
"""What a file may hold, whatever its name says. Of Pillow's other formats some start programs (EPS), open further files (FPX), are
stubs (WMF, HDF5) or have endings that other files have too (SPIDER, IM, XBM)."""


def readable_formats() -> list[str]:
    """Those of `FORMATS` that the installed Pillow can read: AVIF and WEBP depend on how it was built."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def picture_suffixes() -> frozenset[str]:
    """Endings, in lower case and with the dot, of the files that are taken for pictures."""
    known = set(readable_formats())
    known |= {"MPO"}  # what phones write into a JPEG; opened as one
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)
