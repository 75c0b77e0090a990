"""Views of tensors as observers and group-wise arithmetic want them."""

from __future__ import annotations

from torch import Tensor

from qfx.errors import ConfigError


def dense_view(input: Tensor) -> Tensor:
    """All values of ``input`` as one dimension, in memory order: a view if there are no holes."""
    if input.is_contiguous():
        return input.reshape(-1)
    strides = input.stride()
    order = sorted(range(input.dim()), key=lambda d: (-strides[d], d))
    return input.permute(order).reshape(-1)


def split_groups(input: Tensor, axis: int | None, group_size: int) -> Tensor:
    """View ``input`` as (C, G, group_size): the values of each channel, in order, by groups."""
    if axis is None:
        raise ConfigError("group_size needs the axis of the channels that are split in groups")
    per_channel = input.numel() // max(input.shape[axis], 1)
    if per_channel % group_size:
        raise ConfigError(
            f"group_size={group_size} does not divide the {per_channel} values of each channel of a"
            f" weight of shape {tuple(input.shape)}; choose a divisor of {per_channel}"
        )
    return input.movedim(axis, 0).reshape(input.shape[axis], -1, group_size)


def join_groups(groups: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """Undo :func:`split_groups` of a tensor shaped as ``like``."""
    first = axis or 0
    moved = like.movedim(first, 0)
    return groups.reshape(moved.shape).movedim(0, first).contiguous()
