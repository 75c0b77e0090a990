"""What forward remembers: calibration does not count, and what a graph can't do is said."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.linear(x) + 10 * self.calls


class CountsByOperator(Counts):
    """Sets the buffer to what it is already, which no warning is about."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) + 10 * self.calls


class Outer(nn.Module):
    """Counts in a module that stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.linear = Counts(), nn.Linear(4, 4)
        self.inner.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.linear(x))


@pytest.mark.parametrize("kind", [Counts, CountsByOperator, Outer])
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_calibration_does_not_count(kind: type[nn.Module], method: str) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    data = [X] * 5 if method == "static" else None
    qmodel = qfx.quantize(model, X, method=method, calibration_data=data, backend="reference")
    for _ in range(3):
        torch.testing.assert_close(qmodel(X), model(X), atol=0.2, rtol=0)


def test_a_loop_of_ones_own_does_not_count_either() -> None:
    model = Counts().eval()
    prepared = qfx.prepare(model, X, backend="reference")
    for _ in range(4):
        prepared(X)
    qmodel = qfx.convert(prepared)
    assert prepared.calls == 4, "convert leaves prepared as it is"
    assert qmodel.calls == 0 == model.calls
    assert copy.deepcopy(qmodel).calls == 0


class Rebinds(Counts):
    def __init__(self) -> None:
        super().__init__()
        self.number, self.same = 0, "same"

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.number += 1
        self.same = self.same
        self.stash = self.linear(x)
        return self.stash


def test_attributes_that_forward_sets_are_warned_of() -> None:
    model = nn.Sequential()
    model.add_module("m", Rebinds())
    with pytest.warns(qfx.QfxWarning, match=r"forward sets m\.number, m\.calls, m\.stash, and"):
        report = qfx.quantize(model.eval(), X, backend="reference").report
    assert any("m.number" in text for text in report.warnings)
    assert model.m.calls == 0


def test_nothing_is_said_of_models_that_set_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qfx.quantize(Counts().eval(), X, backend="reference")


class Remembers(nn.Module):
    """Finds what it left in the call before, in one way or another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def before(self, x: Tensor) -> Tensor:
        return self.state if hasattr(self, "state") else torch.ones_like(x)

    def forward(self, x: Tensor) -> Tensor:
        self.state = torch.tanh(self.inner(x) + self.outer(self.before(x)))
        return self.state


class ByGetattr(Remembers):
    def before(self, x: Tensor) -> Tensor:
        found = getattr(self, "state", None)
        return torch.ones_like(x) if found is None else found


class ByTrying(Remembers):
    def before(self, x: Tensor) -> Tensor:
        try:
            return self.state
        except AttributeError:
            return torch.ones_like(x)


class ByDict(Remembers):
    def before(self, x: Tensor) -> Tensor:
        return self.__dict__["state"] if "state" in self.__dict__ else torch.ones_like(x)


@pytest.mark.parametrize("kind", [Remembers, ByGetattr, ByTrying, ByDict])
def test_attributes_that_forward_makes_are_warned_of(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    with pytest.warns(qfx.QfxWarning, match="forward sets state, and a graph"):
        qmodel = qfx.quantize(model, X, backend="reference")
    assert any("forward sets state" in text for text in qmodel.report.warnings)
    assert "state" not in vars(model)
    torch.testing.assert_close(qmodel(X), model(X), atol=0.1, rtol=0)


class ComputesOnce(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @cached_property
    def scale(self) -> float:
        return 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale + torch.ones(4)


def test_nothing_is_said_of_what_is_computed_once() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qfx.quantize(ComputesOnce().eval(), X, backend="reference")


class Writes(nn.Module):
    """Writes to its argument after it has read it."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.linear, self.write = nn.Linear(4, 4), write

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        self.write(x)
        return y


def _zero(x: Tensor) -> None:
    x[:] = 0


@pytest.mark.sweep
@pytest.mark.parametrize(
    "write", [lambda x: x.zero_(), lambda x: x.fill_(2.0), lambda x: x.mul_(0), _zero]
)
@pytest.mark.parametrize("with_data", [False, True])
def test_data_of_the_user_are_never_written_to(
    write: Callable[[Tensor], object], with_data: bool
) -> None:
    torch.manual_seed(0)
    model, x, batches = Writes(write).eval(), X.clone(), [X.clone(), 2 * X]
    data = batches if with_data else None
    qmodel = qfx.quantize(model, x, calibration_data=data, backend="reference")
    for tensor, before in ((x, X), (batches[0], X), (batches[1], 2 * X)):
        assert torch.equal(tensor, before)
    torch.testing.assert_close(qmodel(X.clone()), model(X.clone()), atol=0.1, rtol=0)


class Collects(nn.Module):
    """Leaves something in a list or dict of its caller."""

    def __init__(self, leave: Callable[[Any, Tensor], object]) -> None:
        super().__init__()
        self.linear, self.leave = nn.Linear(4, 4), leave

    def forward(self, x: Tensor, acc: Any) -> Tensor:
        y: Tensor = self.linear(x)
        self.leave(acc, y)
        return y


def _put(acc: Any, y: Tensor) -> None:
    acc["a"] = y


LEAVING: list[tuple[Callable[[Any, Tensor], object], Any]] = [
    (lambda acc, y: acc.append(y), [X]),
    (lambda acc, y: acc[0].append(y), [[X]]),
    (lambda acc, y: acc["a"].append(y), {"a": [X]}),
    (lambda acc, y: acc.update(b=y), {"a": X}),
    (_put, {"a": X}),
    (lambda acc, y: acc.pop(), [X, X]),
    (lambda acc, y: acc.pop("a"), {"a": X, "b": 2}),
    (lambda acc, y: acc.insert(0, (y, 3)), [X, X]),
    (lambda acc, y: acc.reverse(), [X, 2 * X]),
]


@pytest.mark.parametrize(("leave", "acc"), LEAVING)
def test_lists_and_dicts_of_the_caller_change_as_forward_changes_them(
    leave: Callable[[Any, Tensor], object], acc: Any
) -> None:
    model, before = Collects(leave).eval(), copy.deepcopy(acc)
    qmodel = qfx.quantize(model, (X, acc), backend="reference")
    torch.testing.assert_close(acc, before)
    wanted, left = copy.deepcopy(acc), copy.deepcopy(acc)
    torch.testing.assert_close(qmodel(X, left), model(X, wanted), atol=0.1, rtol=0)
    torch.testing.assert_close(left, wanted, atol=0.1, rtol=0)
    assert not qmodel.report.warnings


def test_what_no_graph_can_put_into_a_list_of_the_caller_is_warned_of() -> None:
    model, acc = Collects(lambda acc, y: acc.extend([y, object()])).eval(), [X]
    where = r"acc \(computed at .*test_state_of_models\.py:\d+\)"
    with pytest.warns(qfx.QfxWarning, match=f"forward puts into {where}.*Put tensors and numbers"):
        qmodel = qfx.quantize(model, (X, acc), backend="reference")
    assert any("forward puts into acc" in text for text in qmodel.report.warnings)
    torch.testing.assert_close(qmodel(X, acc), model(X, copy.deepcopy(acc)), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    "leave", [lambda acc, y: acc[0].add_(1), lambda acc, y: list(acc).append(y)]
)
def test_nothing_is_said_of_lists_that_keep_what_they_hold(
    leave: Callable[[Any, Tensor], object],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        acc = [X.clone()]
        qfx.quantize(Collects(leave).eval(), (X, acc), backend="reference")
        assert torch.equal(acc[0], X)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        self.write()
        y: Tensor = self.second(self.first(x))
        return y

    def write(self) -> None:
        with torch.no_grad():
            self.second.bias.add_(1)


class ByData(Layers):
    def write(self) -> None:
        self.second.bias.data.add_(1)


class ByDataOperator(Layers):
    def write(self) -> None:
        self.second.bias.data += 1


class OfWeight(Layers):
    def write(self) -> None:
        self.second.weight.data = self.second.weight.data * 0.5


class AfterReading(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        with torch.no_grad():
            self.second.weight.mul_(2)
        return y


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [Layers, ByData, ByDataOperator, OfWeight, AfterReading])
@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
def test_layers_whose_parameters_forward_writes_to_stay_float(
    kind: type[nn.Module], method: str
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    before, data = copy.deepcopy(model.state_dict()), [X] * 3 if method == "static" else None
    qmodel = qfx.quantize(model, X, method=method, calibration_data=data, backend="reference")
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    sites = {site.label: site for site in qmodel.report.sites}
    assert sites["first"].decision == "quantized"
    assert sites["second"].reason == "overwritten"
    with torch.no_grad():
        for _ in range(4):
            expected = model(X)
            most = 0.05 * float(expected.abs().max())
            torch.testing.assert_close(qmodel(X), expected, atol=most, rtol=0)


class Normed(nn.Module):
    """Batch-norm that can't be folded into the layer before it, whose bias changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.second.bias.add_(1)
        y: Tensor = self.norm(self.second(self.first(x)))
        return y


def test_batch_norm_is_not_folded_into_what_forward_writes_to() -> None:
    torch.manual_seed(0)
    model = Normed().eval()
    qmodel = qfx.quantize(model, X, method="dynamic", backend="reference")
    for _ in range(3):
        torch.testing.assert_close(qmodel(X), model(X), atol=0.05, rtol=0)


class Statistics(Layers):
    """Moves running statistics; what it normalizes is not read."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        F.batch_norm(y, self.mean, self.var, training=True)
        z: Tensor = self.second(y) + self.mean
        return z


class Normalizes(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(self.first(x), self.mean, running_var=self.var, training=True)
        z: Tensor = self.second(y) + self.mean
        return z


class ByTorch(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.batch_norm(self.first(x), None, None, self.mean, self.var, True, 0.1, 1e-5, False)
        z: Tensor = self.second(y)
        return z


class OfInstances(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.view(-1, 4, 4))
        y = F.instance_norm(y, self.mean, self.var, use_input_stats=True)
        z: Tensor = self.second(y)
        return z


@pytest.mark.parametrize("kind", [Statistics, Normalizes, ByTorch, OfInstances])
def test_running_statistics_move_as_in_the_model_and_calibration_does_not_count(
    kind: type[nn.Module],
) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(32, 4)
    qmodel = qfx.quantize(model, x, calibration_data=[x] * 3, backend="reference")
    assert torch.equal(qmodel.get_buffer("mean"), torch.zeros(4))
    assert torch.equal(model.get_buffer("mean"), torch.zeros(4))
    for scale in (1.0, 0.9, 0.8):
        expected = model(scale * x)
        torch.testing.assert_close(qmodel(scale * x), expected, atol=0.1, rtol=0)
        for name in ("mean", "var"):
            held = qmodel.get_buffer(name)
            torch.testing.assert_close(held, model.get_buffer(name), atol=0.02, rtol=0)
    assert model.get_buffer("mean").abs().max() > 0.02, "they do move"
    layers = {site.label: site.decision for site in qmodel.report.sites}
    assert layers["first"] == "quantized"
