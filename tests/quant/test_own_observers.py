"""Observers of users' own: what they lack, or get wrong, is told with the place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.quant.observers import Observer, register_observer

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Nothing(Observer):
    pass


class Recording(Observer):
    def record(self, x: Tensor) -> None:
        pass


class Ranged(Recording):
    found: object = (torch.tensor(-1.0), torch.tensor(1.0))

    def range(self) -> tuple[Tensor, Tensor]:
        return self.found  # type: ignore[return-value]


class Inverted(Ranged):
    found = (torch.tensor(1.0), torch.tensor(-1.0))


class NaN(Ranged):
    found = (torch.tensor(float("nan")), torch.tensor(1.0))


class One(Ranged):
    found = torch.tensor(1.0)


class Numbers(Ranged):
    found = (-1.0, 1)


class Seven(Ranged):
    found = (torch.zeros(7), torch.ones(7))


class Endless(Ranged):
    found = (torch.tensor(-float("inf")), torch.tensor(float("inf")))


class Lost(Ranged):
    def range(self) -> tuple[Tensor, Tensor]:
        raise ZeroDivisionError("division by zero")


class Raising(Ranged):
    def record(self, x: Tensor) -> None:
        raise ZeroDivisionError("division by zero")


class Writing(Ranged):
    def record(self, x: Tensor) -> None:
        x.zero_()


class Unstarted(Ranged):
    def __init__(self, spec: qfx.QuantSpec) -> None:
        pass


class Specless(Ranged):
    def __init__(self) -> None:
        raise AssertionError


class Decaying(Ranged):
    options = ("decay",)
    decay = 0.9


@register_observer("listing")
class Listing(Ranged):
    def __init__(self, spec: qfx.QuantSpec) -> None:
        super().__init__(spec)
        self.seen_so_far: list[float] = []

    def record(self, x: Tensor) -> None:
        self.seen_so_far.append(float(x.max()))


def qconfig(observer: type[Observer]) -> qfx.QConfig:
    return qfx.QConfig(
        activation=qfx.QuantSpec(torch.uint8, observer=observer, quant_max=127),
        weight=qfx.QuantSpec(torch.int8, symmetric=True),
    )


def quantize(observer: type[Observer], data: object = None) -> qfx.QuantizedModel:
    return qfx.quantize(
        nn.Linear(8, 8).eval(),
        X,
        calibration_data=data,
        backend="reference",
        qconfig=qconfig(observer),
    )


def test_what_is_missing_is_told_where_the_spec_is_made() -> None:
    with pytest.raises(qfx.ConfigError, match=r"Nothing defines no record.self, x. and no range"):
        qfx.QuantSpec(torch.uint8, observer=Nothing)
    with pytest.raises(qfx.ConfigError, match=r"Recording defines no range.self."):
        qfx.QuantSpec(torch.uint8, observer=Recording)


@pytest.mark.parametrize(
    ("observer", "what"),
    [
        (Inverted, r"gave 1 as smallest and -1 as largest"),
        (NaN, r"gave nan as smallest and 1 as largest"),
        (One, r"gave tensor\(1\.\), not \(smallest, largest\)"),
        (Seven, r"gave tensors of shapes \(7,\) and \(7,\); .* takes one number each"),
        (Endless, r"gave -inf as smallest and inf as largest"),
        (Lost, r"raised ZeroDivisionError: division by zero"),
    ],
)
def test_ranges_that_are_none_name_the_site(observer: type[Observer], what: str) -> None:
    place = f"of input .*{observer.__name__}.range.*{what}"
    with pytest.raises(qfx.CalibrationError, match=place) as raised:
        quantize(observer)
    assert raised.value.node == "observer_1"


def test_a_pass_that_measures_before_names_the_site() -> None:
    convs = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(qfx.CalibrationError, match=r"Seven.range.. gave") as raised:
        qfx.quantize(convs, images, calibration_data=[images] * 2, qconfig=qconfig(Seven))
    assert raised.value.pass_name != "reference"
    assert raised.value.node


@pytest.mark.parametrize("observer", [Ranged, Numbers])
def test_a_range_of_ones_own(observer: type[Observer]) -> None:
    assert quantize(observer).report.coverage == 1.0


@pytest.mark.parametrize(
    ("observer", "what"),
    [
        (Raising, r"Raising.record.. raised ZeroDivisionError: .*float32 values of shape \(4, 8\)"),
        (Writing, r"Writing.record.. wrote to the tensor that it was shown"),
    ],
)
def test_what_recording_gets_wrong_is_no_fault_of_the_data(
    observer: type[Observer], what: str
) -> None:
    place = rf"calibration batch 0: at observer_1 \(of input .*\): {what}"
    with pytest.raises(qfx.ConfigError, match=place) as raised:
        quantize(observer, [X])
    assert raised.value.node == "observer_1"
    with pytest.raises(qfx.ConfigError, match=f"the example inputs: at observer_1 .*{what}"):
        quantize(observer)


def test_of_a_weight_the_name_is_told() -> None:
    weight = qfx.QuantSpec(torch.int8, symmetric=True, observer=Raising)
    both = qfx.QConfig(activation=qfx.QuantSpec(torch.uint8), weight=weight)
    with pytest.raises(qfx.ConfigError, match=r"^weight: Raising.record.. raised"):
        qfx.quantize(nn.Linear(8, 8).eval(), X, backend="reference", qconfig=both)


def test_an_observer_starts_as_observers_do() -> None:
    with pytest.raises(qfx.ConfigError, match=r"Unstarted.*does not call super.*__init__"):
        quantize(Unstarted)
    with pytest.raises(qfx.ConfigError, match=r"Specless can't be made: TypeError.*self, spec"):
        quantize(Specless)


def test_options_that_are_no_numbers() -> None:
    with pytest.raises(qfx.ConfigError, match=r"Decaying.with_args.decay='x'.: give a number, as"):
        qfx.QuantSpec(torch.uint8, observer=Decaying.with_args(decay="x"))


def test_state_that_a_file_would_lose(tmp_path: Path) -> None:
    prepared = qfx.prepare(nn.Linear(8, 8).eval(), X, backend="reference", qconfig=qconfig(Listing))
    qfx.save(prepared, tmp_path / "before.qfx")
    qfx.calibrate(prepared, [X])
    with pytest.raises(qfx.FormatError, match=r"keeps seen_so_far in plain attributes.*register_b"):
        qfx.save(prepared, tmp_path / "after.qfx")
