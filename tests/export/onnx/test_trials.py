"""Which form is taken: planted trials, and what is compared with."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import nn

from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.trials import FormTrial, _against_unrounded, best
from tests.support.onnx import quantized

EXACT = FormTrial("exact", 10, 44.0, 0.0, 9.0)
INTEGER = FormTrial("integer", 20, 36.0, 0.1, 5.0)
FULL = FormTrial("full_integer", 30, 35.5, 0.4, 4.0)
FAR = FormTrial("full_integer", 30, 28.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ((), OnnxForm.EXACT),
        ((EXACT, INTEGER, FULL), OnnxForm.FULL),
        ((EXACT, INTEGER), OnnxForm.INTEGER),
        ((EXACT, FULL), OnnxForm.FULL),
    ],
)
def test_more_integers_that_pay(trials: tuple[FormTrial, ...], expected: OnnxForm) -> None:
    assert best(trials) is expected


@pytest.mark.parametrize(
    ("integer", "full", "expected"),
    [
        (INTEGER, FormTrial("full_integer", 30, 36.0, 0.1, 4.9), OnnxForm.INTEGER),  # as fast
        (INTEGER, FormTrial("full_integer", 20, 36.0, 0.1, 4.0), OnnxForm.INTEGER),  # no more of it
        (
            INTEGER,
            FormTrial("full_integer", 30, 30.0, 1.2, 4.0),
            OnnxForm.INTEGER,
        ),  # rounds too much
        (
            INTEGER,
            FormTrial("full_integer", 30, 30.0, 0.9, 4.0),
            OnnxForm.FULL,
        ),  # as near to unrounded
        (FormTrial("integer", 20, 30.0, 2.0, 5.0), FAR, OnnxForm.EXACT),
        (
            FormTrial("integer", 20, 41.5, 9.0, 5.0),
            FAR,
            OnnxForm.INTEGER,
        ),  # within 3 dB of the exact form
    ],
)
def test_what_does_not(integer: FormTrial, full: FormTrial, expected: OnnxForm) -> None:
    assert best((EXACT, integer, full)) is expected


def test_what_does_not_load_is_not_taken() -> None:
    refused = FormTrial("full_integer", 0, -inf, inf, inf, "ONNX Runtime can't load it")
    assert best((EXACT, INTEGER, refused)) is OnnxForm.INTEGER
    assert best((refused,)) is OnnxForm.EXACT
    assert str(refused) == "  full_integer: ONNX Runtime can't load it"


def test_unrounded_is_what_the_model_stands_for() -> None:
    """Weights of codes, activations as they are: nearer to the float model than the model is."""
    torch.manual_seed(0)
    linear, x = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(8, 16)
    qmodel = quantized(linear, x)
    (unrounded,), own = _against_unrounded(qmodel.reference, {"input": x})
    with torch.no_grad():
        want, made = linear(x), qmodel.reference(x)
    assert 20 < own < 60
    assert (unrounded - want).norm() < (made - want).norm()
