"""Weights in fewer bits than PyTorch's integer dtypes have: two 4-bit codes a byte, and halves.

Byte j of a packed row of K codes holds code j in its low bits and code j + K/2 in its high bits, so
that both halves of a row are unpacked by one operation each, whatever the groups that share scales.
A row of an odd number of codes is packed with a zero at its end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.errors import ConfigError

_WIDTHS = {torch.int8: (-8, 7), torch.uint8: (0, 15)}


def packs(shape: tuple[int, ...], dtype: torch.dtype, quant_min: int, quant_max: int) -> bool:
    """Whether codes fit in 4 bits, and lie in a matrix."""
    low, high = _WIDTHS.get(dtype, (0, 0))
    return low <= quant_min and quant_max <= high and len(shape) == 2


def pack(codes: Tensor) -> Tensor:
    """Two 4-bit codes a byte.

    Args:
        codes: int8 in -8..7 or uint8 in 0..15, (rows, columns).

    Returns:
        uint8, (rows, columns / 2), rounded up.
    """
    if codes.dim() != 2:
        raise ConfigError(f"can't pack codes of shape {tuple(codes.shape)} in pairs along rows")
    codes = F.pad(codes, (0, codes.shape[1] % 2))
    low, high = codes.view(torch.uint8).chunk(2, dim=1)
    return low.bitwise_and(15).bitwise_or_(high << 4)


def unpack(input: Tensor, *, dtype: torch.dtype = torch.int8, columns: int | None = None) -> Tensor:
    """Undo :func:`pack`.

    Args:
        input: uint8, (rows, bytes).
        dtype: int8 for codes in -8..7, uint8 for 0..15.
        columns: of the codes; None for two a byte.

    Returns:
        Codes of ``dtype``, (rows, columns).
    """
    if dtype == torch.uint8:
        return _paired(input.bitwise_and(15), input >> 4, columns)
    shifted = _paired(input << 4, input, columns).view(torch.int8)
    return shifted >> 4  # arithmetic: keeps the sign


def shifted(input: Tensor, columns: int | None = None) -> Tensor:
    """The signed codes of packed rows times 16, which saves a pass over them."""
    return _paired(input << 4, input.bitwise_and(0xF0), columns).view(torch.int8)


def _paired(low: Tensor, high: Tensor, columns: int | None) -> Tensor:
    """The codes of both halves of a row, without what was put at its end."""
    if columns is not None and columns % 2:
        high = high[..., :-1]
    return torch.cat((low, high), dim=-1)


def widen(input: Tensor) -> Tensor:
    """float32 of halves, exact."""
    return input.float()
