from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from tools import networks


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
