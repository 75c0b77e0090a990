"""Pipelines as text: what is printed is read again, the place of calibration in it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

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
@pytest.mark.parametrize("backend", [None, "x86", "fbgemm", "reference"])
def test_the_standard_pipelines_round_trip(method: str, backend: str | None) -> None:
    pipeline = getattr(qfx.pipelines, method)(backend=backend)
    halves = pipeline.split()
    for each in (pipeline, pipeline.without("fuse-pads"), *halves):
        read = qfx.parse_pipeline(str(each), start=each.start)
        assert (read, hash(read), str(read)) == (each, hash(each), str(each))
    assert (CALIBRATE in read.passes) is (CALIBRATE in halves[1].passes)


def _other_values(step: qfx.Pass) -> Iterator[qfx.Pass]:
    """``step`` with each of its options at another value, alone and together."""
    others: dict[str, object] = {}
    for option in dataclasses.fields(step):  # type: ignore[arg-type]
        value = getattr(step, option.name)
        others[option.name] = {
            bool: not value,
            int: 41,
            float: 1e-300,
            tuple: step.parts[:2],
        }[type(value)]
    made = ({name: value} for name, value in others.items())
    yield from (dataclasses.replace(step, **each) for each in (*made, others))  # type: ignore


@pytest.mark.parametrize("name", qfx.list_passes())
def test_every_registered_pass_round_trips_with_other_options(name: str) -> None:
    kind = qfx.get_pass(name)
    for step in (kind(), *_other_values(kind())):
        alone = qfx.Pipeline((step,), start=step.requires or qfx.Level.CAPTURED)
        read = qfx.parse_pipeline(str(alone), start=alone.start)
        assert read == alone
        assert read[name] == step
        assert (step == kind()) is (step.options() == {})


class Drawn(qfx.Pass):
    name = "drawn"
    kept: object = None


def _drawn(source: random.Random, depth: int = 2) -> object:
    """A value that an option may have: of any kind with a text."""
    leaves: list[object] = [
        *(True, False, None, 0, -3, 10**30, 2.5, -1e-9, float("inf"), -float("inf")),
        *("", "a, b", "it's {", 'a "]" \\ \n', "none", "(<x>)", torch.int8, torch.bfloat16),
    ]
    if depth == 0 or source.random() < 0.3:
        return source.choice(leaves)
    items = [_drawn(source, depth - 1) for _ in range(source.randint(0, 3))]
    if source.random() < 0.3:
        return {f"{source.choice(leaves)}{i}": item for i, item in enumerate(items)}
    return items if source.random() < 0.5 else tuple(items)


def test_every_value_of_an_option_round_trips() -> None:
    source = random.Random(0)
    for _ in range(80):
        steps = tuple(Drawn(_drawn(source)) for _ in range(3))
        pipeline = qfx.Pipeline((*steps[:2], CALIBRATE, steps[2]))
        assert qfx.parse_pipeline(str(pipeline), lambda name: Drawn) == pipeline


def test_what_has_no_text_is_told_when_it_is_read() -> None:
    text = str(Drawn(frozenset({1})))
    assert text == "drawn{kept=<frozenset>}"
    with pytest.raises(qfx.ConfigError, match="<frozenset> stands for a value that has no text"):
        qfx.parse_pipeline(text, lambda name: Drawn)


def test_other_pipelines_are_not_equal() -> None:
    pipeline = qfx.pipelines.static()
    others = (
        pipeline.without("fuse-pads"),
        pipeline.without("expand-attention"),
        pipeline.insert_after("canonicalize", Drawn()),
        pipeline.split()[0],
        qfx.pipelines.dynamic(),
        list(pipeline),
    )
    assert all(pipeline != other for other in others)
    empty = qfx.Pipeline(())
    assert empty == qfx.Pipeline((), backend="x86", method="static")
    assert empty != qfx.Pipeline((), start=qfx.Level.FUSED)


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
