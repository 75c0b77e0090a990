"""A call that changes its argument and whose result nobody reads was removed as dead code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.graph.effects import has_effect, overwrites
from qfx.graph.known_calls import is_known
from qfx_passes import Canonicalize
from tests.cases.flow import randn, seeded, sqnr, tensors

X, OTHER = randn(2, 3, 8, 8), randn(3, 3, 10, 10, seed=1)
SEEN: list[float] = []


def add_into(x: Tensor, q: Tensor) -> None:
    x += q


def double(x: Tensor) -> Tensor:
    return x.mul_(2)


def write_down(x: Tensor) -> None:
    SEEN.append(float(x.sum()))


def put(into: list[Tensor], x: Tensor) -> None:
    into.append(x * 2)


def fill(into: dict[str, Any], x: Tensor) -> None:
    into["doubled"], into["count"] = x * 2, x.shape[0]


for _function in (add_into, double, write_down, put, fill):
    fx.wrap(_function)


@torch.library.custom_op("qfx_report_25::add_into", mutates_args=("x",))
def add_into_op(x: Tensor, q: Tensor) -> None:
    x.add_(q)


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.branch = nn.Conv2d(8, 8, 1)


class Function(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        add_into(y, self.branch(y))
        return self.second(y)


class FunctionOnView(Blocks):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        flat = y.flatten(1)
        add_into(y, self.branch(y))
        return self.second(y), flat


class Returned(Blocks):
    """Works in place, and hands out what it worked on, which nobody reads."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        double(y)
        return self.second(y) + self.branch(y).mean()


class CustomOp(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch.ops.qfx_report_25.add_into(y, self.branch(y))
        return self.second(y)


class Out(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch.mul(y, 3.0, out=y)
        return self.second(y)


class Lists(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        y = self.first(x)
        put(found, y)
        put(found, self.branch(y))
        return self.second(found[0]) + found[1][..., :-2, :-2]


class Dicts(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        found: dict[str, Any] = {"x": x}
        fill(found, self.first(x))
        return self.second(found["doubled"]) * found["count"]


class Writes(nn.Module):
    def forward(self, x: Tensor, q: Tensor) -> None:
        x.add_(q)


class Module(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.writes = Writes()
        self.writes.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        self.writes(y, self.branch(y))
        return self.second(y)


MODELS = (Function, FunctionOnView, Returned, CustomOp, Out, Lists, Dicts, Module)


@torch.no_grad()
def check(model: nn.Module, made: nn.Module, bound: float, *inputs: Tensor) -> None:
    for x in inputs:
        for expected, got in zip(tensors(model(x)), tensors(made(x)), strict=True):
            assert sqnr(expected, got) > bound


class All(nn.Module):
    """Every kind on the same input, which none of them writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.models = nn.ModuleList(seeded(kind) for kind in MODELS)

    def forward(self, x: Tensor) -> list[Any]:
        return [model(x) for model in self.models]


@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
def test_quantized(method: str) -> None:
    model = All().eval().requires_grad_(False)
    data = [OTHER, X] if method == "static" else None
    made = qfx.quantize(model, X, method=method, calibration_data=data, backend="reference")
    check(model, made, 20, X, OTHER)


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_lowered(backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    model = All().eval().requires_grad_(False)
    made = qfx.quantize(model, X, calibration_data=[X, OTHER], backend=backend)
    check(model, made, 20, X, OTHER)


@pytest.mark.sweep(first=3)
@pytest.mark.parametrize("kind", MODELS)
def test_run_passes_and_training(kind: Callable[[], nn.Module]) -> None:
    model = seeded(kind).requires_grad_(False)
    canonical, _ = qfx.run_passes(model, [Canonicalize()], X)
    check(model, canonical, 100, X, OTHER)
    trained = qfx.prepare(model, X, method="qat", backend="reference").train()
    trained(X)
    check(model, trained.eval(), 20, X)
    check(model, qfx.convert(trained), 20, X)


def test_what_comes_after_the_change_is_quantized() -> None:
    report = qfx.quantize(seeded(Function), X, backend="reference").report
    assert report.coverage == 1
    report = qfx.quantize(seeded(FunctionOnView), X, backend="reference").report
    assert [s.node for s in report.sites if s.reason == "overwritten"] == ["flatten"]
    assert "may be overwritten in place by add_into" in str(report)


class Note(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        write_down(y)
        return self.second(y)


@pytest.mark.parametrize("method", ["static", "weight_only"])
def test_a_call_that_only_acts_stays_once(method: str) -> None:
    model = seeded(Note)
    made = qfx.quantize(model, X, method=method, backend="reference")
    SEEN.clear()
    made(X)
    assert len(SEEN) == 1


def test_the_order_of_calls_stays() -> None:
    class Two(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            double(y)
            write_down(y)
            double(y)
            write_down(y)
            return self.second(y)

    model = seeded(Two).requires_grad_(False)
    made = qfx.quantize(model, X, backend="reference")
    SEEN.clear()
    made(X)
    assert SEEN[1] == pytest.approx(2 * SEEN[0], rel=1e-5)


# -- what is known ---------------------------------------------------------------------------------
def call(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    graph = fx.Graph()
    x = graph.placeholder("x")
    operands = (x, *args)
    kind = graph.call_method if isinstance(target, str) else graph.call_function
    return kind(target, operands, kwargs)


@pytest.mark.parametrize(
    "target", [torch.add, torch.einsum, torch.relu, nn.functional.pad, torch.ops.aten.add.Tensor]
)
def test_functions_of_torch_only_compute(target: Any) -> None:
    node = call(target, 1)
    assert is_known(node)
    assert not has_effect(node)
    assert overwrites(node) == ()


@pytest.mark.parametrize(
    "target", [torch.relu_, torch.ops.aten.add_.Tensor, torch.ops.aten.add_, nn.init.zeros_]
)
def test_functions_that_say_so_write(target: Any) -> None:
    node = call(target, 1)
    assert has_effect(node)
    assert overwrites(node) == (node.args[0],)


@pytest.mark.parametrize("target", [print, add_into, torch.manual_seed, torch.save, "append"])
def test_nothing_is_known_of_others(target: Any) -> None:
    node = call(target, 1)
    assert not is_known(node)
    assert has_effect(node)
    assert overwrites(node) == (node.args[0],)


def test_operators_that_end_in_an_underscore_only_compute() -> None:
    import operator

    assert not has_effect(call(operator.and_, True))
    assert has_effect(call(operator.setitem, 0, 1.0))
