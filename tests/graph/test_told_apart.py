"""Modules that compare by value: PyTorch takes two for one, and qfx says so."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded


class ByValue(nn.Linear):
    __hash__ = None  # type: ignore[assignment]  # as of every class with __eq__ alone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and self.weight.shape == other.weight.shape


class Hashed(ByValue):
    def __hash__(self) -> int:
        return 7


class ByIdentity(ByValue):
    __hash__ = object.__hash__  # type: ignore[assignment]


class Pair(nn.Module):
    def __init__(self, kind: type[nn.Linear]) -> None:
        super().__init__()
        self.first, self.second = kind(4, 4), kind(4, 4)
        self.again = self.first
        for module in (self, self.first, self.second):  # eval() itself fails, or misses the second
            module.training = False

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.second(self.first(x)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            ByValue,
            r"module 'first' is a ByValue, which has __eq__ and no __hash__.*__hash__ =",
        ),
        (Hashed, r"module 'first' and module 'second' are equal by the __eq__ of Hashed.*for one"),
    ],
)
def test_what_torch_takes_for_one_is_named(kind: type[nn.Linear], message: str) -> None:
    model, x = Pair(kind), randn(3, 4)
    with pytest.raises(qfx.CaptureError, match=message):
        qfx.quantize(model, x)
    with pytest.raises(qfx.CaptureError, match=message):
        qfx.run_passes(model, [], x)


def test_a_hash_by_identity_is_enough() -> None:
    model, x = seeded(lambda: Pair(ByIdentity)), randn(3, 4)
    qmodel = qfx.quantize(model, x, backend="reference")
    assert [site.decision for site in qmodel.report.sites] == 3 * ["quantized"]
    assert (qmodel(x) - model(x)).abs().max() < 0.05
