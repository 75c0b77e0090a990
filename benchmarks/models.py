"""Models and data for the benchmarks: random weights, made comparable.

Nothing is downloaded; what starts as an identity or muted is randomised (``tools/networks.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import encoder
from tools import networks

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
    "swin_t",
)

COMPARED = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "densenet121",
    "shufflenet_v2_x1_0", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t", "bert_base",
    "minilm",
)  # fmt: skip
"""The models that engines are compared by."""

_IMAGE_SIZES = {"inception_v3": 299, "toy": 16}


def image_size(name: str) -> int:
    """Edge length in pixels of the square images that the model takes."""
    return _IMAGE_SIZES.get(name, 224)


def build(name: str, *, seed: int = 0) -> nn.Module:
    """A model in eval mode with seeded random weights.

    Args:
        name: "toy" (a few convolutions, for tests of the harness), "bert_base" and "minilm"
            (encoders of these shapes), "bert_base_linears" (linear layers alone), or a torchvision
            model.
        seed: seed of weights and batch-norm statistics.

    Raises:
        ValueError: torchvision has no model of that name.
    """
    if name not in _OWN:
        return networks.classifier(name, seed=seed)
    torch.manual_seed(seed)
    model = _OWN[name]()
    networks.randomise(model, seed=seed)
    return model.eval()


def images(name: str, batch: int, *, seed: int) -> Tensor:
    """Standard-normal inputs: f32[batch, 3, S, S], or f32[batch, tokens, width] for encoders."""
    generator = torch.Generator().manual_seed(seed)
    size = _ENCODERS.get(name)
    if size is not None:
        return torch.randn(batch, size.tokens, size.width, generator=generator)
    edge = image_size(name)
    return torch.randn(batch, 3, edge, edge, generator=generator)


def calibration(name: str, *, batches: int = 4, batch: int = 4) -> list[Tensor]:
    """The batches that every quantizer is calibrated with."""
    return [images(name, batch, seed=1000 + index) for index in range(batches)]


def _toy() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    tail: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(*block(3, 8), *block(8, 16), *tail)


_OWN: dict[str, Callable[[], nn.Module]] = {
    "toy": _toy,
    "bert_base": encoder.encoder,
    "minilm": lambda: encoder.encoder(encoder.MINILM),
    "bert_base_linears": encoder.linears,
}

_ENCODERS = {
    "bert_base": encoder.BERT,
    "bert_base_linears": encoder.BERT,
    "minilm": encoder.MINILM,
}
