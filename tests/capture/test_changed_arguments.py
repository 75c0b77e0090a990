"""What a model does to its arguments, the quantized model does to them, too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx_passes import Canonicalize
from tests.cases.flow import randn, seeded, sqnr, tensors


def _set_item(x: Tensor) -> Tensor:
    x[:, 0] = 0.5
    return x


def _augmented(x: Tensor) -> Tensor:
    x += 1
    return x


def _through(change: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """Changes ``x`` in a way that yields something else, and goes on with ``x``."""

    def write(x: Tensor) -> Tensor:
        change(x)
        return x

    return write


def _read_first(x: Tensor) -> Tensor:
    y = x * 2
    x.sigmoid_()
    return y


def _view_only(x: Tensor) -> Tensor:
    flat = x.view(2, -1)
    flat.mul_(2)
    return flat.view(2, 3, 6, 6)


def _reformed(x: Tensor) -> Tensor:
    x.unsqueeze_(0)
    x.mul_(2)
    return x.squeeze(0)


def _changed_and_reformed(x: Tensor) -> Tensor:
    x.add_(1)
    x.unsqueeze_(0)
    x.relu_()
    return x.squeeze(0)


def _numpy(x: Tensor) -> Tensor:
    x.numpy()[0] = 0
    return x


WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "method": lambda x: x.add_(1),
    "twice": lambda x: x.add_(1).mul_(2),
    "augmented": _augmented,
    "setitem": _set_item,
    "function": lambda x: F.relu(x, inplace=True),
    "module": nn.LeakyReLU(0.5, inplace=True),
    "dropout": lambda x: F.dropout(x, 0.5, False, inplace=True),
    "view": _through(lambda x: x.view(-1).mul_(2)),
    "slice": _through(lambda x: x[:, 1:].neg_()),
    "detach": _through(lambda x: x.detach().mul_(2)),
    "data": _through(lambda x: x.data.mul_(2)),
    "out": _through(lambda x: torch.add(x, 1, out=x)),
    "copy": _through(lambda x: x.copy_(x.flip(0))),
    "zero": _through(lambda x: x[1:].zero_()),
    "foreach": _through(lambda x: torch._foreach_mul_([x], 2.0)),
    "numpy": _numpy,
    "read first": _read_first,
    "view only": _view_only,
    "reformed": _reformed,
    "changed and reformed": _changed_and_reformed,
}


class WritesAll(nn.Module):
    """Every way to write, each on an argument of its own, and a layer on what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.module = WRITES["module"]

    def forward(self, given: list[Tensor]) -> list[Tensor]:
        pairs = zip(WRITES.items(), given, strict=True)
        return [self.linear(self.module(x) if n == "module" else w(x)) for (n, w), x in pairs]


def inputs() -> list[Tensor]:
    return [randn(2, 3, 6, 6, seed=seed) for seed in range(len(WRITES))]


@torch.no_grad()
def check(model: nn.Module, made: nn.Module) -> None:
    wanted, left = inputs(), inputs()
    pairs = zip(WRITES, model(wanted), made(left), wanted, left, strict=True)
    for name, expected, got, argument, actual in pairs:
        assert argument.shape == actual.shape, name
        assert sqnr(expected, got) > 25, name
        assert sqnr(argument, actual) > 25, name


MODEL = seeded(WritesAll)


@pytest.mark.sweep(first=3)
@pytest.mark.parametrize(
    ("backend", "method"),
    [
        *(("x86", "static"), ("x86", "dynamic"), ("x86", "weight_only"), ("reference", "static")),
        *(("fbgemm", "static"), ("qnnpack", "static")),
    ],
)
def test_quantized(backend: str, method: str) -> None:
    given = inputs()
    qmodel = qfx.quantize(MODEL, (given,), backend=backend, method=method)
    assert all(map(torch.equal, given, inputs()))
    check(MODEL, qmodel)
    assert method == "weight_only" or qmodel.report.coverage == 1.0


def test_passes() -> None:
    graph_module, _ = qfx.run_passes(MODEL, [Canonicalize()], (inputs(),))
    check(MODEL, graph_module)


def test_trained() -> None:
    prepared = qfx.prepare(MODEL, (inputs(),), method="qat", backend="reference")
    prepared.train()
    prepared(inputs())
    check(MODEL, qfx.convert(prepared.eval()))


class Mixed(nn.Module):
    """Writes to what lies in tuples, lists and dicts, and to integers and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, given: Any, mask: Tensor, ids: Tensor) -> Tensor:
        y: Tensor = self.linear(x + given[0].relu_())
        given[1]["cache"][1:3] = y
        given[1]["seen"] = ids.clone()
        mask.logical_not_()
        return y.masked_fill(mask, 0.0) * ids.clamp_(max=2)


def test_in_containers() -> None:
    def arguments() -> tuple[Any, ...]:
        mask, ids = randn(2, 8, seed=3) > 0, (randn(2, 8, seed=4) * 4).long()
        return randn(2, 8), (randn(2, 8, seed=1), {"cache": torch.zeros(4, 8)}), mask, ids

    model = seeded(Mixed)
    qmodel = qfx.quantize(model, arguments(), backend="reference")
    wanted, left = arguments(), arguments()
    with torch.no_grad():
        assert sqnr(model(*wanted), qmodel(*left)) > 25
    assert left[1][1].keys() == wanted[1][1].keys()
    for expected, got in zip(tensors(wanted), tensors(left), strict=True):
        exact = not expected.is_floating_point()
        assert torch.equal(expected, got) if exact else sqnr(expected, got) > 25


class Later(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x.detach().mul_(2)
        return y + self.second(x)


def test_what_reads_an_argument_after_a_view_of_it_was_written_to_sees_it() -> None:
    model, x = seeded(Later), randn(8, 4)
    qmodel = qfx.quantize(model, x, backend="reference")
    assert sqnr(model(x.clone()), qmodel(x.clone())) > 25
    assert qmodel.report.coverage == 1.0


class KeepsOff(nn.Module):
    """Changes nothing that its caller has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone().relu_()
        return self.linear(y.add_(1))


def test_nothing_is_copied_back_where_the_caller_sees_no_change() -> None:
    graph_module, _ = qfx.run_passes(seeded(KeepsOff), [Canonicalize()], randn(2, 4))
    assert not [n for n in graph_module.graph.nodes if n.op == "call_method"]


class Hidden(nn.Module):
    """Writes to its argument where no tracer looks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: Tensor, given: list[Tensor]) -> Tensor:
        if not hasattr(x, "node"):  # as proxies have
            given[0].zero_()
        return self.linear(x)


def test_a_change_that_tracing_does_not_see_is_an_error() -> None:
    model, given = seeded(Hidden), [randn(4)]
    before = copy.deepcopy(given)
    with pytest.raises(qfx.CaptureError, match=r"changes its argument given.*What to do: write"):
        qfx.quantize(model, (randn(2, 4), given), regions="whole")
    assert torch.equal(given[0], before[0])


class Lists(nn.Module):
    """Functions of torch that work in place on all tensors of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.linear(x), x * 2
        torch._foreach_mul_([y, z], 2.0)
        torch._foreach_add_([y, z], [z, y], alpha=0.5)
        torch._foreach_copy_([x], [z])
        return self.linear(y) + z


def test_lists_of_tensors_are_worked_on_in_place() -> None:
    model, x = seeded(Lists), randn(4, 8)
    for backend in ("x86", "reference"):
        wanted, left = x.clone(), x.clone()
        qmodel = qfx.quantize(model, x, backend=backend)
        assert sqnr(model(wanted), qmodel(left)) > 25
        assert sqnr(wanted, left) > 25
        reasons = {s.reason for s in qmodel.report.sites if s.op.startswith("_foreach")}
        assert reasons == {"unknown-op"}


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_result_that_is_an_argument_is_that_argument(method: str) -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x += self.layer(x).relu()
            return self.layer(x), x

    quantized = qfx.quantize(seeded(Adds), randn(4, 8), method=method)
    x = randn(4, 8)
    assert quantized(x)[1] is x
