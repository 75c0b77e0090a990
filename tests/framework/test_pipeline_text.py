"""Pipelines as text: what is printed is read again, the place of calibration in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qfx
from qfx.framework.pass_text import steps
from qfx.framework.pipeline import CALIBRATE


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a, b", ["a", "b"]),
        ("a{x=1, y=[2, 3]},b\nc", ["a{x=1, y=[2, 3]}", "b", "c"]),
        (" a ,, ", ["a"]),
        (r"""a{s='x, }y\'(', t="'{"}, b""", [r"""a{s='x, }y\'(', t="'{"}""", "b"]),
    ],
)
def test_texts_are_cut_outside_of_braces(text: str, parts: list[str]) -> None:
    assert steps(text) == parts


@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only", "qat"])
def test_the_standard_pipelines_round_trip(method: str) -> None:
    pipeline = getattr(qfx.pipelines, method)(backend="x86")
    read = qfx.parse_pipeline(str(pipeline))
    assert str(read) == str(pipeline)
    assert (CALIBRATE in read.passes) is (CALIBRATE in pipeline.passes)


def test_what_is_read_quantizes_alike() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(8, 4)
    standard = qfx.pipelines.static(backend="reference")
    read = qfx.parse_pipeline(str(standard))
    ours, theirs = (
        qfx.quantize(model, x, backend="reference", pipeline=p) for p in (read, standard)
    )
    assert [stage.name for stage in ours.history] == [stage.name for stage in theirs.history]
    assert torch.equal(ours(x), theirs(x))


def test_an_order_that_can_not_work_is_told_when_it_is_read() -> None:
    with pytest.raises(qfx.ConfigError, match="put lower after reference"):
        qfx.parse_pipeline("canonicalize, lower, reference")
    with pytest.raises(qfx.ConfigError, match="a pipeline calibrates once"):
        qfx.parse_pipeline("calibrate, calibrate")


def test_what_is_no_text_is_told() -> None:
    with pytest.raises(qfx.ConfigError, match="a pipeline is read from text"):
        qfx.parse_pipeline(None)  # type: ignore[arg-type]
