"""Two 4-bit codes a byte, and halves."""

from __future__ import annotations

import pytest
import torch

from qfx.errors import ConfigError
from qfx.semantics import packing

EVERY = {
    torch.int8: torch.arange(-8, 8, dtype=torch.int8).repeat(3, 1),
    torch.uint8: torch.arange(16, dtype=torch.uint8).repeat(3, 1),
}


@pytest.mark.parametrize("dtype", EVERY)
def test_every_code_returns(dtype: torch.dtype) -> None:
    codes = EVERY[dtype].clone()
    codes[1] = codes[1].flip(0)
    packed = packing.pack(codes)
    assert packed.shape == (3, 8)
    assert packed.dtype == torch.uint8
    assert torch.equal(packing.unpack(packed, dtype=dtype), codes)


def test_shifted_codes_are_16_times_as_large() -> None:
    codes = EVERY[torch.int8]
    assert torch.equal(packing.shifted(packing.pack(codes)), codes * 16)


@pytest.mark.parametrize(
    ("shape", "dtype", "bounds", "fits"),
    [
        ((4, 6), torch.int8, (-8, 7), True),
        ((4, 6), torch.int8, (-7, 7), True),
        ((4, 6), torch.uint8, (0, 15), True),
        ((4, 5), torch.int8, (-8, 7), True),  # an odd row
        ((4, 6, 1), torch.int8, (-8, 7), False),
        ((4, 6), torch.int8, (-9, 7), False),
        ((4, 6), torch.uint8, (0, 16), False),
        ((4, 6), torch.int16, (-8, 7), False),
    ],
)
def test_what_packs(
    shape: tuple[int, ...], dtype: torch.dtype, bounds: tuple[int, int], fits: bool
) -> None:
    assert packing.packs(shape, dtype, *bounds) is fits


@pytest.mark.parametrize("columns", [1, 7, 15])
@pytest.mark.parametrize("dtype", EVERY)
def test_odd_rows_end_with_half_a_byte_more(dtype: torch.dtype, columns: int) -> None:
    codes = EVERY[dtype][:, :columns]
    packed = packing.pack(codes)
    assert packed.shape == (3, columns // 2 + 1)
    assert torch.equal(packing.unpack(packed, dtype=dtype, columns=columns), codes)
    if dtype == torch.int8:
        assert torch.equal(packing.shifted(packed, columns), codes * 16)


def test_what_is_no_matrix_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 4, 1\).*pairs"):
        packing.pack(torch.zeros(2, 4, 1, dtype=torch.int8))


def test_halves_widen_exactly() -> None:
    halves = torch.tensor([1.5, -65504.0, 6e-8], dtype=torch.float16)
    assert torch.equal(packing.widen(halves), halves.float())
