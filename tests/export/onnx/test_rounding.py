"""The full integer form: what it rounds beyond the model, to which codes, and what it leaves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qfx
from tests.support.onnx import Exported, quantized, written


class Mixed(nn.Module):
    """A gate, activations that are products, a concatenation that two read, an average."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.gate, self.left, self.right = (nn.Conv2d(n, 8, 1) for n in (8, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        first, second = F.silu(self.first(x)), F.hardswish(self.second(x))
        gate = torch.sigmoid(self.gate(F.adaptive_avg_pool2d(first, 1)))
        both = torch.cat([first * gate, second], 1)
        return self.left(both) + self.right(F.avg_pool2d(both, 3, 1, 1))


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel(x: Tensor) -> qfx.QuantizedModel:
    """Of a backend that leaves products, sigmoids and averages in float."""
    return quantized(Mixed(), x, backend="x86")


@pytest.fixture(scope="module")
def full(qmodel: qfx.QuantizedModel, x: Tensor) -> Exported:
    return written(qmodel, x, form="full_integer", example_inputs=x)


def test_engines_compute_from_codes_to_codes(full: Exported) -> None:
    counts = full.check.integers
    assert counts["QLinearConv"] == 5
    assert counts["QLinearSigmoid"] == 2  # the gate's, and that of silu
    assert counts["QLinearMul"] == 3  # the gate's, silu, hardswish
    assert counts["QLinearConcat"] == 1
    assert counts["QLinearAveragePool"] == 1
    assert full.check.sqnr > 28


def test_other_forms_leave_them_in_float(qmodel: qfx.QuantizedModel, x: Tensor) -> None:
    integer = written(qmodel, x, form="integer", example_inputs=x).check.integers
    assert not {"QLinearSigmoid", "QLinearMul", "QLinearConcat"} & set(integer)


@pytest.mark.parametrize("method", ["weight_only", "dynamic"])
def test_what_is_float_is_not_rounded(method: str, x: Tensor) -> None:
    model = quantized(Mixed(), x, method=method)
    plain, full = (written(model, x, form=form) for form in ("exact", "full_integer"))
    assert full.file.operators == plain.file.operators


def test_without_examples_no_range_is_made_up(qmodel: qfx.QuantizedModel, x: Tensor) -> None:
    integer, full = (written(qmodel, x, form=form).file for form in ("integer", "full_integer"))
    assert full.operators == integer.operators
