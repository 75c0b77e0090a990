"""Where ranges are measured when the model runs, scales of channels help, too; they take data."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr
from tests.cases.flow import randn

DATA = [randn(4, 5, 32, seed=i) for i in range(8)]


class Block(nn.Module):
    """A norm with a few large channels, read by a layer and a residual; then a GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 48), nn.Linear(48, 32)
        with torch.no_grad():
            self.norm.weight[::8] = 40.0
            self.up.weight[::12] *= 30.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.down(F.gelu(self.up(x)))


class Recurrent(nn.Module):
    """A norm that a layer and an LSTM read in integers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(32), nn.Linear(32, 8)
        self.lstm = nn.LSTM(32, 8, batch_first=True)
        with torch.no_grad():
            self.norm.weight[::8] = 40.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y: Tensor = self.fc(x) + self.lstm(x)[0]
        return y


def made(model: nn.Module, data: list[Tensor] | None = DATA) -> qfx.QuantizedModel:
    return qfx.quantize(model, DATA[0], method="dynamic", calibration_data=data, backend="x86")


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


def test_outputs_err_less(block: nn.Module) -> None:
    with_data, without, x = made(block), made(block, None), randn(8, 5, 32, seed=9)
    with torch.no_grad():
        expected = block(x)
        assert sqnr(expected, with_data(x)) > sqnr(expected, without(x)) + 3
    for name in ("smooth-norms", "smooth-inputs"):
        events = with_data.history[name].events
        assert any(event.rule.startswith(f"{name}/") for event in events)
        assert not without.history[name].events
    assert {site.method for site in with_data.report.sites if site.kernel} == {"dynamic"}


def test_without_data_all_stays(block: nn.Module) -> None:
    stage = made(block, None).history["smooth-norms"]
    assert ["kept no batch" in miss.reason for miss in stage.near_misses] == [True]


def test_in_steps_as_in_one_call(block: nn.Module) -> None:
    prepared = qfx.prepare(block, DATA[0], method="dynamic", backend="x86")
    converted = qfx.convert(qfx.calibrate(prepared, DATA))
    assert torch.equal(converted(DATA[1]), made(block)(DATA[1]))


def test_norms_that_others_read_in_integers_stay() -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    qmodel = made(model)
    reasons = [miss.reason for miss in qmodel.history["smooth-norms"].near_misses]
    assert reasons == ["others read it in integers, too"]
    with torch.no_grad():
        assert sqnr(model(DATA[1]), qmodel(DATA[1])) > 15


def test_efforts_are_pipelines() -> None:
    fast = str(qfx.pipelines.dynamic(effort="fast"))
    assert "smooth-norms" not in fast
    assert "smooth-norms" in str(qfx.pipelines.dynamic())
