"""Packing and padding are PyTorch's, but refuse sizes for which PyTorch writes past memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import qfx
from qfx import vocab

X = torch.randn(3, 6, 2)
LENGTHS = torch.tensor([6, 3, 1])


@pytest.mark.parametrize("batch_first", [True, False])
def test_there_and_back(batch_first: bool) -> None:
    x = X if batch_first else X.transpose(0, 1)
    rows, sizes = vocab.PACK_PADDED(x, LENGTHS, batch_first)
    packed = pack_padded_sequence(x, LENGTHS, batch_first)
    assert torch.equal(rows, packed.data)
    assert torch.equal(sizes, packed.batch_sizes)
    padded, lengths = vocab.PAD_PACKED(rows, sizes, batch_first, -1.0, 8)
    expected, _ = pad_packed_sequence(packed, batch_first, -1.0, 8)
    assert torch.equal(padded, expected)
    assert torch.equal(lengths, LENGTHS)


@pytest.mark.parametrize(
    "sizes",
    [
        torch.tensor(sizes)
        for sizes in ([1, -2, 3], [2, 3, 5], [5, 5, 5], [10, 0], [-1, 11], [], [[10]], [2.0, 8.0])
    ],
    ids=str,
)
def test_sizes_of_no_packed_sequences(sizes: torch.Tensor) -> None:
    rows = torch.randn(10, 2)
    with pytest.raises(qfx.ConfigError, match="batch_sizes"):
        vocab.PAD_PACKED(rows, sizes, True, 0.0, 3)
