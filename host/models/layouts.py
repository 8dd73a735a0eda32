"""The pipelines that `train` takes, as folders: of which classes they are, which parts they have, and which part is trained."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """The folder of a family's pipelines.

    Attributes:
        title: of the family. pipelines: classes of diffusers that its folders name. trained: the part that gets the adapter.
        model_class: of that part. text: pairs of tokenizer and text encoder. optional: parts that a folder may leave out.
        keeps_peft: whether the pipelines cannot load a LoRA themselves, so that it is also written in peft's own form.
    """

    title: str
    pipelines: tuple[str, ...]
    trained: str
    model_class: str
    text: tuple[tuple[str, str], ...]
    optional: frozenset[str] = field(default=frozenset())
    keeps_peft: bool = False

    @property
    def parts(self) -> dict[str, tuple[str, bool]]:
        """By name: the file that the part must have, and whether it has weights. Which files a tokenizer has differs by version."""
        models = [self.trained, "vae", *(encoder for _, encoder in self.text)]
        return {
            **dict.fromkeys(models, ("config.json", True)),
            **{tokenizer: ("", False) for tokenizer, _ in self.text},
            "scheduler": ("scheduler_config.json", False),
        }


_CLIP = ("tokenizer", "text_encoder")
_SECOND = ("tokenizer_2", "text_encoder_2")
_THIRD = ("tokenizer_3", "text_encoder_3")

SD_LAYOUT = Layout(
    "Stable Diffusion 1.x and 2.x", ("StableDiffusionPipeline",), "unet", "UNet2DConditionModel", (_CLIP,)
)
SDXL_LAYOUT = Layout(
    "Stable Diffusion XL", ("StableDiffusionXLPipeline",), "unet", "UNet2DConditionModel", (_CLIP, _SECOND)
)
PIXART_LAYOUT = Layout(
    "PixArt-Alpha and Sigma",
    ("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
    "transformer",
    "PixArtTransformer2DModel",
    (_CLIP,),
    keeps_peft=True,
)
SD3_LAYOUT = Layout(
    "Stable Diffusion 3 and 3.5",
    ("StableDiffusion3Pipeline",),
    "transformer",
    "SD3Transformer2DModel",
    (_CLIP, _SECOND, _THIRD),
    optional=frozenset(_THIRD),
)
FLUX_LAYOUT = Layout("Flux.1", ("FluxPipeline",), "transformer", "FluxTransformer2DModel", (_CLIP, _SECOND))

LAYOUTS = (SD_LAYOUT, SDXL_LAYOUT, PIXART_LAYOUT, SD3_LAYOUT, FLUX_LAYOUT)
PIPELINES: dict[str, Layout] = {name: layout for layout in LAYOUTS for name in layout.pipelines}
"""Layout by the class of a pipeline."""

PARTS: tuple[str, ...] = tuple(dict.fromkeys(name for layout in LAYOUTS for name in layout.parts))
"""Every part that some pipeline has."""
