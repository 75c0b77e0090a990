"""Tensors whose values are made when something computes with them.

Code around a layer asks its weight for the dtype, the device or the shape. That is known, and no
reason to make the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from qfx.private_attributes import wrapper
from qfx.torch_private import pytree

_KNOWN = frozenset(
    {
        *(getattr(Tensor, n).__get__ for n in ("dtype", "device", "shape", "ndim", "layout")),
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
    }
)
"""What is answered without values."""


class LazyTensor(Tensor):
    """A tensor of known shape, dtype and device; whatever else is asked of it makes its values."""

    _make: Callable[[], Tensor]

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _KNOWN:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        return cls._computed(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What C++ does with it that asks no Python first, as ``torch.tensor(lazy)``."""
        return cls._computed(func, args, kwargs)

    @classmethod
    def _computed(
        cls, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
    ) -> Any:
        made = pytree.tree_map_only(cls, lambda t: t._make(), (args, dict(kwargs or {})))
        return func(*made[0], **made[1])


def lazily(like: Tensor, make: Callable[[], Tensor], device: torch.device) -> Tensor:
    """What ``make`` makes, when it is needed.

    Args:
        like: of the same shape and dtype; best on the meta device.
        make: yields the values.
        device: where they will be.
    """
    found: LazyTensor = wrapper(LazyTensor, like, device)
    found._make = make
    return found
