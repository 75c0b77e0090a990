"""Calibration and training go on where they were saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qfx
from qfx.training.trainable import TrainableModel

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 36, 4))


def again(model: qfx.PreparedModel, folder: Path, **options: object) -> qfx.PreparedModel:
    loaded = qfx.load(qfx.save(model, folder / "prepared.qfx", **options))
    assert isinstance(loaded, qfx.PreparedModel)
    return loaded


@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_calibration_goes_on(method: str, calibrated: bool, tmp_path: Path) -> None:
    prepared = qfx.prepare(net().eval(), X, method=method)
    if calibrated and prepared.has_observers:
        qfx.calibrate(prepared, [X])
    loaded = again(prepared, tmp_path)
    assert [*loaded.state_dict()] == [*prepared.state_dict()]
    assert loaded.schedule is None
    for model in (prepared, loaded):
        if model.has_observers:
            qfx.calibrate(model, [2 * X])
    one, other = qfx.convert(prepared), qfx.convert(loaded)
    assert torch.equal(one(X), other(X))
    assert one.report.sites == other.report.sites
    assert "the model comes from a file" in str(other.report)


def test_uncalibrated_is_uncalibrated_still(tmp_path: Path) -> None:
    loaded = again(qfx.prepare(net().eval(), X), tmp_path)
    with pytest.raises(qfx.CalibrationError):
        qfx.convert(loaded)


class Loop:
    """A training loop, of which a second goes on as the first would have."""

    def __init__(self, model: nn.Module, schedule: qfx.QATSchedule | None) -> None:
        self.model, self.schedule = model, schedule
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run(self, *seeds: int) -> None:
        for seed in seeds:
            torch.manual_seed(seed)
            self.optimizer.zero_grad()
            self.model(X + seed).pow(2).mean().backward()
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()


@pytest.mark.parametrize("observer", [None, "lsq"])
def test_training_goes_on(observer: str | None, tmp_path: Path) -> None:
    qconfig = qfx.get_default_qconfig("reference", "qat")
    if observer is not None:
        learned = [
            n for n, c in qfx.quant.observers.observers().items() if c.learns and not c.per_channel
        ]
        weight = qfx.QuantSpec(torch.int8, symmetric=True, observer=learned[0])
        qconfig = qfx.QConfig(qfx.QuantSpec(torch.uint8, observer=learned[0]), weight)
    prepared = qfx.prepare(net().train(), X, method="qat", backend="reference", qconfig=qconfig)
    schedule = qfx.QATSchedule(prepared, freeze_observers=4, freeze_batchnorm=3)
    first = Loop(prepared, schedule)
    first.run(0, 1)
    loaded = again(prepared, tmp_path, schedule=schedule)
    assert isinstance(loaded, TrainableModel)
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in prepared.named_parameters()]
    second = Loop(loaded, loaded.schedule)
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    for loop in (first, second):
        loop.run(2, 3, 4)
    assert loaded.batchnorm_frozen
    assert not any(each.observer_enabled for each in loaded.fake_quants.values())
    ours, theirs = loaded.state_dict(), prepared.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for model in (prepared, loaded):
        model.eval()
    assert torch.equal(loaded(X), prepared(X))
    assert torch.equal(qfx.convert(loaded)(X), qfx.convert(prepared)(X))
    assert again(loaded, tmp_path).batchnorm_frozen


class Block(nn.Module):
    """A class of the user's, which no file names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.width = nn.Conv2d(3, 3, 3, padding=1), nn.LayerNorm(8), 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.relu(self.conv(x)))


def test_parameters_are_held_by_the_classes_that_held_them(tmp_path: Path) -> None:
    model = nn.Sequential(Block(), nn.Sequential(nn.Linear(8, 4, bias=False), nn.Dropout(0.2)))
    prepared = qfx.prepare(model.train(), X, method="qat")
    prepared.get_submodule("0").eval()
    path = qfx.save(prepared, tmp_path / "m.qfx")
    alone, handed = qfx.load(path), qfx.load(path, model=model)
    for name, module in prepared.named_modules():
        if name in ("", "0"):
            continue
        for loaded in (alone, handed):
            other = loaded.get_submodule(name)
            assert (type(other), other.training) == (type(module), module.training), name
            assert repr(other) == repr(module)
            assert list(other._parameters) == list(module._parameters)
    assert not alone.get_submodule("0").training
    assert type(alone.get_submodule("0")) is nn.Module
    block: Any = handed.get_submodule("0")
    assert (type(block), block.width) == (Block, 8)
    assert repr(handed) == repr(prepared)
    for each in (prepared, alone):
        Loop(each.train(), None).run(1)
    assert torch.equal(qfx.convert(alone.eval())(X), qfx.convert(prepared.eval())(X))


@pytest.mark.parametrize("affine", [True, False])
def test_training_goes_on_from_the_ranges_of_a_quantized_model(
    affine: bool, tmp_path: Path
) -> None:
    """The batch-norm holds the shift of its bias for the graph, which no BatchNorm2d has."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.ReLU()).eval()
    calibrated = qfx.quantize(model, X)
    prepared = qfx.prepare(model, X, method="qat", qparams_from=calibrated)
    assert [name for name in prepared.state_dict() if name.endswith("bias_shift")]
    loaded = again(prepared, tmp_path)
    assert [*loaded.state_dict()] == [*prepared.state_dict()]
    for each in (prepared, loaded):
        each.train()
        Loop(each, None).run(1, 2)
        each.eval()
    for name, tensor in prepared.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(qfx.convert(loaded)(X), qfx.convert(prepared)(X))
    again(loaded, tmp_path)


class OwnNorm(nn.BatchNorm2d):
    """A batch-norm whose code is in no file."""


def test_a_norm_of_another_class_is_handed_in_with_a_shift(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), OwnNorm(4), nn.ReLU()).eval()
    prepared = qfx.prepare(model, X, method="qat", qparams_from=qfx.quantize(model, X))
    loaded = qfx.load(qfx.save(prepared, tmp_path / "m.qfx"), model=model)
    assert [*loaded.state_dict()] == [*prepared.state_dict()]
    assert torch.equal(qfx.convert(loaded)(X), qfx.convert(prepared)(X))


def test_switches_are_kept_each(tmp_path: Path) -> None:
    prepared = qfx.prepare(net().train(), X, method="qat")
    prepared(X)
    name = next(iter(prepared.fake_quants))
    prepared.fake_quants[name].fake_quant_enabled = False
    loaded = again(prepared, tmp_path)
    switches = {n: f.fake_quant_enabled for n, f in loaded.fake_quants.items()}
    assert switches == {n: n != name for n in switches}


def test_a_schedule_of_another_model_is_refused(tmp_path: Path) -> None:
    one, other = (qfx.prepare(net().train(), X, method="qat") for _ in range(2))
    with pytest.raises(qfx.ConfigError, match="another model"):
        qfx.save(one, tmp_path / "m.qfx", schedule=qfx.QATSchedule(other))
    with pytest.raises(qfx.ConfigError, match=r"schedule is int; give a qfx\.QATSchedule"):
        qfx.save(one, tmp_path / "m.qfx", schedule=3)  # type: ignore[arg-type]


def test_float_models_are_not_for_save(tmp_path: Path) -> None:
    with pytest.raises(qfx.ConfigError, match="save takes a quantized or prepared model"):
        qfx.save(net(), tmp_path / "m.qfx")
