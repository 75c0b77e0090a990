"""The helpers themselves: a check that can't fail checks nothing."""

import runpy
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import Phase, find, settings
from torch import fx, nn

from qfx import vocab
from qfx.framework.pass_base import PatternPass
from qfx.rewrite import Any, Match, Mismatch, Op, Rewriter, rewrite
from tests.support import check, golden, programs, sweeps
from tests.support.golden import normal


@rewrite(Op(vocab.RELU, Op(vocab.CONV2D, Any("x"), bind="conv", users=1)))
def conv_relu(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    return rw.with_args(match["conv"], post=(("relu",),))


class Fuse(PatternPass):
    name = "fuse"
    patterns = (conv_relu,)


@rewrite(Op(vocab.RELU, Any("x")))
def double(match: Match, rw: Rewriter) -> fx.Node:
    return rw.call(vocab.MUL, match["x"], 1.001)


class Wrong(PatternPass):
    name = "wrong"
    patterns = (double,)


class ConvRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


class ReadTwice(ConvRelu):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y.relu() + y


FUSED = """
    %x         : f32[1,3,8,8] = input
    %conv_relu : f32[1,4,8,8] = conv2d+relu(%x, @conv.weight)
    return %conv_relu
"""


def test_check_passes() -> None:
    check(Fuse(), ConvRelu(), after=FUSED, fired={"conv_relu": 1})
    check(Fuse(), ReadTwice(), mismatch="conv: expected 1 user, has 2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after": FUSED.replace("+relu", "")}, "the IR differs; QFX_GOLDEN=rewrite"),
        ({"fired": 2}, "rules fired: {'conv_relu': 1}"),
        ({"fired": {}}, "rules fired: {'conv_relu': 1}"),
        ({"mismatch": "conv: expected 1 user, has 2"}, "rules fired"),
        ({"atol": 100.0}, "is vacuous"),
    ],
)
def test_check_fails(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(Fuse(), ConvRelu(), **arguments)


def test_check_wants_the_reason() -> None:
    with pytest.raises(AssertionError, match="no near-miss says 'other'; they say"):
        check(Fuse(), ReadTwice(), mismatch="other")


def test_check_compares_numbers() -> None:
    with pytest.raises(AssertionError, match="Tensor-likes are not equal"):
        check(Wrong(), ConvRelu())


def test_golden_is_rewritten_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = tmp_path / "golden_case.py"
    body = """
        from tests.test_support import ConvRelu, Fuse, check

        def test_it():
            check(
                Fuse(),
                ConvRelu(), after="old",
            )
            check(Fuse(), ConvRelu(), after=\"\"\"
                older
            \"\"\")

        test_it()
    """
    test.write_text(textwrap.dedent(body))
    monkeypatch.setenv("QFX_GOLDEN", "rewrite")
    runpy.run_path(str(test))
    golden.write()
    monkeypatch.delenv("QFX_GOLDEN")
    runpy.run_path(str(test))
    assert test.read_text().count("%conv_relu : f32[1,4,8,8] = conv2d+relu(%x, @conv.weight)") == 2


def test_golden_text_ignores_indentation() -> None:
    assert normal("\n    a\n      b  \n\n") == normal("a\n  b")


@pytest.mark.parametrize(
    "kind", ["F.conv2d", "nn.ReLU inplace", "torch.add alpha", "cat", "linear", "view"]
)
def test_strategy_reaches(kind: str) -> None:
    def uses(program) -> bool:
        return any(step.kind == kind for step in program.steps)

    quick = settings(max_examples=2000, database=None, derandomize=True, phases=[Phase.generate])
    program = find(programs(), uses, settings=quick)
    output = program.build()(program.example())
    assert all(torch.isfinite(t).all() for t in (output if isinstance(output, tuple) else [output]))


def test_strategy_shares_modules() -> None:
    def shares(program) -> bool:
        named = [step.module for step in program.steps if step.module]
        return len(set(named)) < len(named)

    quick = settings(max_examples=2000, database=None, derandomize=True, phases=[Phase.generate])
    assert "conv" in repr(find(programs(), shares, settings=quick))


# -- sweeps ----------------------------------------------------------------------------------------
def test_a_sweep_takes_every_value_once_and_leaves_the_rest() -> None:
    grid = [
        (size, backend, flag) for size in range(5) for backend in "abc" for flag in (True, False)
    ]
    cases = [
        SimpleNamespace(callspec=SimpleNamespace(params=dict(zip("sbf", case, strict=True))))
        for case in grid
    ]
    kept = [tuple(case.callspec.params.values()) for case in sweeps.each_choice(cases)]
    assert len(kept) == 5  # as many as the longest parameter has values
    assert [set(values) for values in zip(*kept, strict=True)] == [
        set(values) for values in zip(*grid, strict=True)
    ]
