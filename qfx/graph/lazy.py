"""Tensors whose values are made when something computes with them.

Code around a layer asks its weight for the dtype, the device or the shape. That is known, and no
reason to make the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_DEVICE: Any = Tensor.device.__get__
_KNOWN = frozenset(
    {
        *(getattr(Tensor, name).__get__ for name in ("dtype", "shape", "ndim", "layout")),
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
    }
)
"""What is answered without values."""


class LazyTensor(Tensor):
    """A tensor of known shape, dtype and device; whatever else is asked of it makes its values."""

    _like: Tensor
    _on: torch.device
    _make: Callable[[], Tensor]

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func == _DEVICE:
            return args[0]._on
        if func in _KNOWN:
            return func(args[0]._like, *args[1:], **(kwargs or {}))
        made = pytree.tree_map_only(cls, lambda t: t._make(), (args, dict(kwargs or {})))
        return func(*made[0], **made[1])


def lazily(like: Tensor, make: Callable[[], Tensor], device: torch.device) -> Tensor:
    """What ``make`` makes, when it is needed.

    Args:
        like: of the same shape and dtype; best on the meta device.
        make: yields the values.
        device: where they will be.
    """
    like = like.detach().to("meta")
    found = like.as_subclass(LazyTensor)
    found._like, found._on, found._make = like, device, make
    return found
