"""Kernels that are wrong where a test says so: in proofs and in models that run alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qfx.backends.onednn import verified_convs as x86_proven

Geometry = tuple[int, ...]
Wrong = Callable[[int, int, int], bool]
"""Of input channels, output channels and groups."""

_KERNELS = {
    **{getattr(torch.ops.onednn, f"qconv{n}d_pointwise").default: (4, 10) for n in (1, 2, 3)},
    torch.ops.onednn.qconv2d_pointwise.binary: (4, 11),
}
"""Where they take scales, a number per output channel, and groups."""


PROBED = 8
"""The spatial size of what probes run, which is right."""


class _Planted(TorchDispatchMode):
    def __init__(self, wrong: Wrong) -> None:
        super().__init__()
        self.wrong = wrong
        self.seen: list[Geometry] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _KERNELS or max(args[0].shape[2:]) <= PROBED:
            return result
        _, groups = _KERNELS[func]
        geometry = (args[0].shape[1], result.shape[1], args[groups])
        self.seen.append(geometry)
        if not self.wrong(*geometry):
            return result
        garbage: Tensor = result.flip(1) if result.is_floating_point() else 255 - result
        return garbage + 1 if result.is_floating_point() else garbage


@contextmanager
def planted(wrong: Wrong) -> Iterator[_Planted]:
    """Let oneDNN's convolutions give garbage where ``wrong`` says so; nothing is proven yet."""
    x86_proven._fault.cache_clear()
    with _Planted(wrong) as mode:
        yield mode
    x86_proven._fault.cache_clear()
