"""Sequences of different lengths, packed as ``nn.utils.rnn`` packs them, and padded again.

    pack    (batch, steps, ...), lengths   ->   rows (sum of lengths, ...), batch_sizes (steps,)
    pad     rows, batch_sizes              ->   (batch, steps, ...), lengths

where the longest sequence comes first, and the rows of step t are those of the ``batch_sizes[t]``
sequences that have not ended. PyTorch's function to pad writes beyond its memory where sizes grow
from step to step (2.13), so that they are looked at before.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.torch_private import PACKERS

_PACK, _PAD = PACKERS


def pack_padded(input: Tensor, lengths: Tensor, batch_first: bool = False) -> tuple[Tensor, Tensor]:
    """The rows of every step, and how many each has; ``lengths`` do not grow."""
    data, batch_sizes = _PACK(input, lengths, batch_first)
    return data, batch_sizes


def pad_packed(
    input: Tensor,
    batch_sizes: Tensor,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int = -1,
) -> tuple[Tensor, Tensor]:
    """The padded sequences, and their lengths; of ``total_length`` steps if that is positive."""
    if type(batch_sizes) is Tensor and not torch.compiler.is_compiling():
        _check(input, batch_sizes)
    padded, lengths = _PAD(input, batch_sizes, batch_first, padding_value, total_length)
    return padded, lengths


def _check(input: Tensor, batch_sizes: Tensor) -> None:
    """ConfigError for sizes that no packed sequences have."""
    flat = batch_sizes.dim() == 1 and batch_sizes.dtype == torch.int64 and input.dim() > 0
    sizes = batch_sizes.tolist() if flat else []
    ordered = all(last >= size > 0 for last, size in pairwise(sizes))
    if not sizes or sizes[0] < 1 or not ordered or sum(sizes) != input.shape[0]:
        raise ConfigError(
            f"batch_sizes are none of packed sequences of {tuple(input.shape)}: {sizes[:10]}; they "
            "are positive, do not grow, and add up to the number of rows"
        )
