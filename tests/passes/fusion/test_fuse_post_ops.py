from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx import DeQuantStub, QConfig, QConfigMapping, QuantStub, vocab
from qfx.backends.base import Backend, KernelRule
from qfx.capture.capture import capture
from qfx.configuration.configuration import Configuration
from qfx.framework.pass_base import Pass, PassContext
from qfx_passes.fusion.fuse_conv_bn import FuseConvBN
from qfx_passes.fusion.fuse_post_ops import ACTIVATIONS, FusePostOps
from qfx_passes.fusion.fusible import CARRIERS
from tests.passes.fusion.test_fuse_conv_bn import (
    CONVS,
    DIMS,
    NORMS,
    TRANSPOSED,
    image,
    ops_of,
    randomised,
)
from tests.support import check
from tests.support.checking import Result, run

NAMES = tuple(op.name for op in ACTIVATIONS)
SINGLE = tuple((name,) for name in NAMES)
FULL = (*SINGLE, ("add",), ("add", "relu"), ("relu", "add"))


def backend(**chains: tuple[tuple[str, ...], ...]) -> Backend:
    rules = tuple(KernelRule(vocab.lookup(n), "k", post=chain) for n, chain in chains.items())
    return Backend("fake", rules, {})


IMAGE = torch.randn(1, 3, 8, 8)
EVERYTHING = backend(**{op.name: FULL for op in CARRIERS})
CONV_RELU = backend(conv2d=(("relu",),))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def fused(result: Result) -> list[str]:
    """Every operation with its post-ops, in graph order."""
    nodes = [n for n in result.graph_module.graph.nodes if n.op == "call_function"]
    return ["+".join([n.target.name, *(p[0] for p in n.kwargs.get("post", ()))]) for n in nodes]


class Apply(nn.Module):
    """``function`` of a convolution."""

    def __init__(self, function: Callable[..., Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer or nn.Conv2d(3, 4, 3)
        self.function = function
        if isinstance(function, nn.Module):
            self.act = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


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


class Residual(nn.Module):
    """``combine(conv, x)``, with batch-norm after the convolution."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self.norm(self.conv(x)), x)


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


class TwoBranches(nn.Module):
    """``short`` is computed last; ``main`` may be read a second time."""

    def __init__(self, *, main_act: bool = False, short_read_twice: bool = False) -> None:
        super().__init__()
        self.main, self.short = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.main_act, self.short_read_twice = main_act, short_read_twice

    def forward(self, x: Tensor) -> Tensor:
        main = self.main(x)
        short = self.short(x)
        total = main + short
        return total * short.mean() if self.short_read_twice else total


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


# -- near-misses -----------------------------------------------------------------------------------


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.relu() * y


def near_misses() -> list[Any]:
    def case(name: str, function: Any, reason: str, inputs: Any = None) -> Any:
        model = function if isinstance(function, nn.Module) else Residual(function)
        return pytest.param(model, reason, inputs, id=name)

    return [
        case("read twice", ReadTwice(), "layer: expected 1 user, has 2"),
        case("same operand twice", lambda y, x: y + y, "layer: expected 1 user, has 2"),
        case("alpha", lambda y, x: torch.add(y, x, alpha=2), "alpha is 2"),
        case("number", lambda y, x: y + 3.0, "3.0 is a number, not a residual"),
        case(
            "broadcast",
            lambda y, x: y + x.mean((2, 3), keepdim=True),
            "residual has shape [1, 3, 1, 1], conv2d yields [1, 3, 8, 8]",
        ),
        case(
            "broadcast of the layer",
            lambda y, x: y + torch.stack([x, x]),
            "residual has shape [2, 1, 3, 8, 8], conv2d yields [1, 3, 8, 8]",
        ),
        case(
            "dtype",
            lambda y, x: y + x.double(),
            "residual is torch.float64, conv2d yields torch.float32",
        ),
        case("one-sided clamp", lambda y, x: y.clamp(max=3.0), "min=None is not a number"),
        case(
            "chain",
            lambda y, x: F.gelu(F.relu(y)),
            "backend fake cannot fuse gelu into conv2d+relu",
        ),
    ]


@pytest.mark.parametrize(("model", "reason", "inputs"), near_misses())
def test_near_miss(model: nn.Module, reason: str, inputs: Any) -> None:
    passes = [FuseConvBN(), FusePostOps()]
    result = run(passes, randomised(model), inputs, settings=[EVERYTHING])
    assert reason in result.reasons, result.reasons
    fired = reason.count("+")
    check(passes, model, inputs, settings=[EVERYTHING], fired=fired, atol=1e-5)


def test_clamp_by_a_tensor() -> None:
    """It is no canonical clamp, so no rule even comes near."""
    model = randomised(Residual(lambda y, x: y.clamp(x, 2 * x)))
    result = check([FuseConvBN(), FusePostOps()], model, settings=[EVERYTHING], fired=0, atol=1e-5)
    assert result.reasons == []


def test_backend_without_the_kernel() -> None:
    result = check(
        FusePostOps(),
        Apply(F.gelu).eval(),
        settings=[CONV_RELU],
        fired=0,
        mismatch="backend fake cannot fuse gelu into conv2d",
    )
    assert fused(result) == ["conv2d", "gelu"]


def test_backend_without_residuals() -> None:
    result = check(
        [FuseConvBN(), FusePostOps()],
        randomised(Residual(lambda y, x: F.relu(y + x))),
        settings=[CONV_RELU],
        fired=0,
        mismatch="backend fake cannot fuse add into conv2d",
        atol=1e-5,
    )
    assert fused(result) == ["conv2d", "add", "relu"]


class Embedded(nn.Module):
    """A position embedding has the shape of the result, in a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.position = nn.Linear(4, 4), nn.Parameter(torch.randn(1, 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.position * 2


def test_constant_is_no_residual() -> None:
    result = check(
        FusePostOps(),
        Embedded().eval(),
        torch.randn(1, 5, 4),
        settings=[EVERYTHING],
        fired=0,
        mismatch="mul depends on no input: it may broadcast in other batches",
    )
    assert result.graph_module(torch.randn(3, 5, 4)).shape == (3, 5, 4)


class Overwritten(nn.Module):
    """The input of the layers changes once they have read it, and a view of it is read later."""

    def __init__(self, finish: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.finish = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), finish

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x * 1
        y = self.conv(z)
        view = z.view(1, -1)
        z.add_(5.0)
        return self.finish(self.norm(y), x), view


def test_residual_added_after_the_input_is_overwritten() -> None:
    result = check(
        [FuseConvBN(), FusePostOps()],
        randomised(Overwritten(lambda y, x: y + x)),
        settings=[EVERYTHING],
        fired=0,
        mismatch="add_ may overwrite mul_2 before the replacement of add reads it",
        atol=1e-5,
    )
    assert "conv2d" in fused(result)


def test_activation_is_computed_before_the_input_is_overwritten() -> None:
    model = randomised(Overwritten(lambda y, x: F.relu(y)))
    result = check([FuseConvBN(), FusePostOps()], model, settings=[EVERYTHING], atol=1e-5)
    assert "conv2d+relu" in fused(result)


class Stubbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.quant, self.dequant = nn.Conv2d(3, 3, 1), QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.conv(self.quant(x)) + x)


def test_residual_from_outside_the_stubs() -> None:
    check(
        FusePostOps(),
        Stubbed().eval(),
        settings=[EVERYTHING],
        fired=0,
        mismatch="only one of conv and add lies between the stubs",
    )


def test_relu_behind_the_stub() -> None:
    class Behind(Stubbed):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.dequant(self.conv(self.quant(x))))

    check(FusePostOps(), Behind().eval(), settings=[EVERYTHING], fired=0)


# -- what the user asked for -----------------------------------------------------------------------


class ConvAddRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(torch.add(self.conv(x), x))


DEFAULT = qfx.get_default_qconfig("reference", "static")
assert DEFAULT.activation is not None
NARROW = QConfig(replace(DEFAULT.activation, quant_max=127), DEFAULT.weight)


def configured(model: nn.Module, mapping: QConfigMapping, **options: Any) -> list[object]:
    captured = capture(model, (IMAGE,))
    return [EVERYTHING, Configuration(captured, model, mapping, EVERYTHING, "static", **options)]


def everything() -> QConfigMapping:
    return QConfigMapping().set_global(DEFAULT)


@pytest.mark.parametrize(
    ("mapping", "expected", "mismatch"),
    [
        (everything(), ["conv2d+add+relu"], None),
        (QConfigMapping().set_global(None), ["conv2d+add+relu"], None),
        (
            everything().set_object_type(torch.add, None),
            ["conv2d", "add+relu"],
            "the configuration leaves add_relu float (set_object_type(torch.add))",
        ),
        (
            everything().set_module_name("conv", None),
            ["conv2d", "add+relu"],
            "the configuration leaves conv float (set_module_name('conv'))",
        ),
        (
            everything().set_module_name("relu", None),
            ["conv2d+add", "relu"],
            "the configuration leaves relu float (set_module_name('relu'))",
        ),
        (
            everything().set_module_name("relu", NARROW),
            ["conv2d+add", "relu"],
            "the configuration quantizes relu its own way (set_module_name('relu'))",
        ),
        (
            everything().set_object_type(torch.add, NARROW),
            ["conv2d", "add+relu"],
            "the configuration quantizes add_relu its own way (set_object_type(torch.add))",
        ),
        (everything().set_module_name("conv", NARROW), ["conv2d+add+relu"], None),
    ],
)
def test_configuration(mapping: QConfigMapping, expected: list[str], mismatch: str | None) -> None:
    model = ConvAddRelu().eval()
    settings = configured(model, mapping)
    fired = 3 - len(expected)
    result = check(FusePostOps(), model, IMAGE, settings=settings, fired=fired, mismatch=mismatch)
    assert fused(result) == expected


def test_falls_back_on_the_convolution_that_is_quantized() -> None:
    model = TwoBranches().eval()
    settings = configured(model, everything().set_module_name("short", None))
    result = check(FusePostOps(), model, IMAGE, settings=settings, fired=1)
    (total,) = (n for n in result.graph_module.graph.nodes if n.kwargs.get("post"))
    assert total.args[1].target == "main.weight"


def test_types_without_relu_still_fuse_it() -> None:
    model = Apply(F.relu).eval()
    settings = configured(model, everything(), types=[nn.Conv2d])
    assert fused(check(FusePostOps(), model, IMAGE, settings=settings)) == ["conv2d+relu"]


def test_types_without_add_keep_it() -> None:
    model = ConvAddRelu().eval()
    settings = configured(model, everything(), types=[nn.Conv2d])
    result = check(FusePostOps(), model, IMAGE, settings=settings, fired=1)
    assert fused(result) == ["conv2d", "add+relu"]


# -- cost ------------------------------------------------------------------------------------------


class Counting(Backend):
    """A backend that counts how often its table is asked."""

    asked = 0

    def post_ops(self, op: vocab.OpDef) -> tuple[tuple[str, ...], ...]:
        Counting.asked += 1
        return super().post_ops(op)


def test_work_grows_with_the_graph_and_no_faster() -> None:
    class Chain(nn.Module):
        def __init__(self, blocks: int) -> None:
            super().__init__()
            self.fc, self.blocks = nn.Linear(2, 2), blocks

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.blocks):
                x = F.relu(self.fc(x) + x)
            return x

    asked = []
    for blocks in (25, 50, 100):
        before = Counting.asked
        table = Counting("fake", EVERYTHING.rules, {})
        run(FusePostOps(), Chain(blocks).eval(), torch.randn(1, 2), settings=[table])
        asked.append(Counting.asked - before)
    assert asked[2] - asked[1] == 2 * (asked[1] - asked[0])
