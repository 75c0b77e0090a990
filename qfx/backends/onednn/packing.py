"""Weights as oneDNN wants them: packed once, opaque to everybody else.

A linear weight that is packed already is not packed again for as long as the packed one is in use:
several graphs may run over one set of weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_PACKED = WeakIdKeyDictionary()
"""Of linear weights, how they were packed, alone and with others behind them: references."""

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
        w_scales,
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

    def pack(whole: Tensor) -> Tensor:
        packed: Tensor = _onednn.qlinear_prepack(whole, [max(1, d) for d in x_shape])
        return packed

    return _once(weights, "linear", pack)


def pack_as_convolution(
    weights: Sequence[Tensor], rows: int, *, shifted: bool, groups: int = 1
) -> Tensor:
    """As :func:`pack_joined`, as the weight of a 1x1 convolution whose pixels are rows.

    Args:
        weights: int8, (out, in) each.
        rows: of a typical input.
        shifted: whether the input has a zero point; see :func:`pack_conv`.
        groups: into so many equal parts outputs fall, each of which has inputs of its own.
    """

    def pack(whole: Tensor) -> Tensor:
        ones = torch.ones(whole.shape[0], dtype=torch.float32)
        geometry = [1, 1], [0, 0], [1, 1], groups
        shape = [1, groups * whole.shape[1], 1, max(1, rows)]
        return pack_conv(whole[:, :, None, None], ones, 1.0, int(shifted), *geometry, shape)

    return _once(weights, f"convolution, {shifted}, {groups}", pack)


def _once(weights: Sequence[Tensor], how: str, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``pack`` makes of weights one after the other, as long as it is in use."""
    known = _PACKED.get(weights[0], ())  # type: ignore[no-untyped-call]
    for form, parts, packed in known:
        made: Tensor | None = packed()
        if made is not None and form == how and _are([part() for part in parts], weights):
            return made
    whole = weights[0] if len(weights) == 1 else torch.cat(tuple(weights))
    made = pack(whole.contiguous())
    kept = (entry for entry in known if entry[2]() is not None)
    _PACKED[weights[0]] = (*kept, (how, tuple(map(weakref.ref, weights)), weakref.ref(made)))
    return made


def _are(parts: Sequence[Tensor | None], weights: Sequence[Tensor]) -> bool:
    alike = len(parts) == len(weights)
    return alike and all(part is weight for part, weight in zip(parts, weights, strict=True))
