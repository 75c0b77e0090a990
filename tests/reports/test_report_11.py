"""Zero-initialised gammas in training: a range observed as [0, 0] was dragged along, and clipped.

Values that are clipped have no gradient, so the branches behind the gammas never learned.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.quant.observers import MovingAverageMinMaxObserver
from tests.cases.flow import randn, sqnr
from tests.support.digits import digits

IMAGES, LABELS = digits()[0].flatten(1), digits()[1]


class Branch(nn.Module):
    def __init__(self, gamma: float, residual: bool) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(64, 64), nn.BatchNorm1d(64)
        self.fc2, self.bn2 = nn.Linear(64, 64), nn.BatchNorm1d(64)
        self.residual = residual
        nn.init.constant_(self.bn2.weight, gamma)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.fc2(F.relu(self.bn1(self.fc1(x)))))
        return F.relu(x + y) if self.residual else y


def net(gamma: float, residual: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Branch(gamma, residual), nn.Linear(64, 10)).train()


def trained(model: nn.Module) -> float:
    """The loss at the end of sixty steps."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(60):
        chosen = torch.randint(0, 1500, (64,), generator=generator)
        loss = F.cross_entropy(model(IMAGES[chosen]), LABELS[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def config(observer: object) -> qfx.QConfig | None:
    default = qfx.get_default_qconfig("x86", "qat")
    if observer is None:
        return None
    assert default.activation is not None
    assert default.weight is not None
    weight = default.weight
    if observer == "lsq":
        weight = replace(weight, observer="lsq_per_channel")
    return qfx.QConfig(replace(default.activation, observer=observer), weight)


OBSERVERS = {
    "default": None,
    "minmax": "minmax",
    "lsq": "lsq",
    "with_args": MovingAverageMinMaxObserver.with_args(averaging_constant=0.02),
}


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.0, 1e-6])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_it_trains_as_well_as_in_float(residual: bool, gamma: float) -> None:
    model = net(gamma, residual)
    expected = trained(copy.deepcopy(model))
    assert expected < 0.6
    # Half of the observers for each: all of them see either gamma, with and without a residual.
    for name in list(OBSERVERS)[residual ^ (gamma > 0) :: 2]:
        observer = OBSERVERS[name]
        options = {"method": "qat", "backend": "x86", "qconfig": config(observer)}
        prepared = qfx.prepare(model, IMAGES[:4], **options)
        assert trained(prepared) < 1.1 * expected + 0.02, name
        converted = qfx.convert(prepared)
        with torch.no_grad():
            wanted = prepared.eval()(IMAGES[1500:])
            assert torch.equal(converted.reference(IMAGES[1500:]), wanted), name


class Gated(nn.Module):
    """Hands zeros to its second layer until the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("gate", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)) * self.gate)


def gated(observer: object) -> qfx.PreparedModel:
    torch.manual_seed(0)
    options = {"method": "qat", "backend": "reference", "qconfig": config(observer)}
    return qfx.prepare(Gated().train(), randn(4, 8), **options)


@pytest.mark.parametrize("observer", [None, "minmax", "lsq", "histogram"])
def test_a_range_of_zeros_is_found_though_it_is_frozen(observer: object) -> None:
    model = gated(observer)
    x = randn(16, 8, seed=1)
    model(x)
    with pytest.warns(qfx.QfxWarning, match=r"no range to freeze at fake_quant_3 \(test_report_11"):
        qfx.freeze_observers(model)
    model.gate.fill_(0.01)
    model(x)
    kept = {name: b.clone() for name, b in model.named_buffers() if name != "gate"}
    inner = model.get_parameter("fc1.weight")
    model(x).square().sum().backward()
    assert inner.grad is not None
    assert inner.grad.abs().max() > 0
    model.gate.fill_(0.02)
    model(x)
    for name, buffer in kept.items():
        assert torch.equal(model.get_buffer(name), buffer), name


@pytest.mark.parametrize("method", ["static", "qat"])
def test_a_range_of_zeros_is_named_when_it_is_converted(method: str) -> None:
    model = Gated().eval()
    if method == "qat":
        prepared = gated(None)
        prepared(randn(4, 8))
    else:
        prepared = qfx.prepare(model, randn(4, 8), backend="reference")
        qfx.calibrate(prepared, [randn(4, 8)])
    with pytest.warns(
        qfx.QfxWarning, match=r"nothing but zeros was seen at \w+ \(test_report_11"
    ) as w:
        converted = qfx.convert(prepared)
    (message,) = {str(each.message) for each in w}
    assert message in converted.report.warnings


@pytest.mark.slow
def test_a_range_that_was_empty_at_first_is_in_the_report() -> None:
    for observer in (None, "minmax", "lsq", "histogram"):
        model = gated(observer)
        x = randn(16, 8, seed=1)
        for gate in (0.0, 0.0, 0.01):
            model.gate.fill_(gate)
            model(x)
        resumed = gated(observer)
        resumed.load_state_dict(model.state_dict())
        for each in (model, resumed, copy.deepcopy(model)):
            (line,) = [w for w in qfx.convert(each).report.warnings if "at first" in w]
            assert "fake_quant_3 (test_report_11" in line, observer
            assert "2 batches" in line, observer
    model = gated(None)
    model.gate.fill_(1.0)
    model(x)
    assert not [w for w in qfx.convert(model).report.warnings if "at first" in w]


def test_state_of_earlier_versions_is_taken() -> None:
    model = gated(None)
    model(randn(16, 8))
    state = {k: v for k, v in model.state_dict().items() if not k.endswith(".rangeless")}
    loaded = gated(None)
    loaded.load_state_dict(state)
    x = randn(16, 8, seed=2)
    assert torch.equal(loaded.eval()(x), model.eval()(x))


@pytest.mark.parametrize("observer", [None, "minmax", "lsq", "histogram"])
def test_training_does_not_start_from_a_range_of_zeros(observer: object) -> None:
    """It would be that of scale 1.0, which rounds all that comes to zero."""
    torch.manual_seed(0)
    model, x = Gated().eval(), randn(16, 8, seed=1)
    with pytest.warns(qfx.QfxWarning, match="nothing but zeros was seen"):
        calibrated = qfx.quantize(
            model, x, backend="reference", qconfig=observer and config("minmax")
        )
    options = {"method": "qat", "backend": "reference", "qconfig": config(observer)}
    prepared = qfx.prepare(model.train(), x, qparams_from=calibrated, **options)
    assert prepared.fake_quants["fake_quant_0"].seen, "the others do start from theirs"
    prepared.gate.fill_(0.01)
    y = prepared(x)
    y.square().sum().backward()
    inner = prepared.get_parameter("fc1.weight").grad
    assert inner is not None
    assert inner.abs().max() > 0
    prepared.eval()
    model.gate.fill_(0.01)
    model.eval()
    converted = qfx.convert(prepared)
    (line,) = [w for w in converted.report.warnings if "when qparams_from was calibrated" in w]
    assert "fake_quant_3 (test_report_11" in line
    bias = model.fc2.bias
    assert sqnr(model(x) - bias, converted(x) - bias) > 8, "its output moves by few steps"
