"""`TrainSettings`: all that a training run depends on. The command line, the YAML file and the saved adapter share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from systolora.device import check_emulated_board
from systolora.errors import UserError
from systolora.hls.config import board_config
from systolora.intlora.settings import (
    DISTRIBUTIONS,
    LARGEST_BITS,
    RATIOS,
    SMALLEST_BITS,
    IntLoraSettings,
    parse_remedies,
)
from systolora.offloading.target_names import (
    ATTENTION_PRODUCTS_HELP,
    TARGETS,
    TRAINING_TRANSFER_TYPE,
    TRANSFER_TYPES,
    adapted_by,
)
from systolora.options import LARGEST_SEED, MOST_STEPS, check_rules, merge_settings, option_name, setting

from .data_settings import DATA as _DATA
from .data_settings import DataSettings
from .flow_settings import FlowSettings
from .optimizer_settings import OptimizerSettings
from .optimizers import check_optimizer
from .patterns import split_patterns
from .prior_settings import PriorSettings
from .run_settings import RUN_NAMES, RunSettings
from .settings_file import load_settings_file
from .token_settings import TokenSettings

_ADAPTER, _STEPS, _DEVICE, _INTEGERS, _RUN = (
    "Adapter",
    "Training",
    "Device",
    "IntLoRA",
    "Run and checkpoints",
)
"""Headings of the help."""

INTLORA_METHODS = ("intlora-mul", "intlora-shift")


@dataclass(frozen=True)
class TrainSettings(DataSettings, RunSettings, PriorSettings, TokenSettings, OptimizerSettings, FlowSettings):
    """Settings of one fine-tuning run; each is an option of `systolora train` and a key of its YAML file."""

    model: str = setting(
        "",
        "pipeline folder as diffusers saves it, .safetensors file, or hub:OWNER/NAME (families: docs/training.md)",
        group=_DATA,
        needed="a pipeline folder",
    )
    data: str = setting(
        "",
        "folder of pictures with captions: metadata.jsonl, or NAME.txt beside each picture",
        group=_DATA,
        needed="a picture folder",
    )
    output: str = setting("", "folder for the adapter, checkpoints and log", group=_DATA, needed="a folder to write to")
    prompt: str = setting("", "one caption for all pictures that have none of their own", group=_DATA)
    variant: str = setting("", "variant of the weight files, such as fp16, where a part has it", group=_DATA)
    model_config: str = setting(
        "", "for a .safetensors file: pipeline folder with its configurations and tokenizers", group=_DATA
    )
    rank: int = setting(4, "rank of the adapter", group=_ADAPTER, above=0, most=8192)
    alpha: float = setting(
        0.0, "scaling is alpha / rank; 0 means alpha = rank", group=_ADAPTER, least=0, most=1_000_000
    )
    init_from: str = setting(
        "", "a LoRA to begin with, in names of diffusers, peft or kohya; empty: random values", group=_ADAPTER
    )
    targets: str = setting(
        "kv",
        "layers that run on the device: kv (cross-attention key and value), attention, linear, all (convolutions too)",
        group=_ADAPTER,
        choices=TARGETS,
    )
    adapt: str = setting(
        "",
        "layers that get an adapter: kv, attention, linear, all (convolutions too), or patterns of names between commas, or re:REGEX; "
        "empty means kv for targets kv, else attention (IntLoRA: as targets)",
        group=_ADAPTER,
    )
    rslora: bool = setting(False, "scaling is alpha / sqrt(rank) (rank-stabilized LoRA)", group=_ADAPTER)
    train_text_encoder: bool = setting(
        False, "also adapt the attention of the CLIP text encoders, in torch", group=_ADAPTER
    )
    dropout: float = setting(
        0.0, "share of the inputs that the adapter does not see in training", group=_ADAPTER, least=0, most=0.95
    )
    attention_products: bool = setting(False, ATTENTION_PRODUCTS_HELP, group=_ADAPTER)
    steps: int = setting(1000, "optimizer steps", group=_STEPS, above=0, most=MOST_STEPS)
    batch: int = setting(1, "pictures per micro-batch, over all processes", group=_STEPS, above=0, most=65_536)
    accumulation: int = setting(1, "micro-batches per optimizer step", group=_STEPS, above=0, most=1_000_000)
    learning_rate: float = setting(1e-4, "peak learning rate", group=_STEPS, above=0, most=1000)
    seed: int = setting(
        0,
        "of the adapter's first values, the order of pictures, noise and stochastic rounding",
        group=_STEPS,
        least=0,
        most=LARGEST_SEED,
    )
    resolution: int = setting(
        0,
        "pixels of the square that pictures are cropped to; 0 means the model's own",
        group=_DATA,
        least=0,
        most=16_384,
    )
    background: str = setting("white", "colour behind transparent pixels: a name or #rrggbb", group=_DATA)
    random_flip: bool = setting(False, "mirror pictures at random", group=_DATA)
    snr_gamma: float = setting(0.0, "min-SNR loss weight; 0 turns it off", group=_STEPS, least=0, most=1_000_000)
    noise_offset: float = setting(
        0.0, "strength of noise that is constant over a picture", group=_STEPS, least=0, most=1000
    )
    caption_dropout: float = setting(0.0, "share of captions replaced by the empty one", group=_DATA, least=0, most=1)
    precision: str = setting(
        "int8",
        "int8: GEMMs of the adapted layers run on the device; float32: all in torch",
        group=_DEVICE,
        choices=("int8", "float32"),
    )
    mixed_precision: str = setting(
        "no",
        "bf16: what stays in torch computes in bfloat16 (autocast), the adapter, the optimizer and INT8 GEMMs do not; no: all in float32",
        group=_DEVICE,
        choices=("no", "bf16"),
    )
    backend: str = setting("emulator", "what runs the GEMMs", group=_DEVICE, choices=("emulator", "csim", "board"))
    board: str = setting("", "preset of the array (systolora boards); empty means 64 x 64", group=_DEVICE)
    emulated_board: str = setting("", "with --backend board: run the real driver on this emulated board", group=_DEVICE)
    weight_scales: str = setting(
        "tensor",
        "tensor: one scale per weight tensor (the CDM-QTA paper); channel: one per output channel",
        group=_DEVICE,
        choices=("tensor", "channel"),
    )
    transfer_type: str = setting(
        TRAINING_TRANSFER_TYPE,
        "in which activations and gradients cross between host and device",
        group=_DEVICE,
        choices=TRANSFER_TYPES,
    )
    rounding: str = setting("nearest", "of gradients", group=_DEVICE, choices=("nearest", "stochastic"))
    method: str = setting(
        "lora",
        "lora, or IntLoRA's integer weights: intlora-mul, intlora-shift (docs/intlora.md)",
        group=_ADAPTER,
        choices=("lora", *INTLORA_METHODS),
    )
    bits: int = setting(
        8,
        "bits of the frozen weights and of the adaptation term",
        group=_INTEGERS,
        least=SMALLEST_BITS,
        most=LARGEST_BITS,
    )
    remedies: str = setting(
        "all", "all, none (the paper's form), or some of zeros,scale,range,headroom", group=_INTEGERS
    )
    intlora_auxiliary: str = setting(
        "laplace", "distribution of the auxiliary matrix", group=_INTEGERS, choices=DISTRIBUTIONS
    )
    intlora_spread: float = setting(
        0.5, "Laplace's b, the normal deviation, or half the uniform width", group=_INTEGERS, above=0, most=1000
    )
    intlora_ratio: str = setting(
        "",
        "variance matching by variance (the paper), range (its code); empty: range for --remedies none",
        group=_INTEGERS,
        choices=("", *RATIOS),
    )
    intlora_exponent: float = setting(1.5, "exponent of variance matching", group=_INTEGERS, least=0, most=16)
    intlora_symmetric: bool = setting(False, "frozen weights without zero point", group=_INTEGERS)
    intlora_refresh: int = setting(
        0, "steps after which its quantizers are searched anew; 0 never", group=_INTEGERS, least=0, most=MOST_STEPS
    )
    intlora_headroom: float = setting(
        0.0,
        "remedy headroom: share of the weights' deviation; 0 chooses by bits",
        group=_INTEGERS,
        least=0,
        most=1000,
    )
    gradient_checkpointing: bool = setting(False, "keep fewer activations, compute them twice", group=_RUN)
    checkpoint_every: int = setting(
        500, "steps between checkpoints; 0 turns them off", group=_RUN, least=0, most=MOST_STEPS
    )
    keep_checkpoints: int = setting(2, "how many of the newest checkpoints stay", group=_RUN, above=0, most=1_000_000)
    resume: bool = setting(False, "go on from the newest checkpoint in the output folder", group=_RUN)
    threads: int = setting(0, "CPU threads; 0 leaves it to torch", group=_RUN, least=0, most=4096)

    @property
    def lora_alpha(self) -> float:
        """The adapter's alpha: as given, or the rank."""
        return self.alpha or float(self.rank)

    @property
    def adapted(self) -> str:
        """Which layers get an adapter: `adapt`, or what goes with `targets`; IntLoRA's integers are of all of them."""
        if self.method in INTLORA_METHODS:
            return self.adapt or self.targets
        return adapted_by(self.targets, self.adapt)

    @property
    def checkpoints(self) -> bool:
        """Whether the run writes any."""
        return self.checkpoint_every > 0 or self.checkpoint_minutes > 0

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


# What may differ between a run and its continuation.
RESUME_FREE = frozenset(
    {
        *("resume", "steps", "checkpoint_every", "keep_checkpoints", "threads", "output", "backend", "emulated_board"),
        *("cache_dir", *RUN_NAMES),
    }
)


def check_settings(settings: TrainSettings) -> TrainSettings:
    """The settings, if all are allowed.

    Raises:
        UserError: naming the first setting that is not.
        ConfigError: for a board that there is not.
    """
    if settings.method in INTLORA_METHODS:
        _ = settings.intlora  # refuses what is not allowed
    if settings.method == "dora":
        raise UserError(
            "--method 'dora': the device has no step for DoRA's magnitudes; train with --method lora (--rslora for large ranks), "
            "or with systolora.offload in a script of yours, where DoRA layers run in torch"
        )
    check_rules(settings)
    check_optimizer(settings.optimizer, settings.optimizer_options)
    if settings.adapt not in TARGETS and settings.adapt:
        split_patterns(settings.adapt)
    if settings.board:
        board_config(settings.board)
    check_emulated_board(settings.backend, settings.board, settings.emulated_board)
    if settings.method != "lora" and settings.targets in ("linear", "all") and settings.adapted != settings.targets:
        raise UserError(
            f"--targets {settings.targets} with --adapt {settings.adapt}: --method {settings.method} runs the adapted layers on the "
            "device and no others; leave --targets out"
        )
    for name in ("rslora", "train_text_encoder", "init_from", "modifier_token"):
        if settings.method != "lora" and getattr(settings, name):
            raise UserError(f"{option_name(name)} goes with --method lora, not {settings.method}")
    if settings.initializer_token != TrainSettings.initializer_token and not settings.modifier_token:
        raise UserError(
            f"--initializer-token {settings.initializer_token}: it goes with --modifier-token, which is missing"
        )
    if settings.modifier_token and settings.ema:
        raise UserError("--ema with --modifier-token: the mean of an embedding is not kept; leave one out")
    if not settings.class_prompt:
        for name in ("class_data", "class_images", "class_steps", "prior_weight"):
            if getattr(settings, name) != getattr(TrainSettings(), name):
                raise UserError(
                    f"{option_name(name)} {getattr(settings, name)}: it goes with --class-prompt, which is missing"
                )
    if settings.attention_products and (settings.method != "lora" or settings.precision != "int8"):
        raise UserError("--attention-products goes with --method lora and --precision int8: leave it out")
    if settings.method == "lora":
        _check_no_intlora(settings)
    elif settings.dropout or settings.ema:
        option = "--dropout" if settings.dropout else "--ema"
        raise UserError(f"{option} goes with --method lora: the integers of {settings.method} cannot follow it")
    return settings


def _check_no_intlora(settings: TrainSettings) -> None:
    """Refuses a setting of the integers, which --method lora has none of, rather than ignoring it."""
    for item in fields(TrainSettings):
        if item.name in ("bits", "remedies") or item.name.startswith("intlora_"):
            value = getattr(settings, item.name)
            if value != item.default:
                option = item.name.replace("_", "-")
                raise UserError(
                    f"--{option} {value}: it is for --method intlora-mul or intlora-shift, but the method is lora"
                )


def read_settings(config: Path | None, given: Mapping[str, Any]) -> TrainSettings:
    """The settings of a YAML file, if there is one, and of the command line, which wins; all checked.

    Raises:
        UserError: naming the first that is not allowed.
    """
    settings = TrainSettings()
    if config:
        settings = merge_settings(settings, load_settings_file(config), f"--config {config}")
    return check_settings(merge_settings(settings, given, "command line"))
