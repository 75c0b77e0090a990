"""Photos with objects planted in them, whose places are known: what detectors are fitted to.

Crops of the two photos that scikit-learn brings, with rectangles of three colours pasted in: seven
to an image, about 0.22 of its sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
_OBJECTS = 7
_SIDES = (0.2, 0.24)
"""Of an object, at least and at most, as fractions of the image's."""


class Scene(NamedTuple):
    """An image and what is in it, as torchvision's detectors are trained with."""

    image: Tensor
    target: dict[str, Tensor]


def scenes(size: tuple[int, int], count: int, classes: int) -> list[Scene]:
    """Images of a height and a width with objects; the same for the same arguments."""
    generator = torch.Generator().manual_seed(size[0] * 1000 + size[1])
    return [_scene(*size, classes, generator) for _ in range(count)]


def _scene(height: int, width: int, classes: int, generator: torch.Generator) -> Scene:
    image = _crop(height, width, generator)
    boxes: list[list[int]] = []
    labels: list[int] = []
    while len(boxes) < _OBJECTS:
        high, wide = (_between(_SIDES[0] * s, _SIDES[1] * s, generator) for s in (height, width))
        top, left = _between(0, height - high, generator), _between(0, width - wide, generator)
        box = [left, top, left + wide, top + high]
        if any(_touch(box, other) for other in boxes):
            continue
        colour = len(boxes) % len(COLOURS)
        grain = 0.1 * torch.rand(3, high, wide, generator=generator)
        image[:, top : top + high, left : left + wide] = COLOURS[colour][:, None, None] + grain
        boxes.append(box)
        labels.append(1 + colour % (classes - 1))
    return Scene(image, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)})


def _crop(height: int, width: int, generator: torch.Generator) -> Tensor:
    photo = _photos()[_between(0, len(_photos()), generator)]
    top = _between(0, photo.shape[1] - height, generator)
    left = _between(0, photo.shape[2] - width, generator)
    return photo[:, top : top + height, left : left + width].clone()


@cache
def _photos() -> tuple[Tensor, ...]:
    from sklearn.datasets import load_sample_images

    return tuple(torch.tensor(p).permute(2, 0, 1) / 255 for p in load_sample_images().images)


def _between(low: float, high: float, generator: torch.Generator) -> int:
    return int(torch.randint(int(low), int(high), (), generator=generator))


def _touch(box: Sequence[int], other: Sequence[int]) -> bool:
    apart = box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]
    return not apart
