"""What is in order and where it was, where numbers belong, and what is put at which places."""

from __future__ import annotations

import torch
from torch import Tensor


def sort(
    input: Tensor, *, dim: int = -1, descending: bool = False, stable: bool = False
) -> tuple[Tensor, Tensor]:
    """What is in order, and where it was: named, as callers may ask for by name."""
    return torch.sort(input, stable=stable, dim=dim, descending=descending)


def sort_values(input: Tensor, *, dim: int = -1, descending: bool = False) -> Tensor:
    """What is in order, without where it was: equal ones are not told apart."""
    return torch.sort(input, dim, descending)[0]


def argsort(
    input: Tensor, *, dim: int = -1, descending: bool = False, stable: bool = False
) -> Tensor:
    return torch.argsort(input, stable=stable, dim=dim, descending=descending)


def topk(
    input: Tensor, *, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    """The largest, and where they are: named, as callers may ask for by name."""
    return torch.topk(input, k, dim, largest, sorted)


def topk_values(input: Tensor, *, k: int, dim: int = -1, largest: bool = True) -> Tensor:
    """The largest in order, without where they are: equal ones are not told apart."""
    return torch.topk(input, k, dim, largest)[0]


def take_along_dim(input: Tensor, indices: Tensor, *, dim: int | None = None) -> Tensor:
    return torch.take_along_dim(input, indices, dim)


def searchsorted(
    sorted_sequence: Tensor,
    input: Tensor | float,
    sorter: Tensor | None = None,
    *,
    out_int32: bool = False,
    right: bool = False,
) -> Tensor:
    """Between which of a sorted sequence each number lies."""
    found: Tensor = torch.searchsorted(
        sorted_sequence, input, out_int32=out_int32, right=right, sorter=sorter
    )
    return found


def bucketize(
    input: Tensor | float, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    found: Tensor = torch.bucketize(input, boundaries, out_int32=out_int32, right=right)
    return found


def histc(input: Tensor, *, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    return torch.histc(input, bins, min, max)


def scatter(input: Tensor, index: Tensor, src: Tensor | float, *, dim: int) -> Tensor:
    """``input`` with other values at the places of ``index``."""
    return input.scatter(dim, index, src)


def scatter_add(input: Tensor, index: Tensor, src: Tensor, *, dim: int) -> Tensor:
    return input.scatter_add(dim, index, src)


def scatter_reduce(
    input: Tensor, index: Tensor, src: Tensor, *, dim: int, reduce: str, include_self: bool = True
) -> Tensor:
    """``input`` with what several values come to at the places of ``index``."""
    return input.scatter_reduce(dim, index, src, reduce, include_self=include_self)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """``input`` with values of ``source``, in order, where ``mask`` says so."""
    return input.masked_scatter(mask, source)


def index_copy(input: Tensor, index: Tensor, source: Tensor, *, dim: int) -> Tensor:
    return input.index_copy(dim, index, source)


def index_fill(input: Tensor, index: Tensor, value: Tensor | float, *, dim: int) -> Tensor:
    return input.index_fill(dim, index, value)


def index_add(
    input: Tensor, index: Tensor, source: Tensor, *, dim: int, alpha: float = 1
) -> Tensor:
    return input.index_add(dim, index, source, alpha=alpha)
