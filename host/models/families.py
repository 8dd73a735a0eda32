"""All families that `train` knows, by the layout of their folders."""

from __future__ import annotations

from .family import Family
from .flux import FLUX
from .layouts import Layout
from .pixart import PIXART
from .sd3 import SD3
from .sdxl import SDXL
from .stable_diffusion import STABLE_DIFFUSION

FAMILIES = (STABLE_DIFFUSION, SDXL, PIXART, SD3, FLUX)


def family_of(layout: Layout) -> Family:
    """The family whose folders have a layout."""
    return next(family for family in FAMILIES if family.layout == layout)
