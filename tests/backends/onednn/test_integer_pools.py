"""Max pooling of codes by plain operations, against PyTorch's."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from qfx.backends.onednn.integer_pools import max_pool

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_pytorch(dims: int, dtype: torch.dtype) -> None:
    torch.manual_seed(dims)
    sizes = (9, 12) if dims == 1 else (9,)
    geometries = product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2), (False, True), sizes)
    for taps, stride, padding, dilation, ceil_mode, size in geometries:
        if padding > taps // 2:
            continue  # PyTorch refuses it
        ends = torch.iinfo(dtype)
        x = torch.randint(ends.min, ends.max + 1, (1, 2, *[size] * dims)).to(dtype)
        geometry = [taps] * dims, [stride] * dims, [padding] * dims, [dilation] * dims
        got = max_pool(x, *geometry, ceil_mode)
        assert got.dtype == dtype
        expected = POOLS[dims](x.double(), *geometry, ceil_mode)
        assert torch.equal(got.double(), expected), (taps, stride, padding, dilation, ceil_mode)


def test_a_number_of_each_dim() -> None:
    x = torch.arange(2 * 3 * 8 * 11).remainder(251).to(torch.uint8).reshape(2, 3, 8, 11)
    geometry = [3, 2], [2, 3], [1, 0], [1, 2]
    got = max_pool(x, *geometry, True)
    assert torch.equal(got.double(), F.max_pool2d(x.double(), *geometry, True))


def test_any_memory_format() -> None:
    x = torch.randint(0, 256, (2, 5, 7, 7)).to(torch.uint8)
    tight = x.to(memory_format=torch.channels_last)
    geometry = [3, 3], [2, 2], [1, 1], [1, 1]
    assert torch.equal(max_pool(x, *geometry), max_pool(tight, *geometry))
