"""Messages that a first user stumbled over."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import fx, nn

import qfx
from qfx import vocab
from qfx.semantics.queries import guard

ROOT = Path(__file__).resolve().parents[1]


def test_a_guard_names_a_tensor_by_its_shape_and_does_not_print_it() -> None:
    with pytest.raises(qfx.ConfigError) as error:
        guard(torch.ones(2, 3), expected=None, what="mask")
    assert "mask = None, but" in str(error.value)
    assert "make it a tensor of torch.float32, (2, 3)." in str(error.value)


def test_a_name_that_a_pattern_does_not_bind_names_the_rule() -> None:
    @qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))
    def my_rule(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
        return match["nope"]

    class Mine(qfx.PatternPass):
        name = "mine"
        patterns = (my_rule,)

    with pytest.raises(qfx.PatternError, match="the pattern of rule my_rule binds x, not 'nope'"):
        qfx.run_passes(nn.ReLU(), [Mine()], torch.randn(2))


def test_an_operation_prints_as_it_is_written() -> None:
    assert repr(vocab.CONV2D) == "vocab.CONV2D"
    assert str(vocab.CONV2D) == "conv2d"
    parameters = inspect.signature(vocab.LINEAR).parameters
    assert list(parameters) == ["input", "weight", "bias", "post"]


def test_an_unknown_pass_suggests_what_is_like_it() -> None:
    with pytest.raises(qfx.ConfigError, match="did you mean fuse-conv-bn"):
        qfx.get_pass("fuse-conv-bm")
    with pytest.raises(qfx.ConfigError, match="is installed; there are: annotate, "):
        qfx.get_pass("zzz")


def test_passes_in_docstrings_exist() -> None:
    for path in (*ROOT.glob("qfx/**/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("*.md")):
        for text in re.findall(r"``?([a-z]+(?:-[a-z]+)+\{[^}`]*\})``?", path.read_text()):
            qfx.parse_pass(text)
