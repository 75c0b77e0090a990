"""Observers of users' own: what they lack, or get wrong, is told with the place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.quant.observers import Observer

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


def quantize(observer: type[Observer]) -> qfx.QuantizedModel:
    qconfig = qfx.QConfig(
        activation=qfx.QuantSpec(torch.uint8, observer=observer),
        weight=qfx.QuantSpec(torch.int8, symmetric=True),
    )
    return qfx.quantize(nn.Linear(8, 8).eval(), X, backend="reference", qconfig=qconfig)


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
    ],
)
def test_ranges_that_are_none_name_the_site(observer: type[Observer], what: str) -> None:
    with pytest.raises(qfx.CalibrationError, match=f"of input .*{observer.__name__}.range.*{what}"):
        quantize(observer)


def test_a_range_of_ones_own() -> None:
    assert quantize(Ranged).report.coverage == 1.0
