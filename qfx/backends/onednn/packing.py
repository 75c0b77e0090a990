"""Weights as oneDNN wants them: packed once, opaque to everybody else.

A linear weight that is packed already is not packed again for as long as the packed one is in use:
several graphs may run over one set of weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_PACKED = WeakIdKeyDictionary()
"""Of linear weights, references to what they were packed to, alone and with others behind them."""

_onednn = torch.ops.onednn


def pack_conv(
    weight: Tensor,
    w_scales: Tensor,
    x_scale: float,
    x_zero_point: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    x_shape: Sequence[int],
) -> Tensor:
    """Pack a convolution weight.

    oneDNN packs differently for zero and nonzero ``x_zero_point``, and torch remembers the layout
    per geometry for the whole process without that distinction: whichever comes first decides, and
    the other kind reorders its weight in every call (up to 4 times slower). The batch size is part
    of what it remembers and matters for nothing else, so the two kinds are packed for batch sizes
    that differ.

    Args:
        weight: int8, (out, in / groups, *kernel), 1 to 3 spatial dims.
        w_scales: float32, (out,) or (1,).
        x_scale: scale of the input.
        x_zero_point: zero point of the input, the one that calls will pass.
        stride: one number per spatial dim.
        padding: likewise.
        dilation: likewise.
        groups: number of groups.
        x_shape: shape of a typical input, (batch, in, *spatial).

    Returns:
        An opaque tensor, for ``onednn.qconv*_pointwise``.
    """
    batch = 1 if x_zero_point == 0 else 2
    shape = [batch, *x_shape[1:]]
    packed: Tensor = _onednn.qconv_prepack(
        weight.contiguous(),
        w_scales.float(),
        x_scale,
        x_zero_point,
        list(stride),
        list(padding),
        list(dilation),
        groups,
        shape,
    )
    return packed


def pack_linear(weight: Tensor, x_shape: Sequence[int]) -> Tensor:
    """Pack a linear weight.

    Args:
        weight: int8, (out, in).
        x_shape: shape of a typical input, (..., in).

    Returns:
        An opaque tensor, for ``onednn.qlinear_pointwise``.
    """
    return pack_joined((weight,), x_shape)


def pack_joined(weights: Sequence[Tensor], x_shape: Sequence[int]) -> Tensor:
    """Pack linear weights that read one input as one, whose outputs stand in this order."""
    known = _PACKED.get(weights[0], ())  # type: ignore[no-untyped-call]
    for parts, packed in known:
        made: Tensor | None = packed()
        if made is not None and _are([part() for part in parts], weights):
            return made
    whole = weights[0] if len(weights) == 1 else torch.cat(tuple(weights))
    made = _onednn.qlinear_prepack(whole.contiguous(), [max(1, d) for d in x_shape])
    kept = (entry for entry in known if entry[1]() is not None)
    _PACKED[weights[0]] = (*kept, (tuple(map(weakref.ref, weights)), weakref.ref(made)))
    return made


def _are(parts: Sequence[Tensor | None], weights: Sequence[Tensor]) -> bool:
    alike = len(parts) == len(weights)
    return alike and all(part is weight for part, weight in zip(parts, weights, strict=True))
