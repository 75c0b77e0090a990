"""Groups: qparams that mathematics fixes, in the codes that the spec has."""

from __future__ import annotations

import pytest
import torch

from qfx.quant.groups import Groups
from qfx.quant.qparams import QParams
from qfx.quant.spec import QuantSpec

PROBABILITY = QParams(1 / 256, 0, torch.uint8, 0, 255)
SIGNED_UNIT = QParams(2 / 256, 128, torch.uint8, 0, 255)


def fixed(qparams: QParams, spec: QuantSpec) -> QParams:
    groups = Groups()
    number = groups.new(spec)
    groups.fix(number, qparams)
    return groups.edge(number).spec.make_observer().qparams()


@pytest.mark.parametrize("spec", [QuantSpec(torch.uint8, quant_max=127), QuantSpec(torch.int8)])
def test_no_fewer_codes_than_the_mathematics_has(spec: QuantSpec) -> None:
    assert fixed(PROBABILITY, spec) == PROBABILITY


@pytest.mark.parametrize(
    ("qparams", "scale", "zero_point"),
    [(PROBABILITY, 2**-16, -(2**15)), (SIGNED_UNIT, 2**-15, 0)],
)
def test_more_codes_cut_the_same_range_finer(
    qparams: QParams, scale: float, zero_point: int
) -> None:
    expected = QParams(scale, zero_point, torch.int16, -(2**15), 2**15 - 1)
    assert fixed(qparams, QuantSpec(torch.int16, symmetric=True)) == expected
    assert fixed(qparams, QuantSpec(torch.int16, power_of_two=True)) == expected


def test_odd_numbers_of_codes_still_get_a_power_of_two() -> None:
    spec = QuantSpec(torch.int16, quant_min=-(2**15) + 1, power_of_two=True)
    found = fixed(PROBABILITY, spec)
    assert (found.scale, found.zero_point) == (2**-15, -(2**15) + 1)
