"""`TrainSettings`: all that a training run depends on. The command line, the YAML file and the saved adapter share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from systolora.errors import UserError
from systolora.intlora.settings import IntLoraSettings, parse_remedies
from systolora.options import setting

CHOICES: dict[str, tuple[str, ...]] = {
    "targets": ("kv", "attention", "linear", "all"),
    "adapt": ("", "kv", "attention"),
    "precision": ("int8", "float32"),
    "backend": ("emulator", "csim", "board"),
    "schedule": ("constant", "linear", "cosine", "constant_with_warmup"),
    "weight_scales": ("tensor", "channel"),
    "rounding": ("nearest", "stochastic"),
    "method": ("lora", "intlora-mul", "intlora-shift"),
}
"""Allowed values of the settings that are names."""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one fine-tuning run; each is an option of `systolora train` and a key of its YAML file."""

    model: str = setting("", "folder of a Stable Diffusion pipeline, as diffusers saves it")
    data: str = setting("", "folder of pictures with captions: metadata.jsonl, or NAME.txt beside each picture")
    output: str = setting("", "folder for the adapter, checkpoints and log")
    prompt: str = setting("", "one caption for all pictures that have none of their own")
    rank: int = setting(4, "rank of the adapter")
    alpha: float = setting(0.0, "scaling is alpha / rank; 0 means alpha = rank")
    targets: str = setting(
        "kv",
        "layers that run on the device: kv (cross-attention key and value), attention, linear, all (convolutions too)",
    )
    adapt: str = setting("", "layers that get an adapter: kv, attention; empty means kv for targets kv, else attention")
    steps: int = setting(1000, "optimizer steps")
    batch: int = setting(1, "pictures per micro-batch, over all processes")
    accumulation: int = setting(1, "micro-batches per optimizer step")
    learning_rate: float = setting(1e-4, "peak learning rate")
    schedule: str = setting("constant", "learning rate schedule")
    warmup: int = setting(0, "steps of linear warm-up")
    weight_decay: float = setting(1e-2, "AdamW weight decay")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm; 0 turns it off")
    seed: int = setting(0, "of the adapter's first values, the order of pictures, noise and stochastic rounding")
    resolution: int = setting(0, "pixels of the square that pictures are cropped to; 0 means the model's own")
    background: str = setting("white", "colour behind transparent pixels: a name or #rrggbb")
    random_flip: bool = setting(False, "mirror pictures at random")
    snr_gamma: float = setting(0.0, "min-SNR loss weight; 0 turns it off")
    noise_offset: float = setting(0.0, "strength of noise that is constant over a picture")
    caption_dropout: float = setting(0.0, "share of captions replaced by the empty one")
    precision: str = setting("int8", "int8: GEMMs of the adapted layers run on the device; float32: all in torch")
    backend: str = setting("emulator", "device: emulator, csim, board")
    board: str = setting("", "preset of the array (systolora boards); empty means 64 x 64")
    emulated_board: str = setting("", "with --backend board: run the real driver on this emulated board")
    weight_scales: str = setting("tensor", "one scale per weight tensor (the CDM-QTA paper), or per output channel")
    rounding: str = setting("nearest", "of gradients: nearest or stochastic")
    method: str = setting("lora", "lora, or IntLoRA's integer weights: intlora-mul, intlora-shift (docs/intlora.md)")
    bits: int = setting(8, "IntLoRA: bits of the frozen weights and of the adaptation term, 2 to 8")
    remedies: str = setting("all", "IntLoRA: all, none (the paper's form), or some of zeros,scale,range,headroom")
    intlora_auxiliary: str = setting(
        "laplace", "IntLoRA: distribution of the auxiliary matrix: laplace, normal, uniform"
    )
    intlora_spread: float = setting(0.5, "IntLoRA: Laplace's b, the normal deviation, or half the uniform width")
    intlora_ratio: str = setting(
        "", "IntLoRA: variance matching by variance (the paper), range (its code); empty: range for --remedies none"
    )
    intlora_exponent: float = setting(1.5, "IntLoRA: exponent of variance matching")
    intlora_symmetric: bool = setting(False, "IntLoRA: frozen weights without zero point")
    intlora_refresh: int = setting(0, "IntLoRA: steps after which its quantizers are searched anew; 0 never")
    intlora_headroom: float = setting(
        0.0, "IntLoRA, remedy headroom: share of the weights' deviation; 0 chooses by bits"
    )
    gradient_checkpointing: bool = setting(False, "keep fewer activations, compute them twice")
    checkpoint_every: int = setting(500, "steps between checkpoints; 0 turns them off")
    keep_checkpoints: int = setting(2, "how many of the newest checkpoints stay")
    resume: bool = setting(False, "go on from the newest checkpoint in the output folder")
    threads: int = setting(0, "CPU threads; 0 leaves it to torch")

    @property
    def lora_alpha(self) -> float:
        """The adapter's alpha: as given, or the rank."""
        return self.alpha or float(self.rank)

    @property
    def adapted(self) -> str:
        """Which layers get an adapter: `adapt`, or what goes with `targets`."""
        return self.adapt or ("kv" if self.targets == "kv" else "attention")

    @property
    def intlora(self) -> IntLoraSettings:
        """The settings of the integers, for the methods that have them.

        Raises:
            UserError: for a value that is not allowed.
        """
        remedies = parse_remedies(self.remedies)
        return IntLoraSettings(
            method=self.method.removeprefix("intlora-"),
            bits=self.bits,
            seed=self.seed,
            distribution=self.intlora_auxiliary,
            spread=self.intlora_spread,
            ratio=self.intlora_ratio or ("variance" if remedies else "range"),
            exponent=self.intlora_exponent,
            symmetric=self.intlora_symmetric,
            remedies=remedies,
            refresh_every=self.intlora_refresh,
            headroom=self.intlora_headroom,
        )

    def as_dict(self) -> dict[str, Any]:
        """Name to value, for files."""
        return asdict(self)


_POSITIVE = ("rank", "steps", "batch", "accumulation", "learning_rate", "keep_checkpoints")
_NOT_NEGATIVE = (
    *("alpha", "warmup", "weight_decay", "max_grad_norm", "resolution", "snr_gamma", "noise_offset"),
    *("checkpoint_every", "threads", "seed"),
)
_REQUIRED = {"model": "a pipeline folder", "data": "a picture folder", "output": "a folder to write to"}
# What may differ between a run and its continuation.
RESUME_FREE = frozenset(
    {"resume", "steps", "checkpoint_every", "keep_checkpoints", "threads", "output", "backend", "emulated_board"}
)


def check_settings(settings: TrainSettings) -> TrainSettings:
    """The settings, if all are allowed.

    Raises:
        UserError: naming the first setting that is not.
    """
    for name, what in _REQUIRED.items():
        if not getattr(settings, name):
            raise UserError(f"--{name} is missing: give {what}, on the command line or in --config")
    for name in _POSITIVE:
        if getattr(settings, name) <= 0:
            raise UserError(f"--{_option(name)} {getattr(settings, name)}: it must be larger than 0")
    for name in _NOT_NEGATIVE:
        if getattr(settings, name) < 0:
            raise UserError(f"--{_option(name)} {getattr(settings, name)}: it must not be negative")
    for name, allowed in CHOICES.items():
        if getattr(settings, name) not in allowed:
            raise UserError(f"--{_option(name)} {getattr(settings, name)!r}: allowed are {', '.join(allowed)}")
    if settings.method != "lora" and settings.targets in ("linear", "all"):
        raise UserError(f"--method {settings.method} goes with --targets kv or attention")
    if settings.method != "lora":
        _ = settings.intlora  # refuses what is not allowed
    else:
        _check_no_intlora(settings)
    if not 0 <= settings.caption_dropout <= 1:
        raise UserError(f"--caption-dropout {settings.caption_dropout}: it is a share, from 0 to 1")
    return settings


def _check_no_intlora(settings: TrainSettings) -> None:
    """Refuses a setting of the integers, which --method lora has none of, rather than ignoring it."""
    for item in fields(TrainSettings):
        if item.name in ("bits", "remedies") or item.name.startswith("intlora_"):
            value = getattr(settings, item.name)
            if value != item.default:
                raise UserError(
                    f"--{_option(item.name)} {value}: it is for --method intlora-mul or intlora-shift, but the method is lora"
                )


def _option(name: str) -> str:
    return name.replace("_", "-")


def load_settings_file(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, by name.

    Raises:
        UserError: for a file that cannot be read, is no mapping, or names something that is no setting.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--config {path}: cannot be read as YAML: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise UserError(f"--config {path}: expected lines of 'name: value', found {type(content).__name__}")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def merge_settings(base: TrainSettings, changes: Mapping[str, Any], origin: str) -> TrainSettings:
    """`base` with the given settings changed; values are converted to the setting's type.

    Raises:
        UserError: for an unknown name or a value of the wrong type; `origin` says where it stood.
    """
    known = {item.name: type(item.default) for item in fields(TrainSettings)}
    converted: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            raise UserError(f"{origin}: there is no setting {name!r}; there are {', '.join(known)}")
        converted[name] = _convert(name, value, known[name], origin)
    return replace(base, **converted)


def _convert(name: str, value: Any, kind: type, origin: str) -> Any:
    try:
        if kind is bool and not isinstance(value, bool):
            raise ValueError
        if kind is int and isinstance(value, (bool, float)) and int(value) != value:
            raise ValueError
        return kind("" if value is None and kind is str else value)
    except (TypeError, ValueError):
        raise UserError(f"{origin}: {name} = {value!r}: expected {kind.__name__}") from None
