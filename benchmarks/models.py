"""Models and data for the benchmarks: random weights, made comparable.

Nothing is downloaded. A freshly initialised network is a poor subject for quantization: batch-norm
statistics are those of the identity, and some heads and residual branches start muted, so that
their errors do not show. Both are randomised here, with fixed seeds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from benchmarks import encoder

CLASSIFIERS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "googlenet",
    "inception_v3",
    "shufflenet_v2_x1_0",
    "vgg16_bn",
    "squeezenet1_1",
    "regnet_y_400mf",
    "convnext_tiny",
    "vit_b_16",
)

_IMAGE_SIZES = {"inception_v3": 299, "toy": 16}
_shim: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision where its compiled operators are missing.

    Its Python sources register fake kernels for ``nms`` and ``qnms`` on import, which fails unless
    the operators exist; a declaration is enough for every classifier.
    """
    if not _shim and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _shim.append(library)
    return importlib.import_module("torchvision")


def image_size(name: str) -> int:
    """Edge length in pixels of the square images that the model takes."""
    return _IMAGE_SIZES.get(name, 224)


def build(name: str, *, seed: int = 0) -> nn.Module:
    """A model in eval mode with seeded random weights.

    Args:
        name: "toy" (a few convolutions, for tests of the harness), "bert_base" (an encoder of that
            shape), "bert_base_linears" (its linear layers alone), or a torchvision model.
        seed: seed of weights and batch-norm statistics.

    Raises:
        ValueError: torchvision has no model of that name.
    """
    torch.manual_seed(seed)
    model = _OWN[name]() if name in _OWN else _torchvision_model(name)
    randomise(model, seed=seed)
    return model.eval()


def images(name: str, batch: int, *, seed: int) -> Tensor:
    """Standard-normal inputs: f32[batch, 3, S, S], or f32[batch, tokens, width] for encoders."""
    generator = torch.Generator().manual_seed(seed)
    if name.startswith("bert"):
        return torch.randn(batch, encoder.TOKENS, encoder.WIDTH, generator=generator)
    size = image_size(name)
    return torch.randn(batch, 3, size, size, generator=generator)


def calibration(name: str, *, batches: int = 4, batch: int = 4) -> list[Tensor]:
    """The batches that every quantizer is calibrated with."""
    return [images(name, batch, seed=1000 + index) for index in range(batches)]


@torch.no_grad()
def randomise(model: nn.Module, *, seed: int = 0) -> None:
    """Randomise batch-norm statistics and wake what torchvision starts muted, in place.

    Running mean N(0, 0.1) and variance U(0.5, 1.5); ViT's zero head N(0, 0.02); ConvNeXt's layer
    scales (1e-6) one.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(module, nn.Linear) and not module.weight.any():
            module.weight.normal_(0, 0.02, generator=generator)
        layer_scale = getattr(module, "layer_scale", None)
        if isinstance(layer_scale, nn.Parameter):
            layer_scale.fill_(1.0)


def _torchvision_model(name: str) -> nn.Module:
    models = import_torchvision().models
    if name not in models.list_models():
        raise ValueError(f"torchvision has no model {name!r}; see torchvision.models.list_models()")
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _toy() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    tail: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(*block(3, 8), *block(8, 16), *tail)


_OWN: dict[str, Callable[[], nn.Module]] = {
    "toy": _toy,
    "bert_base": encoder.encoder,
    "bert_base_linears": encoder.linears,
}
