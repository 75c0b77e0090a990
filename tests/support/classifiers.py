"""Classifiers of torchvision with few and narrow blocks, but every kind of block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from tools.networks import import_torchvision, randomise


def _resnet18() -> nn.Module:
    """The stem, a block without and one with a shortcut of its own."""
    resnet = import_torchvision().models.resnet
    model: nn.Module = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128, 10)
    return model


def _mobilenet_v2() -> nn.Module:
    """Expanded or not, with a residual or not, strided or not."""
    blocks = [[1, 8, 1, 1], [6, 8, 2, 2], [6, 16, 2, 2], [6, 24, 1, 1]]
    models = import_torchvision().models
    return models.MobileNetV2(10, width_mult=1.0, inverted_residual_setting=blocks)


def _mobilenet_v3_small() -> nn.Module:
    """With and without squeezing, of both activations, with kernels of 3 and 5; with dropout."""
    mobilenet = import_torchvision().models.mobilenetv3
    block = partial(mobilenet.InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [
        block(16, 3, 16, 16, True, "RE", 2),
        block(16, 3, 24, 16, False, "RE", 1),
        block(16, 5, 48, 24, True, "HS", 2),
        block(24, 5, 48, 24, True, "HS", 1),
    ]
    return mobilenet.MobileNetV3(blocks, last_channel=64, num_classes=10)


def _shufflenet_v2() -> nn.Module:
    """A stage: a strided unit, and one that splits."""
    model: nn.Module = import_torchvision().models.ShuffleNetV2([2, 1, 1], [8, 16, 16, 16, 32], 10)
    model.stage3 = model.stage4 = nn.Identity()
    return model


_MAKERS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": _resnet18,
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_small": _mobilenet_v3_small,
    "shufflenet_v2": _shufflenet_v2,
}


def small_classifier(name: str) -> nn.Module:
    """One of the family ``name``, in eval mode, with random weights that mute nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = _MAKERS[name]()
    randomise(model)
    return model.eval()
