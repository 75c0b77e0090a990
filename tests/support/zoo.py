"""Models to test against that are not ours: torchvision's, with random weights and no download."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn


@cache
def torchvision_models() -> Any:
    """The module ``torchvision.models``; its compiled operations are declared if missing.

    A torchvision wheel whose extension does not load still has every classifier; its import only
    needs the names of two operations to exist.
    """
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.models

    return torchvision.models


_LIBRARY = torch.library.Library("torchvision", "DEF")
_FIXED_SIZE = {"vit_h_14": 224, "maxvit_t": 224, "inception_v3": 75, "googlenet": 64}
_SMALLEST = {"alexnet": 64, "vgg": 32, "squeezenet": 64, "vit": 224, "densenet": 32, "swin": 64}


def classifier_names() -> list[str]:
    """Names of all classifiers of torchvision."""
    models = torchvision_models()
    return [str(n) for n in models.list_models(module=models)]


def image_size(name: str) -> int:
    """A small image that the classifier called ``name`` takes."""
    if name in _FIXED_SIZE:
        return _FIXED_SIZE[name]
    return next((s for prefix, s in _SMALLEST.items() if name.startswith(prefix)), 64)


def classifier(name: str, *, seed: int = 0) -> nn.Module:
    """A classifier of torchvision in eval mode, with random weights that leave nothing muted.

    The head of ViT and the layer scales of ConvNeXt start near zero, which would hide errors.
    """
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        extra = {"init_weights": False}
    torch.manual_seed(seed)
    model: nn.Module = torchvision_models().get_model(name, weights=None, **extra).eval()
    unmute(model)
    return model


def unmute(model: nn.Module) -> None:
    """Re-randomise what starts near zero, in place."""
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("layer_scale"):
                parameter.fill_(1.0)
            if path.startswith("heads.head."):
                parameter.normal_(0.0, 0.02)


def randomize_batch_norm(model: nn.Module, *, seed: int = 0) -> None:
    """Give batch norms statistics as after training: mean N(0, 0.1), variance U(0.5, 1.5)."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
