"""All classifiers of torchvision, and its networks for segmentation, video and optical flow."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from tools.collection import images
from tools.collection.subject import Call, Entry, Subject, seeded
from tools.networks import (
    classifier,
    classifier_names,
    image_size,
    import_torchvision,
    randomise,
)

models = import_torchvision().models

_FIXED = ("vit", "maxvit")
_MORE = 32
_CLIPS = {"mvit": (16, 224), "s3d": (16, 224), "swin3d": (8, 64)}
"""Frames and edge of the clips that a network of video is tried with; 8 and 64 if not here."""
_FLOW = ((1, 128, 128), (2, 128, 128), (1, 128, 160), (3, 136, 128))


def entries() -> Iterator[Entry]:
    """Yield the entries of all kinds."""
    for name in classifier_names():
        yield Entry("torchvision", name, "static", build_classifier)
    for name in models.list_models(module=models.segmentation):
        yield Entry("torchvision", name, "static", build_segmentation)
    for name in models.list_models(module=models.video):
        yield Entry("torchvision", name, "static", build_video)
    for name in models.list_models(module=models.optical_flow):
        yield Entry("torchvision", name, "static", build_flow)


def build_classifier(name: str) -> Subject:
    """Create a classifier, and small images."""
    size = image_size(name)
    sizes = (size,) if name.startswith(_FIXED) else (size, size + _MORE)
    return images.subject(classifier(name), sizes)


def build_segmentation(name: str) -> Subject:
    """Create a network that labels pixels, and small images."""
    return images.subject(_network(name, weights_backbone=None), (64, 96))


def build_video(name: str) -> Subject:
    """Create a network that classifies clips, and short ones."""
    frames, edge = _CLIPS.get(name.split("_")[0], (8, 64))
    shapes = [(1, frames, edge), (2, frames, edge), (3, frames, edge)]
    if edge < 224:
        shapes.append((1, frames + 4, edge + _MORE))
    calls = tuple(
        Call(f"batch {b}, {t} frames of {s} pixels", (seeded(b, 3, t, s, s, seed=seed),))
        for seed, (b, t, s) in enumerate(shapes)
    )
    ends = (shapes[0], shapes[-1])
    calibration = tuple(
        (seeded(1, 3, t, s, s, seed=100 + seed),) for seed, (_, t, s) in enumerate(ends)
    )
    return Subject(_network(name), calls, calibration)


def build_flow(name: str) -> Subject:
    """Create a network of optical flow, and pairs of images."""
    calls = tuple(
        Call(f"batch {b}, {h} x {w}", _pair(b, h, w, 2 * seed))
        for seed, (b, h, w) in enumerate(_FLOW)
    )
    calibration = tuple(_pair(*shape, 100 + 2 * seed) for seed, shape in enumerate(_FLOW[::2]))
    return Subject(_network(name), calls, calibration)


def _pair(batch: int, height: int, width: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Two images whose numbers lie within one of zero."""
    shape = (batch, 3, height, width)
    return tuple(seeded(*shape, seed=seed + i).tanh() for i in range(2))


def _network(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = models.get_model(name, weights=None, **options).eval()
    randomise(model)
    return model
