"""Which form is taken: planted trials, and what is compared with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qfx.export.onnx.forms import Form
from qfx.export.onnx.trials import Trial, _against_unrounded, best
from tests.support.onnx import quantized

EXACT = Trial("exact", 10, 44.0, 0.0, 9.0)
INTEGER = Trial("integer", 20, 36.0, 0.1, 5.0)
FULL = Trial("full_integer", 30, 35.5, 0.4, 4.0)
FAR = Trial("full_integer", 30, 28.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ((), Form.EXACT),
        ((EXACT, INTEGER, FULL), Form.FULL),
        ((EXACT, INTEGER), Form.INTEGER),
        ((EXACT, FULL), Form.FULL),
    ],
)
def test_more_integers_that_pay(trials: tuple[Trial, ...], expected: Form) -> None:
    assert best(trials) is expected


@pytest.mark.parametrize(
    ("integer", "full", "expected"),
    [
        (INTEGER, Trial("full_integer", 30, 36.0, 0.1, 4.9), Form.INTEGER),  # as fast
        (INTEGER, Trial("full_integer", 20, 36.0, 0.1, 4.0), Form.INTEGER),  # no more of it
        (INTEGER, Trial("full_integer", 30, 30.0, 1.2, 4.0), Form.INTEGER),  # rounds too much
        (INTEGER, Trial("full_integer", 30, 30.0, 0.9, 4.0), Form.FULL),  # as near to unrounded
        (Trial("integer", 20, 30.0, 2.0, 5.0), FAR, Form.EXACT),
        (Trial("integer", 20, 41.5, 9.0, 5.0), FAR, Form.INTEGER),  # within 3 dB of the exact form
    ],
)
def test_what_does_not(integer: Trial, full: Trial, expected: Form) -> None:
    assert best((EXACT, integer, full)) is expected


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
