"""Crops of real photos: those of foolbox (labelled, of ImageNet) and of scikit-image.

Only the files of the packages are read; neither needs to be importable. Crops are drawn by a fixed
seed, as many from each photo, so that calibration and test can have photos of their own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

PACKAGES = ("foolbox", "skimage", "PIL", "numpy")

_PLAIN = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "color.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
    "moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
_LEAST_SIDE = 0.35  # of the side of the largest square in a photo


def folder(package: str) -> Path:
    """Where an installed package lies."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def crops(size: int, each: int, mean: Tensor, std: Tensor) -> list[list[Tensor]]:
    """For each photo ``each`` crops, f32[1, 3, size, size], normalised; the first shows it whole.

    Args:
        size: height and width.
        each: how many of a photo.
        mean: (3,) of what the model was trained on.
        std: likewise.
    """
    generator = torch.Generator().manual_seed(0)
    return [
        [(c - mean.view(3, 1, 1)) / std.view(3, 1, 1) for c in _crops(p, size, each, generator)]
        for p in _photos()
    ]


def labels() -> list[int | None]:
    """The class of each photo among ImageNet's thousand; None of those that have none."""
    names = [path.stem.split("_") for path in _photos()]
    return [int(parts[2]) if parts[0] == "imagenet" else None for parts in names]


def _photos() -> list[Path]:
    labelled = sorted((folder("foolbox") / "data").glob("imagenet_*.jpg"))
    return [*labelled, *(folder("skimage") / "data" / name for name in _PLAIN)]


def _crops(path: Path, size: int, each: int, generator: torch.Generator) -> list[Tensor]:
    image = _read(path)
    side = min(image.shape[-2:])
    made = []
    for number in range(each):
        drawn = torch.rand(3, generator=generator)
        share = 1.0 if number == 0 else _LEAST_SIDE + (1 - _LEAST_SIDE) * float(drawn[0])
        extent = max(int(side * share), 1)
        top, left = (
            int(float(at) * (whole - extent))
            for at, whole in zip(drawn[1:], image.shape[-2:], strict=True)
        )
        part = image[..., top : top + extent, left : left + extent]
        made.append(_resized(part, size))
    return made


def _read(path: Path) -> Tensor:
    """f32[1, 3, H, W] in [0, 1]."""
    import numpy
    from PIL import Image

    pixels = numpy.asarray(Image.open(path).convert("RGB"), dtype=numpy.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1).unsqueeze(0)


def _resized(image: Tensor, size: int) -> Tensor:
    """The image at another size, with 8 bits a pixel as images have."""
    found = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
    return (found * 255).round() / 255
