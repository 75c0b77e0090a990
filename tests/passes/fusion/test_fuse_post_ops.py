"""Tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.testing import check
from qfx.testing.checking import run
from qfx_passes.fusion.fuse_conv_bn import FuseConvBN
from qfx_passes.fusion.fuse_post_ops import FusePostOps
from tests.passes.fusion.fusions import (
    CONV_RELU,
    EVERYTHING,
    NAMES,
    Apply,
    Residual,
    TwoBranches,
    backend,
    fused,
)
from tests.passes.fusion.test_fuse_conv_bn import (
    CONVS,
    DIMS,
    NORMS,
    TRANSPOSED,
    image,
    ops_of,
    randomised,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


RELUS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "nn.ReLU": nn.ReLU,
    "nn.ReLU in place": lambda: nn.ReLU(inplace=True),
    "F.relu": lambda: F.relu,
    "F.relu in place": lambda: lambda y: F.relu(y, inplace=True),
    "F.relu_": lambda: F.relu_,
    "torch.relu": lambda: torch.relu,
    "torch.relu_": lambda: torch.relu_,
    "x.relu": lambda: lambda y: y.relu(),
    "x.relu_": lambda: lambda y: y.relu_(),
    "x.clamp": lambda: lambda y: y.clamp(min=0),
    "x.clamp_min": lambda: lambda y: y.clamp_min(0),
    "torch.clamp": lambda: lambda y: torch.clamp(y, 0.0),
}


def spellings() -> Iterator[tuple[int, bool, str]]:
    """Each of them at one rank: what a spelling stands for is settled without looking at the layer.

    The module's at every rank, with and without a norm between.
    """
    for dims in DIMS:
        yield dims, False, "nn.ReLU"
        yield dims, True, "nn.ReLU"
    for i, spelling in enumerate(list(RELUS)[1:]):
        yield list(DIMS)[i % len(DIMS)], True, spelling


@pytest.mark.sweep
@pytest.mark.parametrize(("dims", "norm", "spelling"), list(spellings()))
@pytest.mark.parametrize("kind", [CONVS, TRANSPOSED])
def test_relu_in_every_spelling_fuses_with_every_convolution(
    kind: dict[int, Callable[..., nn.Module]], dims: int, norm: bool, spelling: str
) -> None:
    layer = nn.Sequential(kind[dims](4, 6, 3), *([NORMS[dims](6)] if norm else []))
    model = randomised(Apply(RELUS[spelling](), layer)).double()
    passes = [FuseConvBN(), FusePostOps()]
    fired = 2 if "clamp" in spelling else 1
    result = check(
        passes, model, image(dims).double(), settings=[EVERYTHING], fired=fired, atol=1e-12
    )
    assert fused(result) == [f"{ops_of(result)[0]}+relu"]


@pytest.mark.sweep
@pytest.mark.parametrize("spelling", RELUS)
@pytest.mark.parametrize("norm", [True, False])
def test_relu_in_every_spelling_fuses_with_linear(norm: bool, spelling: str) -> None:
    layer = nn.Sequential(nn.Linear(4, 6), *([nn.BatchNorm1d(6)] if norm else []))
    model = randomised(Apply(RELUS[spelling](), layer)).double()
    inputs = torch.randn(5, 4).double()
    passes, fired = [FuseConvBN(), FusePostOps()], 2 if "clamp" in spelling else 1
    result = check(passes, model, inputs, settings=[EVERYTHING], fired=fired, atol=1e-12)
    assert fused(result) == ["linear+relu"]


ACTS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[object, ...]]] = {
    "relu6": (nn.ReLU6(), ("clamp", 0.0, 6.0)),
    "hardtanh": (nn.Hardtanh(-2.0, 3.0), ("clamp", -2.0, 3.0)),
    "hardswish": (nn.Hardswish(), ("hardswish",)),
    "silu": (F.silu, ("silu",)),
    "gelu": (F.gelu, ("gelu", "none")),
    "gelu tanh": (nn.GELU("tanh"), ("gelu", "tanh")),
    "leaky_relu": (nn.LeakyReLU(0.2), ("leaky_relu", 0.2)),
    "leaky_relu default": (F.leaky_relu, ("leaky_relu", 0.01)),
    "tanh": (torch.tanh, ("tanh",)),
    "sigmoid": (nn.Sigmoid(), ("sigmoid",)),
    "hardsigmoid": (F.hardsigmoid, ("hardsigmoid",)),
}


@pytest.mark.parametrize("name", ACTS)
def test_activation_becomes_a_post_op_with_its_attributes(name: str) -> None:
    function, post = ACTS[name]
    result = check(FusePostOps(), Apply(function).eval(), settings=[EVERYTHING], fired=1)
    (node,) = (n for n in result.graph_module.graph.nodes if n.op == "call_function")
    assert node.kwargs["post"] == (post,)


def test_every_activation_that_has_a_post_op_is_covered() -> None:
    assert {post[0] for _, post in ACTS.values()} | {"relu"} == set(NAMES)


def test_golden() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU6()))
    check(
        [FuseConvBN(), FusePostOps()],
        model,
        settings=[EVERYTHING],
        fired={"fuse-activation": 1},
        atol=1e-6,
        after="""
            %input_1 : f32[1,3,8,8] = input('input')
            %_0_2_2  : f32[1,4,3,3] = conv2d+clamp(%input_1, @0.weight_1, @0.bias_1, stride=(2, 2), clamp=(0.0, 6.0))
            return %_0_2_2
        """,  # noqa: E501
    )


class SharedRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.b(self.relu(self.a(x))))


def test_shared_relu_fuses_everywhere() -> None:
    result = check(FusePostOps(), SharedRelu().eval(), settings=[CONV_RELU], fired=2)
    assert fused(result) == ["conv2d+relu", "conv2d+relu"]


class LinearTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(F.relu(self.fc(x))))


def test_linear_called_twice_keeps_one_weight() -> None:
    model = LinearTwice().eval()
    result = check(FusePostOps(), model, torch.randn(2, 4), settings=[EVERYTHING], fired=2)
    assert fused(result) == ["linear+relu", "linear+relu"]
    assert set(result.graph_module.state_dict()) == {"fc.weight", "fc.bias"}


class AddsSharedRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.relu(self.relu(x + y) + y)


def test_shared_in_place_relu_after_two_adds() -> None:
    inputs = (torch.randn(2, 4), torch.randn(2, 4))
    table = backend(add=(("relu",),))
    result = check(FusePostOps(), AddsSharedRelu().eval(), inputs, settings=[table], fired=2)
    assert fused(result) == ["add+relu", "add+relu"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: F.relu(a * b), ["mul+relu"]),
        (lambda a, b: F.relu(a @ b), ["matmul+relu"]),
        (lambda a, b: torch.matmul(a, b).add(a), ["matmul+add"]),
    ],
)
def test_arithmetic_takes_post_ops(
    function: Callable[[Tensor, Tensor], Tensor], expected: list[str]
) -> None:
    class Arithmetic(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return function(a, b)

    inputs = (torch.randn(4, 4), torch.randn(4, 4))
    result = check(FusePostOps(), Arithmetic().eval(), inputs, settings=[EVERYTHING])
    assert fused(result) == expected


def test_relu_fuses_with_a_batch_norm_that_stays() -> None:
    model = randomised(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    result = check([FuseConvBN(), FusePostOps()], model, settings=[EVERYTHING])
    assert fused(result) == ["batch_norm+relu"]


# -- residuals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        (lambda y, x: y + x, "conv2d+add"),
        (lambda y, x: x + y, "conv2d+add"),
        (lambda y, x: F.relu(y + x), "conv2d+add+relu"),
        (lambda y, x: x.add(y).relu_(), "conv2d+add+relu"),
        (lambda y, x: torch.add(x, y, alpha=1), "conv2d+add"),
        (lambda y, x: F.relu(y) + x, "conv2d+relu+add"),
    ],
)
def test_residual_fuses(combine: Callable[[Tensor, Tensor], Tensor], expected: str) -> None:
    model = randomised(Residual(combine))
    passes, fired = [FuseConvBN(), FusePostOps()], expected.count("+")
    result = check(passes, model, settings=[EVERYTHING], fired=fired, atol=1e-5)
    assert fused(result) == [expected]


def test_golden_residual() -> None:
    check(
        [FuseConvBN(), FusePostOps()],
        randomised(Residual(lambda y, x: F.relu(y + x))),
        settings=[EVERYTHING],
        fired={"fuse-residual": 1, "fuse-activation": 1},
        atol=1e-5,
        after="""
            %x                  : f32[1,3,8,8] = input
            %conv_norm_add_relu : f32[1,3,8,8] = conv2d+add+relu(%x, @conv.weight_1, @conv.bias_1, padding=(1, 1), add=%x)
            return %conv_norm_add_relu
        """,  # noqa: E501
    )


def test_of_two_convolutions_the_later_takes_the_other_as_residual() -> None:
    result = check(FusePostOps(), TwoBranches().eval(), settings=[EVERYTHING], fired=1)
    check(
        FusePostOps(),
        TwoBranches().eval(),
        settings=[EVERYTHING],
        after="""
            %x         : f32[1,3,8,8] = input
            %main      : f32[1,4,8,8] = conv2d(%x, @main.weight, @main.bias)
            %short_add : f32[1,4,8,8] = conv2d+add(%x, @short.weight, @short.bias, add=%main)
            return %short_add
        """,
    )
    assert fused(result) == ["conv2d", "conv2d+add"]


def test_falls_back_on_the_earlier_convolution() -> None:
    model = TwoBranches(short_read_twice=True).eval()
    result = check(FusePostOps(), model, settings=[EVERYTHING], fired=1)
    (total,) = (n for n in result.graph_module.graph.nodes if n.kwargs.get("post"))
    assert total.args[1].target == "main.weight"


def test_the_order_of_the_operands_does_not_matter() -> None:
    class Swapped(TwoBranches):
        def forward(self, x: Tensor) -> Tensor:
            main = self.main(x)
            return self.short(x) + main

    texts = []
    for kind in (TwoBranches, Swapped):
        result = run(FusePostOps(), kind().eval(), settings=[EVERYTHING])
        (total,) = (n for n in result.graph_module.graph.nodes if n.kwargs.get("post"))
        texts.append(total.args[1].target)
    assert texts == ["short.weight", "short.weight"]


def test_addition_that_took_its_relu_first_still_fuses() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x) + x)

    class Widen(Pass):
        name = "widen"

        def run(self, graph: fx.Graph, ctx: PassContext) -> None:
            ctx.put(EVERYTHING)

    passes = [FusePostOps(), Widen(), FusePostOps()]
    table = [backend(add=(("relu",),))]
    assert fused(run(FusePostOps(), Late().eval(), settings=table)) == ["conv2d", "add+relu"]
    result = check(passes, Late().eval(), settings=table, fired={"fuse-residual": 1})
    assert fused(result) == ["conv2d+add+relu"]
