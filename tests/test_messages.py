"""Messages that a first user stumbled over."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import qfx
from qfx import vocab
from qfx.semantics.queries import guard


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
