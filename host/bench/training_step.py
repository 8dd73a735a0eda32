"""One way of doing a LoRA training step on random weights: in INT8 on the emulator, in torch's bfloat16 or float32, or with torchao."""

from __future__ import annotations

import gc
import re
import time
from dataclasses import dataclass
from typing import Any

from systolora.errors import UserError

_POOL = 1 << 20


@dataclass(frozen=True)
class StepSettings:
    """What is measured.

    Attributes:
        model: a name of `model_configs`. resolution: pixels; 0 is the model's own. batch: pictures.
        rank: of the adapter on cross-attention key and value. repeats: steps that count, after one that does not.
        threads: of each process; 0 leaves it to torch. checkpointing: gradient checkpointing.
        attention_products: the INT8 step also multiplies q k^T and p v on the device.
        profile: one more step of each way tells where its time goes.
    """

    model: str = "sd15"
    resolution: int = 0
    batch: int = 1
    rank: int = 4
    repeats: int = 3
    threads: int = 0
    checkpointing: bool = False
    attention_products: bool = False
    profile: bool = False


class TrainingStep:
    """One way's model with its adapter, optimizer and inputs, all drawn from fixed seeds.

    Attributes:
        model: the denoising model. handle: of the offload, for the INT8 way.
    """

    def __init__(self, way: str, settings: StepSettings) -> None:
        import torch

        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._torch = torch
        dtype = torch.float32 if way == "fp32" else torch.bfloat16
        self.model = _random_model(settings.model, dtype)
        self.handle: Any = None
        _adapt(self.model, settings.rank)
        if way == "int8":
            self.handle = _offload(self.model, settings.attention_products)
        if way == "torchao":
            _use_torchao(self.model)
        if settings.checkpointing:
            self.model.enable_gradient_checkpointing()
        self.model.train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self._inputs, self._target = _inputs(settings, dtype)
        gc.collect()

    def run(self) -> dict[str, float]:
        """Forward, loss, backward, optimizer; how long it took, and the loss."""
        wall, cpu = time.perf_counter(), time.process_time()
        prediction = self.model(**self._inputs).sample
        loss = self._torch.nn.functional.mse_loss(prediction.float(), self._target)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "loss": float(loss.detach()),
        }


def _random_model(name: str, dtype: Any) -> Any:
    """The model with frozen random weights of deviation about 0.02, made in `dtype` at once."""
    import torch
    from systolora.models.configs import build_model, model_spec

    with torch.device("meta"):
        model = build_model(model_spec(name))
    model = model.to(dtype).to_empty(device="cpu").requires_grad_(False)
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0)) * 0.02
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(1.0 if re.search(r"norm.*weight$", key) else 0.0)
            continue
        flat = parameter.data.view(-1)
        for start in range(0, len(flat), _POOL):
            part = flat[start : start + _POOL]
            part.copy_(pool[: len(part)])
    return model


def _adapt(model: Any, rank: int) -> None:
    from peft import LoraConfig

    # As peft makes it, but for `up`: zeros would make the first step's gradients of `down` zero as well.
    model.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=["attn2.to_k", "attn2.to_v"], init_lora_weights=False)
    )


def _offload(model: Any, attention_products: bool) -> Any:
    from systolora.offloading.model import offload

    return offload(model, targets="all", release_weights=True, attention_products=attention_products)


def _use_torchao(model: Any) -> None:
    from torch import nn
    from torchao import quantize_
    from torchao.prototype.quantized_training import int8_mixed_precision_training

    def frozen(module: Any, name: str) -> bool:
        return type(module) is nn.Linear and "lora_" not in name

    quantize_(model, int8_mixed_precision_training(module_swap=True), filter_fn=frozen)


def _inputs(settings: StepSettings, dtype: Any) -> tuple[dict[str, Any], Any]:
    import torch
    from systolora.models.configs import model_spec

    spec = model_spec(settings.model)
    if spec.class_name != "UNet2DConditionModel" or "addition_embed_type" in spec.config:
        raise UserError(f"bench step: {settings.model} takes more inputs than latents and text; use sd15 or sd21")
    side = (settings.resolution or spec.resolution) // spec.cell
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(settings.batch, 4, side, side, generator=generator)
    text = torch.randn(settings.batch, spec.tokens, spec.config["cross_attention_dim"], generator=generator)
    inputs = {
        "sample": latents.to(dtype),
        "timestep": torch.full((settings.batch,), 500),
        "encoder_hidden_states": text.to(dtype),
    }
    return inputs, torch.randn(latents.shape, generator=generator)
