"""A report says where activations keep to 7 bits, and who asked for 8 is warned."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx
from qfx.backends import resolve_backend
from qfx.backends.defaults import defaults

X = torch.randn(4, 8)
LINE = (
    "Activations: 7 bits at most (codes up to 127); sums of 8-bit products saturate in kernels "
    "of the CPU that it was quantized on"
)
ASKED = qfx.QConfig(
    activation=qfx.QuantSpec(torch.uint8), weight=qfx.QuantSpec(torch.int8, symmetric=True)
)


def backend(*, saturates: bool) -> qfx.Backend:
    """The reference form, for a CPU of either kind."""
    own = defaults(reduce_range=saturates)
    return replace(resolve_backend("reference"), saturates=saturates, defaults=own)


def quantized(
    method: str = "static", *, saturates: bool, qconfig: qfx.QConfig | None = None
) -> qfx.QuantizedModel:
    torch.manual_seed(0)
    target, model = backend(saturates=saturates), nn.Sequential(nn.Linear(8, 8)).eval()
    return qfx.quantize(model, X, method=method, backend=target, qconfig=qconfig)


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_default_run_says_once_that_activations_keep_to_seven_bits(
    method: str, tmp_path: Path
) -> None:
    report = quantized(method, saturates=True).report
    assert str(report).splitlines().count(LINE) == 1
    assert report.warnings == ()
    assert f"<p>{LINE}</p>" in report.to_html(tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("method", "saturates"), [("static", False), ("dynamic", False), ("weight_only", True)]
)
def test_nothing_is_said_where_there_is_nothing_to_say(
    method: str, saturates: bool, tmp_path: Path
) -> None:
    report = quantized(method, saturates=saturates).report
    assert "7 bits" not in str(report)
    assert "7 bits" not in report.to_html(tmp_path / "r.html").read_text()


def test_eight_bits_that_were_asked_for_and_cannot_be_had_are_a_warning() -> None:
    message = r"the QConfig given as qconfig=: sums .* saturate .* activations get 7\. .*=127"
    with pytest.warns(qfx.QfxWarning, match=message) as caught:
        report = quantized(saturates=True, qconfig=ASKED).report
    assert len(caught) == 1
    assert report.warnings == (str(caught[0].message),)


def test_who_says_seven_bits_or_has_a_cpu_that_adds_right_is_not_warned() -> None:
    activation = qfx.QuantSpec(torch.uint8, quant_max=127)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized(saturates=True, qconfig=replace(ASKED, activation=activation))
        quantized(saturates=False, qconfig=ASKED)
