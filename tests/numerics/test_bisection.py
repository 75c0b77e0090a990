"""bisect names the operation and the pass when a user's pass is wrong, and nobody when none is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qfx
from qfx import vocab
from qfx.history.removal import removers
from qfx.rewrite.rule import RuleFunction


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(x)))


@pytest.fixture(scope="module")
def mlp() -> Mlp:
    torch.manual_seed(0)
    return Mlp().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(64, 16, generator=torch.Generator().manual_seed(1))


def bad_pass(pattern: qfx.Op, function: RuleFunction) -> qfx.PatternPass:
    class Bad(qfx.PatternPass):
        name = "bad-pass"
        patterns = (qfx.rewrite(pattern, name="bad-rule")(function),)

    return Bad()


RELU = qfx.Op(vocab.RELU, qfx.Any("x"))
LINEAR = qfx.Op(vocab.LINEAR, qfx.Any("x"), qfx.Attr("w"), qfx.Attr("b"))


def shift_bias(match: qfx.Match, rw: qfx.Rewriter) -> Any:
    bias = rw.tensor(match["b"])
    if bias.abs().max() > 5:
        return qfx.Mismatch("done")
    return rw.call(vocab.LINEAR, match["x"], match["w"], rw.constant("b", bias + 10))


def quantized(model: nn.Module, x: Tensor, step: qfx.Pass | None = None) -> qfx.QuantizedModel:
    pipeline = qfx.pipelines.static()
    if step is not None:
        pipeline = pipeline.insert_after("canonicalize", step)
    return qfx.quantize(model, x, backend="reference", pipeline=pipeline, check=False)


def test_a_bug_in_every_layer_stands_out_though_it_is_typical(mlp: Mlp, x: Tensor) -> None:
    found = qfx.bisect(mlp, quantized(mlp, x, bad_pass(LINEAR, shift_bias)), [x])
    assert found.stands_out
    assert found.site is not None
    assert (found.site.node, found.pass_name) == ("relu", "bad-pass")  # relu ends the first layer
    assert "where rounding alone leaves 28 dB" in str(found)


def test_a_removed_operation_that_did_something_is_named(mlp: Mlp, x: Tensor) -> None:
    drop_first = bad_pass(
        RELU, lambda m, rw: m["x"] if m.root.name == "relu" else qfx.Mismatch("the other")
    )
    found = qfx.bisect(mlp, quantized(mlp, x, drop_first), [x])
    assert found.site is not None
    assert (found.site.node, found.pass_name, found.makers) == (
        "relu",
        "bad-pass",
        ("bad-pass/bad-rule",),
    )
    assert found.shown_by == "relu_1"
    assert "pass bad-pass removed it, though it does something" in str(found)


def test_removed_identities_are_no_suspects(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Dropout(), nn.ReLU(), nn.Linear(16, 4)).eval()
    gelu = bad_pass(RELU, lambda m, rw: rw.call(vocab.GELU, m["x"]))
    found = qfx.bisect(model, quantized(model, x, gelu), [x])
    assert found.site is not None
    assert (found.site.node, found.pass_name, found.shown_by) == ("_2", "bad-pass", "")


class Block(nn.Module):
    """Float sites around integer ones: the median site is exact without the rounding after it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.down(F.gelu(self.up(self.norm(x))))).softmax(-1).exp().sin().cos()


def test_a_sound_model_accuses_nobody(x: Tensor) -> None:
    torch.manual_seed(0)
    model = Block().eval()
    found = qfx.bisect(model, quantized(model, x), [x])
    assert not found.stands_out
    assert str(found).startswith("No operation stands out: the error is spread over the operations")
    assert "inf dB" not in str(found)


def test_removers_name_pass_and_rule(mlp: Mlp, x: Tensor) -> None:
    drop = bad_pass(RELU, lambda m, rw: m["x"])
    _, history = qfx.run_passes(mlp, [qfx.get_pass("canonicalize"), drop], x, check=False)
    names = [r.name for r in history[0].snapshot]
    gone = removers(list(history), names)
    assert gone["relu"] == gone["relu_1"] == "bad-pass/bad-rule"
    assert "a" not in gone
