"""Calls of networks that take images: the captured one, other batches, another size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tools.collection.subject import Call, Subject, seeded

BATCH = 2


def subject(model: nn.Module, sizes: Sequence[int], channels: int = 3) -> Subject:
    """Call ``model`` with images of the first two of ``sizes`` that it takes.

    Raises:
        ValueError: it takes none of them.
    """
    taken = [size for size in sizes if _takes(model, size, channels)][:2]
    if not taken:
        raise ValueError(f"takes no images of {', '.join(map(str, sizes))} pixels")
    size, other = taken[0], taken[-1]

    def images(batch: int, edge: int, seed: int) -> Call:
        label = f"batch {batch}, {edge} pixels"
        return Call(label, (seeded(batch, channels, edge, edge, seed=seed),))

    shapes = ((BATCH, size), (1, size), (3, size), (1 if other != size else 4, other))
    calls = tuple(images(batch, edge, seed) for seed, (batch, edge) in enumerate(shapes))
    edges = (size, other, size)  # ranges are those of the sizes that will be met
    calibration = [images(BATCH, edge, 100 + seed).args for seed, edge in enumerate(edges)]
    return Subject(model, calls, tuple(calibration))


def _takes(model: nn.Module, size: int, channels: int) -> bool:
    """Whether the float model computes with an image of this size."""
    try:
        Call("", (seeded(1, channels, size, size),)).of(model)
    except (RuntimeError, AssertionError, ValueError, IndexError):
        return False
    return True
