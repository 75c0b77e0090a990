"""fuse-pads: max pools that pad with what is in front of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import vocab
from qfx.testing.checking import check
from qfx_passes.fusion.fuse_pads import FusePads
from tests.cases.flow import randn


class Padded(nn.Module):
    """Some padding, then some pooling."""

    def __init__(
        self, pad: Callable[[Tensor], Tensor], pool: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.pad = pad
        self.pool = pool or (lambda x: F.max_pool2d(x, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.pad(x))


def test_same_padding() -> None:
    check(
        FusePads(),
        Padded(
            lambda x: F.pad(x, (0, 1, 0, 1), value=-math.inf), lambda x: F.max_pool2d(x, 2)
        ).eval(),
        after="""
            %x              : f32[1,3,8,8] = input
            %pad_max_pool2d : f32[1,3,4,4] = max_pool2d(%x, kernel_size=(2, 2), spread=(0, 1, 0, 1))
            return %pad_max_pool2d
        """,
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_rank(dims: int) -> None:
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    model = Padded(lambda x: F.pad(x, (1, 2) * dims, value=-1e9), lambda x: pool(x, 3, 2))
    check(FusePads(), model.eval(), randn(2, 3, *(6,) * dims))


FILLS: dict[str, Callable[[Tensor], float]] = {
    "least": lambda x: torch.finfo(x.dtype).min,
    "minus the largest": lambda x: -torch.finfo(x.dtype).max,
    "least float32": lambda x: torch.finfo(torch.float32).min,
    "a number": lambda x: -0.25,
}


@pytest.mark.parametrize("name", FILLS)
def test_what_it_fills_with(name: str) -> None:
    model = Padded(lambda x: F.pad(x, (1, 1, 1, 1), value=FILLS[name](x)))
    result = check(FusePads(), model.eval())
    (pool,) = [n for n in result.graph_module.graph.nodes if n.target is vocab.MAX_POOL2D]
    assert pool.kwargs["fill"] == FILLS[name](torch.zeros(1))


def test_sizes_stay_symbolic() -> None:
    def same(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % 2 + 1, 0, -height % 2 + 1), value=-math.inf)

    model = Padded(same).eval()
    pooled = check(FusePads(), model).graph_module
    x = randn(2, 3, 7, 11)
    assert torch.equal(pooled(x), model(x))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Padded(lambda x: F.pad(x, (1, 1, 1, 1))), "it pads with zeros, which have a code"),
        (Padded(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")), "mode is reflect"),
        (Padded(lambda x: F.pad(x, (-1, 1, 0, 0), value=-1.0)), "it crops"),
        (
            Padded(lambda x: F.pad(x, (1, 1, 1, 1), value=x.shape[0] - 9.5)),
            "what it fills with is computed",
        ),
    ],
)
def test_does_not_fire(model: Padded, reason: str) -> None:
    check(FusePads(), model.eval(), mismatch=reason)


def test_indices_are_those_of_what_is_padded() -> None:
    class Indices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool2d(2, return_indices=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(F.pad(x, (1, 1, 1, 1), value=-9.0))[1]

    check(FusePads(), Indices().eval(), mismatch="the pool yields indices, or pads already")
