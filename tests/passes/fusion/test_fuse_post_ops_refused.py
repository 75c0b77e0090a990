"""Where activations and residuals are not fused, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import DeQuantStub, QuantStub
from qfx.testing import check
from qfx.testing.checking import run
from qfx_passes.fusion.fuse_conv_bn import FuseConvBN
from qfx_passes.fusion.fuse_post_ops import FusePostOps
from tests.passes.fusion.fusions import (
    CONV_RELU,
    EVERYTHING,
    Apply,
    Residual,
    fused,
)
from tests.passes.fusion.test_fuse_conv_bn import (
    randomised,
)


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
