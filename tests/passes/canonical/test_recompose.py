"""Operators of decomposed programs are the layers that they come from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qfx.testing import check
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import Lambda, canonical, image, notes

ATEN = torch.ops.aten
WEIGHTS = {"w": torch.nn.Parameter(image(6, 4, 3, seed=1)), "g": torch.nn.Parameter(torch.ones(4))}


def test_a_convolution() -> None:
    check(
        Canonicalize(),
        Lambda(
            lambda m, x: ATEN.convolution(x, m.w, None, [1], [0], [1], False, [0], 1), **WEIGHTS
        ),
        image(2, 4, 8),
        before="""
            %x           : f32[2,4,8] = input
            %convolution : f32[2,6,6] = aten.convolution(%x, @w, None, [1], [0], [1], False, [0], 1)
            return %convolution
        """,
        after="""
            %x           : f32[2,4,8] = input
            %convolution : f32[2,6,6] = conv1d(%x, @w)
            return %convolution
        """,
    )


def test_a_norm() -> None:
    check(
        Canonicalize(),
        Lambda(lambda m, x: ATEN.native_layer_norm(x, [4], m.g, None, 1e-5)[0], **WEIGHTS),
        image(2, 4),
        before="""
            %x                 : f32[2,4] = input
            %native_layer_norm : (f32[2,4], f32[2,1], f32[2,1]) = aten.native_layer_norm(%x, [4], @g, None, 1e-05)
            %getitem           : f32[2,4] = operator.getitem(%native_layer_norm, 0)
            return %getitem
        """,  # noqa: E501
        after="""
            %x                   : f32[2,4] = input
            %native_layer_norm_1 : f32[2,4] = layer_norm(%x, @g, normalized_shape=(4,))
            return %native_layer_norm_1
        """,
    )


def test_near_miss_a_norm_whose_statistics_are_read() -> None:
    def both(m: Any, x: Tensor) -> Tensor:
        return torch.cat(ATEN.native_layer_norm(x, [4], m.g, None, 1e-5)[:2], -1)

    assert "its statistics are read, too" in notes(canonical(both, image(2, 4), **WEIGHTS))
