"""What moves, copies, drops and joins values, and computes none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reshape(input: Tensor, *, shape: Sequence[int]) -> Tensor:
    return input.reshape(tuple(shape))


def flatten(input: Tensor, *, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    return torch.flatten(input, start_dim, end_dim)


def permute(input: Tensor, *, dims: Sequence[int]) -> Tensor:
    return input.permute(tuple(dims))


def squeeze(input: Tensor, *, dim: int | tuple[int, ...] | None = None) -> Tensor:
    return torch.squeeze(input) if dim is None else torch.squeeze(input, dim)


def expand(input: Tensor, *, size: Sequence[int]) -> Tensor:
    return input.expand(tuple(size))


def repeat(input: Tensor, *, repeats: Sequence[int]) -> Tensor:
    return input.repeat(tuple(repeats))


def contiguous(input: Tensor) -> Tensor:
    return input.contiguous()


def clone(input: Tensor) -> Tensor:
    return input.clone()


def after(input: Tensor, call: object) -> Tensor:
    """``input``, as ``call`` left it, which was given it."""
    return input


def cat(tensors: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    return torch.cat(list(tensors), dim)


def stack(tensors: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    return torch.stack(list(tensors), dim)


def getitem(input: Any, index: Any) -> Any:
    return input[index]


def setitem(input: Tensor, index: Any, value: Tensor | float) -> Tensor:
    """A copy of ``input`` with ``input[index] = value``."""
    copied = input.clone()
    copied[index] = value
    return copied


def transpose(input: Tensor, *, dim0: int, dim1: int) -> Tensor:
    return input.transpose(dim0, dim1)


def unsqueeze(input: Tensor, *, dim: int) -> Tensor:
    return input.unsqueeze(dim)


def unflatten(input: Tensor, *, dim: int, sizes: Sequence[int]) -> Tensor:
    return torch.unflatten(input, dim, tuple(sizes))


def chunk(input: Tensor, *, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    return input.chunk(chunks, dim)


def split(
    input: Tensor, *, split_size_or_sections: int | list[int], dim: int = 0
) -> tuple[Tensor, ...]:
    return torch.split(input, split_size_or_sections, dim)


def unbind(input: Tensor, *, dim: int = 0) -> tuple[Tensor, ...]:
    return input.unbind(dim)


def select(input: Tensor, *, dim: int, index: int) -> Tensor:
    return input.select(dim, index)


def narrow(input: Tensor, *, dim: int, start: int, length: int) -> Tensor:
    return input.narrow(dim, start, length)


def tensor_split(
    input: Tensor, *, sections: int | tuple[int, ...], dim: int = 0
) -> tuple[Tensor, ...]:
    """So many parts, as equal as can be; or those between indices."""
    return input.tensor_split(sections, dim)


def index_select(input: Tensor, index: Tensor, *, dim: int) -> Tensor:
    return input.index_select(dim, index)


def gather(input: Tensor, index: Tensor, *, dim: int) -> Tensor:
    return input.gather(dim, index)


def diagonal(input: Tensor, *, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    return input.diagonal(offset, dim1, dim2)


def windows(input: Tensor, *, dimension: int, size: int, step: int) -> Tensor:
    """Windows along a dim, their elements in a new last dim: ``Tensor.unfold``."""
    return input.unfold(dimension, size, step)


def meshgrid(tensors: Sequence[Tensor], *, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinates of a grid: each vector along a dim of its own."""
    return tuple(torch.meshgrid(*tensors, indexing=indexing))


def diag_embed(input: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices with ``input`` along a diagonal, zeros around."""
    return torch.diag_embed(input, offset, dim1, dim2)


def affine_grid(theta: Tensor, *, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Where ``grid_sample`` reads to turn, stretch and shift images."""
    return F.affine_grid(theta, list(size), align_corners)


def tril(input: Tensor, *, diagonal: int = 0) -> Tensor:
    return input.tril(diagonal)


def triu(input: Tensor, *, diagonal: int = 0) -> Tensor:
    return input.triu(diagonal)


def unfold(
    input: Tensor,
    *,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    stride: int | tuple[int, int] = 1,
) -> Tensor:
    """What convolutions multiply by: windows of images as columns, zeros around."""
    return F.unfold(input, kernel_size, dilation, padding, stride)


def fold(
    input: Tensor,
    *,
    output_size: int | tuple[int, int],
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    stride: int | tuple[int, int] = 1,
) -> Tensor:
    """Images as sums of windows, which are columns."""
    return F.fold(input, output_size, kernel_size, dilation, padding, stride)


def roll(
    input: Tensor, *, shifts: int | tuple[int, ...], dims: int | tuple[int, ...] = ()
) -> Tensor:
    return torch.roll(input, shifts, dims)


def flip(input: Tensor, *, dims: Sequence[int]) -> Tensor:
    return input.flip(tuple(dims))


def repeat_interleave(input: Tensor, *, repeats: int, dim: int | None = None) -> Tensor:
    return torch.repeat_interleave(input, repeats, dim)


def pixel_shuffle(input: Tensor, *, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(_contiguous_volumes(input), upscale_factor)


def pixel_unshuffle(input: Tensor, *, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(_contiguous_volumes(input), downscale_factor)


def _contiguous_volumes(input: Tensor) -> Tensor:
    """``input`` in a layout that torch shuffles pixels of: not channels_last_3d."""
    return input.contiguous() if input.dim() == 5 else input


def channel_shuffle(input: Tensor, *, groups: int) -> Tensor:
    return F.channel_shuffle(input, groups)


def pad(
    input: Tensor, *, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    return F.pad(input, tuple(pad), mode, value)


def arrange(input: Tensor, *, dims: Sequence[int], leading: int = 1) -> Tensor:
    """A parameter as the matrix of a layer: its dims in another order, then the leading ones made
    rows and the rest columns.
    """
    return input.permute(tuple(dims)).flatten(leading).flatten(0, leading - 1)


def part(input: Tensor, *, parts: int, index: int) -> Tensor:
    """One of so many equal parts of a packed parameter, a view."""
    return input.chunk(parts)[index]
