"""A LoRA network of kohya's kind: its modules lie outside the U-Net and take the place of its layers' forward."""

import sys

import torch
from diffusers import UNet2DConditionModel


class LoRAModule(torch.nn.Module):
    def __init__(self, name, org_module, dim=4, alpha=2):
        super().__init__()
        self.lora_name = name
        self.lora_down = torch.nn.Linear(org_module.in_features, dim, bias=False)
        self.lora_up = torch.nn.Linear(dim, org_module.out_features, bias=False)
        torch.nn.init.zeros_(self.lora_up.weight)
        self.scale = alpha / dim
        self.org_module = org_module

    def apply_to(self):
        self.org_forward = self.org_module.forward
        self.org_module.forward = self.forward
        del self.org_module

    def forward(self, x):
        return self.org_forward(x) + self.lora_up(self.lora_down(x)) * self.scale


class LoRANetwork(torch.nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet_loras = []
        for name, module in unet.named_modules():
            if type(module) is torch.nn.Linear and ".attn" in name:
                self.unet_loras.append(LoRAModule("lora_unet_" + name.replace(".", "_"), module))

    def apply_to(self):
        for lora in self.unet_loras:
            lora.apply_to()
            self.add_module(lora.lora_name, lora)


def main(steps):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16,), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=24, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    unet.requires_grad_(False)
    network = LoRANetwork(unet)
    network.apply_to()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24)
    for _ in range(steps):
        loss = (unet(x, 10, text).sample - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"loss {loss.item():.6f}")
    print(f"up {sum(lora.lora_up.weight.norm().item() for lora in network.unet_loras):.6f}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
