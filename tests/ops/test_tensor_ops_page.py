"""The page of tensor operations: both ways of each block are run, and agree to a step."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qfx

PAGE = Path(__file__).parents[2] / "docs" / "tensor_ops.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
NAMES = [re.search(r"ours.*?(\w+)\(|$", block)[1] or f"block {i}" for i, block in enumerate(BLOCKS)]  # type: ignore[index]

pytestmark = pytest.mark.skipif(
    not qfx.backends.QUANTIZED_DTYPES, reason="PyTorch without quantized dtypes"
)


@cache
def results() -> list[tuple[Any, Any]]:
    """What each block computes in both ways; a block uses the names of those before it."""
    names: dict[str, Any] = {}
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of its deprecated dtypes
        for block in BLOCKS:
            exec(block, names)  # the page is ours
            found.append((names.get("theirs"), names.get("ours")))
    return found


@pytest.mark.parametrize("index", range(1, len(BLOCKS)), ids=NAMES[1:])
def test_both_ways_agree(index: int) -> None:
    theirs, ours = results()[index]
    assert isinstance(ours, Tensor)
    if not theirs.is_quantized and theirs.is_floating_point():
        assert torch.equal(theirs, ours)
        return
    codes = theirs.int_repr() if theirs.is_quantized else theirs
    assert ours.dtype == codes.dtype
    apart = (codes.int() - ours.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() <= 0.04  # ties, and sums that PyTorch rounds in float32
    assert ours.unique().numel() > 1


def test_the_page_covers_what_a_model_needs() -> None:
    shown = set(re.findall(r"qfx\.ops\.(\w+)", PAGE.read_text()))
    assert shown <= set(qfx.ops.__all__)
    assert {"quantize", "quantize_per_channel", "dequantize", "add", "mul", "cat"} <= shown
