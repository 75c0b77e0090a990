"""Do integer kernels saturate here? Measured once per process, at first need.

Where a CPU (or oneDNN, told by ``ONEDNN_MAX_CPU_ISA`` to use less of it) multiplies uint8 by int8
with ``vpmaddubsw``, two products are added in an int16 that saturates:

    2 * 255 * 127 > 32767 >= 2 * 127 * 127

so that activations must keep to 7 bits. With VNNI nothing saturates, and 7 bits would merely lose
one. What a CPU has does not say what a library makes of it; a product of the largest codes does: a
layer whose codes are all 255 and whose weights are all 127 gives half of what it should. Each
library has several ways through, by shape and kind of layer; one that saturates decides for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import Tensor

HIGHEST_SAFE = 127
"""The largest code of an activation where sums of two products saturate."""

LARGEST = 255.0 * 127.0
"""What one product of the largest codes is."""

SaturationTrial = tuple[Callable[[], Tensor], int]
"""What runs a layer on the largest codes, its result in units of one; how many products a sum."""

_verdicts: dict[Hashable, bool] = {}
_lock = threading.RLock()


def measured(key: Hashable, trials: Callable[[], Iterator[SaturationTrial]]) -> bool:
    """Whether a sum of one of ``trials`` falls short; run once per ``key``."""
    with _lock:
        if key not in _verdicts:
            with torch.inference_mode(), torch.device("cpu"):
                _verdicts[key] = any(_falls_short(run, terms) for run, terms in trials())
        return _verdicts[key]


def _falls_short(run: Callable[[], Tensor], terms: int) -> bool:
    try:
        return bool((run() < 0.99 * LARGEST * terms).any())
    except (RuntimeError, AttributeError):
        return False  # a kernel that is absent says nothing here; probes find it


LINEARS = ((1, 2, 1), (1, 64, 64), (16, 64, 64), (7, 1000, 33), (64, 256, 128))
"""Rows, inputs and outputs: matrix by vector, small and large tiles, and what fills none."""

CONVOLUTIONS = (
    *((2, 3, 16, 7, 1), (2, 4, 16, 3, 1), (2, 64, 64, 3, 1), (2, 64, 64, 1, 1)),
    *((2, 128, 128, 3, 2), (1, 64, 64, 3, 1), (3, 64, 64, 3, 1)),
)
"""Spatial dims, channels in and out, kernel size and groups: images, dense layers, groups."""

DEPTHWISE = ((1, 32, 32, 3, 32), (2, 32, 32, 3, 32), (3, 32, 32, 3, 32))


def products(dims: int, inputs: int, outputs: int, size: int, groups: int) -> int:
    """How many products one result of a convolution sums up."""
    return inputs // groups * int(size**dims)


def largest(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The largest code of ``dtype``, ``shape`` times."""
    return torch.full(shape, torch.iinfo(dtype).max, dtype=dtype)
