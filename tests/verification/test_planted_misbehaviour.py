"""Kernels that raise, hand out the wrong kind or write to their inputs; passes of backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.backends import resolve_backend
from qfx.backends.base import LoweringSite
from qfx.framework.pass_context import PassContext
from qfx.numerics.measures import sqnr
from tests.support.planted import with_fault


def its_input(site: LoweringSite) -> tuple[Any, ...]:
    given, _ = next(iter(site.inputs.values()))
    return (given,)


def raises(y: Tensor, x: Tensor) -> Tensor:
    raise RuntimeError("no kernel for this geometry")


def short(y: Tensor, x: Tensor) -> Tensor:
    return y[..., :3]


def wide(y: Tensor, x: Tensor) -> Tensor:
    return y.double() if y.is_floating_point() else y.to(torch.int32)


def nothing(y: Tensor, x: Tensor) -> Tensor:
    return None  # type: ignore[return-value]


def writes(y: Tensor, x: Tensor) -> Tensor:
    x.add_(40)
    return y


class Mixed(nn.Module):
    """Two layers of a kind, one of another: that one stays in integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


def put_back(qmodel: qfx.QuantizedModel) -> set[str]:
    sites = qmodel.report.sites
    return {site.node for site in sites if site.reason == "kernel-failed-check"}


@pytest.mark.parametrize("corrupt", [raises, short, wide, nothing])
def test_a_kernel_that_fails_is_put_back(corrupt: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(4, 3, 6, 6)
    qmodel = qfx.quantize(
        model, x, backend=with_fault("x86", vocab.LINEAR, corrupt, more=its_input)
    )
    assert {s.op for s in qmodel.report.sites if s.decision == "quantized"} >= {"Conv2d"}
    assert put_back(qmodel) >= {"first", "second"}
    assert "conv" not in put_back(qmodel)
    assert sqnr(qmodel.reference(x), qmodel(x)) > 40


class Shared(nn.Module):
    """Two layers of different kinds read one value; the first writes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left = nn.Linear(8, 8), nn.Linear(8, 8)
        self.right = nn.Conv1d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y: Tensor = self.right(x) + self.left(x)
        return y


def test_the_writer_is_put_back_not_the_next_reader() -> None:
    torch.manual_seed(0)
    model, x = Shared().eval(), torch.randn(2, 6, 8)
    qmodel = qfx.quantize(model, x, backend=with_fault("x86", vocab.CONV1D, writes, more=its_input))
    assert put_back(qmodel) == {"right"}
    assert "writes to its input" in str(qmodel.report)
    assert sqnr(qmodel.reference(x), qmodel(x)) > 40


class ReadsItsArgument(nn.Module):
    """A layer whose kernel is given the very argument, which nothing else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.embedding = nn.Linear(8, 8), nn.Embedding(6, 8)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + self.embedding(ids)
        return y


def test_who_writes_to_an_argument_is_put_back() -> None:
    torch.manual_seed(0)
    model, x, ids = ReadsItsArgument().eval(), torch.randn(6, 8), torch.arange(6)
    before = x.clone()
    backend = with_fault(
        "x86",
        vocab.LINEAR,
        writes,
        method="weight_only",
        more=lambda site: (site.arguments["input"],),
    )
    qmodel = qfx.quantize(model, (x, ids), backend=backend, method="weight_only")
    assert put_back(qmodel) == {"linear", "add"}
    assert sqnr(model(x, ids), qmodel(x, ids)) > 30
    assert torch.equal(x, before)


def louder(y: Tensor) -> Tensor:
    return y * 1.02


class Louder(qfx.Pass):
    name = "louder"
    requires = qfx.Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        *_, output = graph.nodes
        (value,) = output.all_input_nodes
        with ctx.rewriter.at(output):
            ctx.rewriter.replace(value, ctx.rewriter.call(louder, value))


def test_a_pass_of_a_backend_that_changes_the_output_is_named() -> None:
    torch.manual_seed(0)
    backend = resolve_backend("x86")
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(4, 8)
    with pytest.raises(qfx.PassError, match="pass louder changes"):
        qfx.quantize(model, x, backend=replace(backend, passes=(*backend.passes, Louder())))
