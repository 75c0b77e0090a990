"""Run outside the checkout: is the installed wheel whole, and does it quantize a model?"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import torch
from torch import nn

import qfx
import qfx_passes

environment = Path(sys.argv[1]).resolve()
for package in (qfx, qfx_passes):
    origin = Path(str(package.__file__)).resolve()
    assert origin.is_relative_to(environment), f"{package.__name__} came from {origin}"
assert (Path(str(qfx.__file__)).parent / "py.typed").exists()
assert qfx.__version__ == version("qfx")

(entry,) = (entry for entry in entry_points(group="qfx.passes") if entry.name == "builtin")
declared = {kind.name for kind in entry.load()}
assert declared, "the entry point declares no passes"
assert declared <= set(qfx.list_passes())

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
images = torch.randn(2, 3, 16, 16)
quantized = qfx.quantize(model, images, progress=False)
with torch.no_grad():
    expected, output = model(images), quantized(images)
noise = (expected - output).square().sum() / expected.square().sum()
assert noise < 1e-3, f"noise to signal {noise:.2g}"

print(f"qfx {qfx.__version__}: {len(declared)} passes installed; quantized a model")
