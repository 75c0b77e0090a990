"""Constant factors and summands of channels behind a layer become its weight and bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.capture import capture
from qfx.framework.pass_context import PassContext
from qfx.history.events import NearMiss
from qfx.testing import check
from qfx_passes.canonical.fold_constants import FoldConstants
from qfx_passes.fusion.fuse_conv_bn import FuseConvBN
from tests.passes.fusion.test_fuse_conv_bn import CONVS, TRANSPOSED, image, ops_of

PASSES = [FoldConstants(), FuseConvBN()]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class FrozenNorm(nn.Module):
    """As torchvision and DETR write a batch-norm whose statistics and parameters are buffers."""

    def __init__(self, channels: int, dims: int = 2) -> None:
        super().__init__()
        self.shape = (1, -1, *[1] * dims)
        self.register_buffer("weight", torch.rand(channels) + 0.5)
        self.register_buffer("bias", torch.randn(channels))
        self.register_buffer("running_mean", torch.randn(channels))
        self.register_buffer("running_var", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        w, b = self.weight.reshape(self.shape), self.bias.reshape(self.shape)
        scale = w * (self.running_var.reshape(self.shape) + 1e-5).rsqrt()
        return x * scale + (b - self.running_mean.reshape(self.shape) * scale)


class Then(nn.Module):
    """A layer, and a function of what it yields and a constant."""

    def __init__(self, layer: nn.Module, then: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.layer, self.then = layer, then
        self.gamma = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.layer(x), self.gamma)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", CONVS)
@pytest.mark.parametrize(("kind", "groups"), [(CONVS, 2), (TRANSPOSED, 1), (TRANSPOSED, 2)])
def test_frozen_batch_norms(kind: dict[int, Any], groups: int, dims: int, bias: bool) -> None:
    conv = kind[dims](4, 6, 3, groups=groups, bias=bias)
    model = nn.Sequential(conv, FrozenNorm(6, dims)).double().eval()
    result = check(PASSES, model, image(dims).double(), fired=2, atol=1e-12)
    assert len(ops_of(result)) == 1


@pytest.mark.parametrize("shape", [(2, 4), (2, 5, 4), (4,)])
@pytest.mark.parametrize(
    ("then", "fired"),
    [
        (lambda y, g: y * g, 1),
        (lambda y, g: g * y, 1),
        (lambda y, g: y + g, 1),
        (lambda y, g: torch.sub(y, g, alpha=3), 1),
        (lambda y, g: (y - g).mul_(g), 2),
    ],
)
def test_linear_of_any_rank(
    then: Callable[..., Tensor], fired: int, shape: tuple[int, ...]
) -> None:
    model = Then(nn.Linear(4, 6), then, 6).double().eval()
    result = check(PASSES, model, torch.randn(shape).double(), fired=fired, atol=1e-12)
    assert ops_of(result) == ["linear"]


def test_what_it_yields() -> None:
    model = Then(nn.Conv2d(3, 4, 3, bias=False), lambda y, g: y * g + g, 4, 1, 1).eval()
    check(
        FuseConvBN(),
        model,
        fired=2,
        atol=1e-5,
        after="""
            %x             : f32[1,3,8,8] = input
            %layer_mul_add : f32[1,4,6,6] = conv2d(%x, @layer.weight_1, @layer.bias)
            return %layer_mul_add
        """,
    )


NEAR_MISSES = {
    "along another dim": (lambda y, g: y * g, (6,), "%gamma is not one number a channel of layer"),
    "of each place": (lambda y, g: y + g, (4, 6, 6), "%gamma is not one number a channel of layer"),
    "one for all": (lambda y, g: y * g, (1,), "%gamma is not one number a channel of layer"),
    "more dims": (
        lambda y, g: y * g,
        (2, 1, 4, 1, 1),
        "mul changes the shape or the dtype of layer",
    ),
    "dtype": (
        lambda y, g: y * g.double(),
        (4, 1, 1),
        "mul changes the shape or the dtype of layer",
    ),
    "read twice": (lambda y, g: y * g + y, (4, 1, 1), "layer: expected 1 user, has 2"),
}


@pytest.mark.parametrize(("then", "shape", "reason"), NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses(then: Callable[..., Tensor], shape: tuple[int, ...], reason: str) -> None:
    model = Then(nn.Conv2d(3, 4, 3), then, *shape).eval()
    check(PASSES, model, fired=0, mismatch=reason, atol=1e-5)


def test_unbatched_convolution() -> None:
    model = Then(nn.Conv2d(3, 4, 3), lambda y, g: y * g, 4, 1, 1).eval()
    reason = "dim 1 of the rank-3 result of layer is not its channel dim"
    check(FuseConvBN(), model, torch.randn(3, 8, 8), fired=0, mismatch=reason)


def test_a_factor_that_is_trained_stays() -> None:
    model = Then(nn.Conv2d(3, 4, 3), lambda y, g: y * g, 4, 1, 1).eval()
    check(
        FuseConvBN(trainable=True),
        model,
        fired=0,
        mismatch="layer and what it is made of may be trained",
    )


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.register_buffer("calls", torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) * self.calls
        self.calls.add_(1)
        return y


def test_a_factor_that_changes_stays() -> None:
    check(
        FuseConvBN(),
        Counting().eval(),
        fired=0,
        mismatch="%calls is changed in place when the model runs",
    )


def test_a_layer_with_a_frozen_norm_is_quantized_as_with_batch_norm() -> None:
    frozen, norm = FrozenNorm(8), nn.BatchNorm2d(8)
    norm.load_state_dict(frozen.state_dict(), strict=False)
    conv = nn.Conv2d(3, 8, 3, bias=False)
    x = torch.randn(2, 3, 12, 12)
    made = [
        qfx.quantize(nn.Sequential(conv, each, nn.ReLU()).eval(), x, calibration_data=[x])
        for each in (frozen, norm)
    ]
    torch.testing.assert_close(made[0](x), made[1](x))
    calls = [[n.target for n in q.graph.nodes if n.op == "call_function"] for q in made]
    assert calls[0] == calls[1]


def test_near_misses_of_stages_before_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    ctx = PassContext(capture(model, (torch.randn(1, 3, 8, 8),)))
    before = NearMiss("fuse-conv-bn/fold-factor", "gone", "why not")
    ctx.near_misses.append(before)
    FuseConvBN().run(ctx.graph_module.graph, ctx)
    assert ctx.near_misses[0] == before
