"""Dropout and other things that do nothing in inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qfx import vocab
from qfx.testing.checking import run
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import Lambda, X, calls, canonical, check_family, image

DROPPED = [
    *(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Identity(), nn.Dropout(inplace=True)),
    *(nn.FeatureAlphaDropout(), nn.Dropout1d()),
]


@pytest.mark.parametrize("module", DROPPED, ids=lambda m: type(m).__name__)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_does_nothing_goes(module: nn.Module) -> None:
    result = canonical(nn.Sequential(module, nn.ReLU()).eval(), image(2, 4, 6))
    assert calls(result) == [vocab.RELU]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.dropout(x, 0.5, False) * 2,
        lambda m, x: F.dropout(x, p=0.5, training=m.training) * 2,
        lambda m, x: F.dropout2d(x, 0.5, training=False, inplace=True) * 2,
        lambda m, x: F.dropout(x, p=0.0) * 2,
        lambda m, x: torch.dropout(x, 0.5, False) * 2,
    ],
)
def test_functions_that_do_nothing_go(function: Callable[..., Any]) -> None:
    assert calls(canonical(function, image(*X))) == [vocab.MUL]


def test_dropout_that_is_meant_stays() -> None:
    result = run(Canonicalize(), Lambda(lambda m, x: F.dropout(x)).eval(), image(*X))
    assert calls(result) == [F.dropout]


BEFORE = """\
%input_1 : f32[2,3] = input('input')
%_0      : f32[2,3] = Dropout[@0](%input_1)
%_1      : f32[2,3] = ReLU[@1](%_0)
return %_1
"""

AFTER = """\
%input_1 : f32[2,3] = input('input')
%_1      : f32[2,3] = relu(%input_1)
return %_1
"""

LEFT_OUT = """\
%input_1 : f32[2,3] = input('input')
%_0      : f32[2,3] = Dropout[@0](%input_1)
%_1      : f32[2,3] = relu(%_0)
return %_1
"""


def test_before_and_after() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
    check_family("dropouts", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)
