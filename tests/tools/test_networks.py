from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from tools import networks

ROOT = Path(__file__).resolve().parents[2]
DEFINES = 'lib.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")'
NEEDS = 'torch.library.register_fake("torchvision::nms")(lambda *a: None)'
LIB = 'lib = torch.library.Library("torchvision", "DEF")'
WORKING = f"import torch\n{LIB}\n{DEFINES}\nfrom . import meta, models\n"
"""A torchvision whose extension loads: it defines the operators, and may do so only once."""
BROKEN = "import torch\nfrom . import extension, meta, models\n"
"""One whose extension does not."""


def import_planted(
    path: Path, source: str, *, meta: str = NEEDS
) -> subprocess.CompletedProcess[str]:
    """What ``import_torchvision`` says in a child process that has this package."""
    package = path / "torchvision"
    package.mkdir()
    files = {
        "__init__": source,
        "extension": "",
        "meta": f"import torch\n{meta}",
        "models": "N = 7",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    program = (
        "import sys, torch\nfrom tools.networks import import_torchvision as find\n"
        "assert find() is find() is sys.modules['torchvision']\n"
        "print(find().models.N, torch.ops.torchvision.nms.default._schema.name)"
    )
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("source", [WORKING, BROKEN], ids=["extension", "no extension"])
def test_torchvision_with_and_without_its_extension(source: str, tmp_path: Path) -> None:
    found = import_planted(tmp_path, source)
    assert (found.stdout, found.stderr) == ("7 torchvision::nms\n", "")


def test_another_failure_of_torchvision_is_its_own(tmp_path: Path) -> None:
    found = import_planted(tmp_path, BROKEN, meta="raise RuntimeError('no such thing')")
    assert "RuntimeError: no such thing" in found.stderr


def test_randomise_wakes_statistics_heads_and_layer_scales() -> None:
    class Muted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(64)
            self.head = nn.Linear(4, 4)
            self.trained = nn.Linear(4, 4)
            self.layer_scale = nn.Parameter(torch.full((4, 1, 1), 1e-6))
            nn.init.zeros_(self.head.weight)

    model = Muted()
    kept = model.trained.weight.clone()
    networks.randomise(model)
    assert model.norm.running_mean is not None
    assert model.norm.running_var is not None
    assert 0.05 < model.norm.running_mean.std() < 0.2
    assert 0.5 <= model.norm.running_var.min() < model.norm.running_var.max() <= 1.5
    assert model.head.weight.any()
    assert torch.equal(model.trained.weight, kept)
    assert torch.equal(model.layer_scale, torch.ones(4, 1, 1))


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_a_classifier_of_torchvision() -> None:
    assert len(networks.classifier_names()) >= 80
    size = networks.image_size("squeezenet1_1")
    model = networks.classifier("squeezenet1_1")
    assert not model.training
    assert model(torch.randn(1, 3, size, size)).shape == (1, 1000)
    with pytest.raises(ValueError, match="no model 'resnet17'"):
        networks.classifier("resnet17")
