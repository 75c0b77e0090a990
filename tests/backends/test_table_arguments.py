"""Every row of every table over the arguments of its operation: lowered runs and is right.

One model holds all calls of one operation that its float model can run, between two layers so that
they may move integers. Each is quantized and agrees with the reference, or float with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.backends import available
from tests.cases.flow import seeded
from tests.support.tables import assert_told, largest_step, unclipped

Fn = Callable[[Tensor], Tensor]
SHAPES = {1: (2, 8, 6), 2: (2, 8, 6, 5), 3: (2, 8, 4, 5, 6)}
PADS = [
    *((1, 1), (0, 2), (1, -1), (-1, -1), (1, 1, 2, 0), (1, -1, 0, 2), (0, 0, 1, 1, 2, 2)),
    *((1, 1, 1, 1, 1, -1), (0, 0, 0, 0, 1, 1), (0, 0, 0, 0, 1, 1, 1, 0)),
]
POOLS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 1, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "padding": 1, "count_include_pad": False},
    {"kernel_size": 2, "divisor_override": 3},
]
SIZES: list[dict[str, Any]] = [
    {"scale_factor": 2},
    {"scale_factor": 1.5, "recompute_scale_factor": True},
    {"size": 4},
    {"size": 4, "antialias": True},
    {"scale_factor": 2, "align_corners": True},
]
MODES = ("nearest", "linear", "bilinear", "bicubic", "trilinear", "nearest-exact", "area")


def half_of(calls: list[Fn], dims: int) -> list[Fn]:
    """Every other pair: with and without a batch; the others are those of the next rank."""
    return [call for i, call in enumerate(calls) if (i // 2 + dims) % 2]


def bind(function: Callable[..., Any], **options: Any) -> Fn:
    def call(x: Tensor) -> Tensor:
        y = function(x, **options)
        return y[0] if isinstance(y, tuple) else y

    return call


def pad(dims: int) -> Iterator[Fn]:
    for mode, pads in product(("constant", "reflect", "replicate", "circular"), PADS):
        yield bind(F.pad, pad=pads, mode=mode)
    yield bind(F.pad, pad=(1, 1), value=1.5)


def pools(dims: int) -> Iterator[Fn]:
    for kind, options in product(("max", "avg"), POOLS):
        function = getattr(F, f"{kind}_pool{dims}d")
        yield bind(function, **options)
        yield lambda x, f=function, o=options: f(x[0], **o)  # type: ignore[misc]
    yield bind(getattr(F, f"max_pool{dims}d"), kernel_size=2, return_indices=True)


def adaptive_pools(dims: int) -> Iterator[Fn]:
    for kind, size in product(("max", "avg"), (1, 3, (2,) * dims)):
        function = getattr(F, f"adaptive_{kind}_pool{dims}d")
        yield bind(function, output_size=size)
        yield lambda x, f=function, s=size: f(x[0], s)  # type: ignore[misc]


def interpolate(dims: int) -> Iterator[Fn]:
    for mode, options in product(MODES, SIZES):
        yield bind(F.interpolate, mode=mode, **options)


def along_dims(dims: int) -> Iterator[Fn]:
    for d in range(-1, dims + 2):
        yield lambda x, d=d: x.mean(d)  # type: ignore[misc]
        yield lambda x, d=d: x.mean(d, keepdim=True)  # type: ignore[misc]
        yield lambda x, d=d: x.softmax(d)  # type: ignore[misc]
        yield lambda x, d=d: torch.cat([x, x.flip(d)], d)  # type: ignore[misc]
        yield lambda x, d=d: torch.stack([x, x], d)  # type: ignore[misc]
        yield lambda x, d=d: x.roll(1, d)  # type: ignore[misc]
        yield lambda x, d=d: x.transpose(0, d)  # type: ignore[misc]
    yield lambda x: x.mean()
    yield lambda x: x.roll(3)


def shuffles(dims: int) -> Iterator[Fn]:
    if dims < 3:  # of volumes in channels_last_3d torch itself makes none
        yield lambda x: F.pixel_shuffle(x, 2)
        yield lambda x: F.pixel_unshuffle(x[..., :2, :2], 2)
        yield lambda x: F.channel_shuffle(x, 2)
    yield lambda x: x.repeat(*[2] * x.dim())
    yield lambda x: x.repeat_interleave(2)
    yield lambda x: x.repeat_interleave(2, 1)
    yield lambda x: x[:, [0, 2]]
    yield lambda x: x[:1].squeeze()
    yield lambda x: x.unsqueeze(0).expand(2, *x.shape)


def arithmetic(dims: int) -> Iterator[Fn]:
    yield lambda x: x + 1
    yield lambda x: 2 - x
    yield lambda x: x * -0.5
    yield lambda x: x + x[:1]
    yield lambda x: x[:, :1] + x
    yield lambda x: x * x.mean(-1, keepdim=True)
    yield lambda x: torch.add(x, x, alpha=2)
    yield lambda x: x @ x.transpose(-1, -2)
    yield lambda x: x @ x[0].transpose(-1, -2)
    yield lambda x: F.elu(x, 0.5)
    yield lambda x: F.leaky_relu(x, 0.3)
    yield lambda x: x.clamp(-0.3, 0.4)
    yield lambda x: x.clamp(min=-0.3)
    yield lambda x: x.clamp(max=0.3)
    yield lambda x: F.group_norm(x, 2)
    yield lambda x: F.instance_norm(x)
    yield lambda x: F.layer_norm(x, x.shape[-1:])
    yield lambda x: F.layer_norm(x, x.shape[1:])


FAMILIES = {f.__name__: f for f in (
    pad, pools, adaptive_pools, interpolate, along_dims, shuffles, arithmetic
)}  # fmt: skip


class Calls(nn.Module):
    """Every call on its own between two layers."""

    def __init__(self, calls: list[Fn], dims: int) -> None:
        super().__init__()
        self.first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](8, 8, 1)
        self.calls = [call for call in calls if self._runs(call, dims)]
        sizes = [call(torch.ones(SHAPES[dims])).numel() for call in self.calls]
        self.last = nn.ModuleList(nn.Linear(size, 3) for size in sizes)

    def _runs(self, call: Fn, dims: int) -> bool:
        try:
            return call(torch.ones(SHAPES[dims])).is_floating_point()
        except Exception:  # no such form of the operation in torch either
            return False

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(x)
        calls = zip(self.calls, self.last, strict=True)
        return [layer(call(x).reshape(1, -1)) for call, layer in calls]


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_lowered_runs_and_is_right(family: str, dims: int, backend: str) -> None:
    if backend not in available():
        pytest.skip(f"no {backend} here")
    calls = list(FAMILIES[family](dims))
    # Its rows are fbgemm's, with kernels that differ: they see each call, not all of every rank.
    model = seeded(lambda: Calls(half_of(calls, dims) if backend == "qnnpack" else calls, dims))
    x = torch.randn(SHAPES[dims], generator=torch.Generator().manual_seed(1))
    qconfig = qfx.get_default_qconfig(backend, "static")
    whole = qfx.QConfig(unclipped(qconfig.activation), qconfig.weight)
    with torch.no_grad():
        qmodel = qfx.quantize(model, x, backend=backend, qconfig=whole)
        expected, got = qmodel.reference(x), qmodel(x)
    for i, (theirs, ours) in enumerate(zip(expected, got, strict=True)):
        assert theirs.shape == ours.shape, i
        assert torch.isfinite(ours).all(), i
        assert (theirs - ours).abs().max() <= 2.05 * largest_step(qmodel), i
    assert_told(qmodel)
