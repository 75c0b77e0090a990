"""``check`` itself: a check that can't fail checks nothing."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from qfx import vocab
from qfx.framework.pass_base import PatternPass
from qfx.rewrite import Any, Match, Mismatch, Op, Rewriter, rewrite
from qfx.testing import check
from qfx.testing.golden import Updates, normal


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
        ({"after": FUSED.replace("+relu", "")}, "IR after .* differs; pytest --update-golden"),
        ({"before": FUSED}, "IR before the pass differs"),
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


def test_what_does_not_keep_values_is_not_compared() -> None:
    class Meant(PatternPass):
        name = "meant"
        keeps_values = False
        patterns = (double,)

    check(Meant(), ConvRelu())


CASE = """
    from tests.testing.test_checking import ConvRelu, Fuse, check

    def test_it():
        check(
            Fuse(),
            ConvRelu(), before="", after="old",
        )
        check(Fuse(), ConvRelu(), after=\"\"\"
            older
        \"\"\")
"""


@pytest.mark.slow
def test_golden_is_updated_in_place(tmp_path: Path) -> None:
    test = tmp_path / "test_golden_case.py"
    test.write_text(textwrap.dedent(CASE))
    command = [sys.executable, "-m", "pytest", "-p", "qfx.testing.pytest_plugin", "-q", str(test)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    codes = [
        subprocess.run([*command, *options], cwd=tmp_path, env=environment).returncode
        for options in ([], ["--update-golden"], [])
    ]
    assert codes == [1, 0, 0]
    assert test.read_text().count("%conv_relu : f32[1,4,8,8] = conv2d+relu(%x, @conv.weight)") == 2
    assert "= relu(%conv)" in test.read_text()


def test_golden_texts_are_written_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "case.py"
    file.write_text('check(P(), after="a")\n\ncheck(P(), before="b", after="c")\n')
    updates = Updates()
    updates.add(str(file), 1, "after", "new\nlines")
    updates.add(str(file), 3, "before", "other")
    with pytest.raises(AssertionError, match="has no literal before="):
        updates.add(str(file), 1, "before", "other")
    updates.write()
    calls = ast.parse(file.read_text()).body
    values = [[ast.literal_eval(k.value) for k in call.value.keywords] for call in calls]
    assert [list(map(normal, each)) for each in values] == [["new\nlines"], ["other", "c"]]


def test_golden_text_ignores_indentation() -> None:
    assert normal("\n    a\n      b  \n\n") == normal("a\n  b")
