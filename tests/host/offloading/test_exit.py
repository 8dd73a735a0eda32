"""The interpreter's end with an offload still open: nothing is printed, whatever is collected after the modules' names are gone."""

from __future__ import annotations

import subprocess
import sys

HELD = """
import builtins, ctypes, string, sys
import torch, systolora
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.conv = nn.Conv2d(4, 4, 3)
        self.processor = None

    def forward(self, x, image):
        y = nn.functional.scaled_dot_product_attention(self.to_q(x), self.to_k(x), self.to_v(x))
        return y.sum() + self.conv(image).sum()

torch.manual_seed(0)
model = nn.ModuleDict({"attn": Block()}).requires_grad_(False)
inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_k"]), model)
x, image = torch.randn(2, 5, 16).requires_grad_(), torch.randn(1, 4, 6, 6)
HANDLE = systolora.offload(model, targets="all", attention_products=True)
y = model["attn"](x, image)
y.backward()
graph = model["attn"](x, image)
result = model["attn"].to_q(x)
cycle = [graph, result]
cycle.append(cycle)
string.kept = [model, graph, result, x, HANDLE]
builtins.kept = model["attn"].to_k(x)
sys.kept = model["attn"].to_k(x)
"""
# A C extension that keeps modules alive, as torch does with some: then their names are taken away while leases still live.
SURVIVORS = """
survivors = dict(sys.modules)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(survivors))
"""


def test_nothing_is_printed_at_the_end() -> None:
    command = [sys.executable, "-c", HELD + SURVIVORS]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
