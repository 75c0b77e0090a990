"""Transposed convolutions as convolutions: the same numbers in integers, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.backends.onednn import transposed_convs as transpose

CONVS = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

CASES = [  # kernel, stride, padding, output padding, groups
    ((2, 2), (2, 2), (0, 0), (0, 0), 1),
    ((4, 4), (2, 2), (1, 1), (0, 0), 1),
    ((3, 3), (2, 2), (1, 1), (1, 1), 2),
    ((5, 3), (3, 2), (2, 1), (1, 0), 2),
    ((3, 3), (1, 1), (1, 1), (0, 0), 1),
    ((2, 2), (3, 3), (0, 0), (1, 2), 1),
    ((3, 3), (3, 3), (0, 0), (2, 1), 4),
    ((4,), (2,), (1,), (0,), 1),
    ((3,), (4,), (0,), (3,), 2),
    ((3, 2, 3), (2, 1, 2), (1, 0, 1), (1, 0, 0), 2),
]


def integers(*shape: int, seed: int) -> Tensor:
    return torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(("kernel", "stride", "padding", "extra", "groups"), CASES)
def test_equals_the_transposed_convolution(
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    extra: tuple[int, ...],
    groups: int,
) -> None:
    dims = len(kernel)
    x = integers(2, 8, *(5, 6, 4)[:dims], seed=0)
    weight = integers(8, 12 // groups, *kernel, seed=1)
    expected = TRANSPOSED[dims - 1](x, weight, None, stride, padding, extra, groups)

    taps = transpose.phase_taps(kernel, stride, padding, extra)
    phases = transpose.phase_weight(weight, stride, taps, groups)
    y = CONVS[dims - 1](x, phases, padding=[j - 1 for j in taps], groups=groups)
    end = transpose.trim(kernel, stride, padding, extra, taps)
    assert torch.equal(transpose.weave(y, stride, padding, end), expected)


def test_work_does_not_grow_where_the_stride_divides_the_kernel() -> None:
    weight = integers(8, 12, 4, 4, seed=0)
    phases = transpose.phase_weight(weight, (2, 2), (2, 2), 1)
    assert phases.numel() == weight.numel()


def test_channel_values_go_to_all_their_phases() -> None:
    assert transpose.per_phase(torch.tensor([1.0, 2.0]), (1, 3)).tolist() == [1, 1, 1, 2, 2, 2]
    assert transpose.per_phase(torch.tensor([1.0]), (2, 2)).tolist() == [1]


def test_weaving_codes_keeps_channels_last() -> None:
    codes = torch.arange(64, dtype=torch.uint8).reshape(1, 16, 2, 2)
    codes = codes.contiguous(memory_format=torch.channels_last)
    woven = transpose.weave(codes, (2, 2), (0, 0), (0, 0))
    assert woven.dtype == torch.uint8
    assert woven.is_contiguous(memory_format=torch.channels_last)
