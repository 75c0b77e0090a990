"""Case 22, for prepared models: deep copies and ``state_dict`` keep what calibration found."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import BACKENDS, randn, run, seeded

X = randn(2, 3, 8, 8)
OBSERVERS = ("minmax", "moving_average_minmax", "histogram")


class Net(nn.Module):
    """Shares a module, an observer group (cat) and has a layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.shared = nn.Conv2d(4, 4, 1, bias=False)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        x = torch.cat([self.shared(x), self.shared(x + 1)], 1)
        return self.fc(x.mean((2, 3)))


def prepare(backend: str, observer: str = "histogram", *, seed: int = 0) -> qfx.PreparedModel:
    qconfig = qfx.QConfig(
        qfx.QuantSpec(torch.uint8, observer=observer),
        qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True),
    )
    return qfx.prepare(seeded(Net, seed=seed), X, backend=backend, qconfig=qconfig)


def same(first: qfx.PreparedModel, second: qfx.PreparedModel) -> None:
    a, b = qfx.convert(first), qfx.convert(second)
    assert str(a.reference.graph) == str(b.reference.graph)  # scales are written there
    assert torch.equal(run(a, (X,)), run(b, (X,)))


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_state_dict_round_trips_through_a_file(backend: str, observer: str) -> None:
    prepared = qfx.calibrate(prepare(backend, observer), [X, 2 * X])
    file = io.BytesIO()
    torch.save(prepared.state_dict(), file)
    file.seek(0)
    fresh = prepare(backend, observer, seed=1)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    same(fresh, prepared)
    for each in (prepared, fresh):  # and calibration goes on from there
        qfx.calibrate(each, [5 * X])
    same(fresh, prepared)


def test_state_from_before_calibration_loads_over_a_calibrated_model() -> None:
    empty = copy.deepcopy(prepare("x86").state_dict())
    prepared = qfx.calibrate(prepare("x86"), [9 * X])
    prepared.load_state_dict(empty)
    with pytest.raises(qfx.CalibrationError, match="have seen no data"):
        qfx.convert(prepared)
    same(qfx.calibrate(prepared, [X]), qfx.calibrate(prepare("x86"), [X]))


def test_state_of_another_model_is_refused() -> None:
    other = qfx.prepare(nn.Sequential(nn.Linear(3, 3)).eval(), randn(2, 3), backend="x86")
    with pytest.raises(RuntimeError, match="Missing key"):
        prepare("x86").load_state_dict(other.state_dict())


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_deep_copies_keep_everything(backend: str, observer: str) -> None:
    prepared = qfx.calibrate(prepare(backend, observer), [X, 2 * X])
    twin = copy.deepcopy(copy.deepcopy(prepared))
    assert isinstance(twin, qfx.PreparedModel)
    assert [s.name for s in twin.history] == [s.name for s in prepared.history]
    assert twin.training == prepared.training
    assert twin.state_dict().keys() == prepared.state_dict().keys()
    mine = {t.data_ptr() for t in prepared.state_dict().values() if t.numel()}
    assert not mine & {t.data_ptr() for t in twin.state_dict().values() if t.numel()}
    same(twin, prepared)
    del prepared  # a copy lives on its own
    qfx.calibrate(twin, [3 * X])
    assert qfx.convert(twin)(X).shape == (2, 5)


def test_a_copy_made_before_calibration_calibrates_alone() -> None:
    prepared = prepare("x86")
    twin = copy.deepcopy(prepared)
    qfx.calibrate(prepared, [X])
    with pytest.raises(qfx.CalibrationError, match="have seen no data"):
        qfx.convert(twin)
    same(qfx.calibrate(twin, [X]), prepared)
