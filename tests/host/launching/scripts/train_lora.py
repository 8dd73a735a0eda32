"""Trains a LoRA in the way of diffusers' example scripts: argparse, accelerate, its own loop. It knows nothing of systolora."""

import argparse
import json
import math
import os

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file


class PlainSgd(torch.optim.Optimizer):
    """An optimizer that the script defines itself."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-group["lr"])


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=2e-2)
    parser.add_argument("--optimizer", choices=["adamw", "own"], default="adamw")
    parser.add_argument("--prepare", choices=["first", "last", "never"], default="last")
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--targets", nargs="+", default=["to_q", "to_k", "to_v", "to_out.0"])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_unet():
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def main():
    args = parse_args()
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
    )
    set_seed(args.seed)
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000)
    unet = make_unet()
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=args.rank, lora_alpha=args.rank, init_lora_weights="gaussian", target_modules=args.targets)
    )
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if args.prepare == "first":
        unet = accelerator.prepare(unet)
    lora_layers = [p for p in unet.parameters() if p.requires_grad]
    if args.optimizer == "own":
        optimizer = PlainSgd(lora_layers, args.learning_rate)
    else:
        optimizer = torch.optim.AdamW(lora_layers, lr=args.learning_rate)
    lr_scheduler = get_scheduler("constant", optimizer=optimizer)
    if args.prepare == "first":
        optimizer, lr_scheduler = accelerator.prepare(optimizer, lr_scheduler)
    elif args.prepare == "last":
        unet, optimizer, lr_scheduler = accelerator.prepare(unet, optimizer, lr_scheduler)

    generator = torch.Generator().manual_seed(args.seed + accelerator.process_index)
    latents = torch.randn(4, 4, 8, 8, generator=generator)
    text = torch.randn(4, 5, 24, generator=generator)
    losses = []
    for _ in range(args.steps):
        for _ in range(args.gradient_accumulation_steps):
            with accelerator.accumulate(unet):
                noise = torch.randn(latents.shape, generator=generator)
                timesteps = torch.randint(0, 1000, (4,), generator=generator)
                noisy = noise_scheduler.add_noise(latents, noise, timesteps)
                with accelerator.autocast():
                    prediction = unet(noisy, timesteps, text).sample
                loss = F.mse_loss(prediction.float(), noise)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(lora_layers, 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
        losses.append(accelerator.gather(loss.detach()).mean().item())
    assert all(math.isfinite(loss) for loss in losses)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        os.makedirs(args.output_dir, exist_ok=True)
        unet = accelerator.unwrap_model(unet)
        state = {name: value.contiguous() for name, value in get_peft_model_state_dict(unet).items()}
        save_file(state, os.path.join(args.output_dir, "adapter.safetensors"))
        with open(os.path.join(args.output_dir, "losses.json"), "w") as file:
            json.dump(losses, file)
    accelerator.end_training()


if __name__ == "__main__":
    main()
