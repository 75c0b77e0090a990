"""Arguments of patterns match however a call gives them: by position, keyword or default."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx import vocab
from qfx.rewrite import (
    Any,
    Attr,
    Const,
    Match,
    Mismatch,
    Module,
    Op,
)
from tests.rewrite.graphs import GraphBuilder
from tests.rewrite.patterns import attempt


def layer(b: GraphBuilder, how: str) -> fx.Node:
    """A linear layer whose bias is given in some way, or not."""
    x, w, bias = b.input(), b.attr("w", torch.ones(4, 4)), b.attr("b", torch.ones(4))
    return {
        "position": lambda: b.linear(x, w, bias),
        "keyword": lambda: b.linear(x, w, bias=bias),
        "all keywords": lambda: b.linear(input=x, weight=w, bias=bias),
        "none": lambda: b.linear(x, w),
        "none by position": lambda: b.linear(x, w, None),
        "none by keyword": lambda: b.linear(x, w, bias=None),
        "computed": lambda: b.linear(x, w, b.relu(bias)),
    }[how]()


WITH = ("position", "keyword", "all keywords")


WITHOUT = ("none", "none by position", "none by keyword")


NO_BIAS = {
    "keyword": lambda: Op(vocab.LINEAR, Any("x"), Attr("w"), bias=None),
    "position": lambda: Op(vocab.LINEAR, Any("x"), Attr("w"), None),
    "bare": lambda: Op(vocab.LINEAR, Any, Attr, None),
    "input": lambda: Op(vocab.LINEAR, input=Any("x"), bias=None),
}


A_BIAS = {
    "keyword": lambda: Op(vocab.LINEAR, Any("x"), Attr("w"), bias=Attr("b")),
    "position": lambda: Op(vocab.LINEAR, Any("x"), Attr("w"), Attr("b")),
}


@pytest.mark.parametrize("how", [*WITH, *WITHOUT, "computed"])
@pytest.mark.parametrize("pattern", NO_BIAS)
def test_no_bias(pattern: str, how: str) -> None:
    b = GraphBuilder()
    found = attempt(NO_BIAS[pattern](), b, layer(b, how))
    if how in WITHOUT:
        assert isinstance(found, Match)
    else:
        bias = "%b" if how in WITH else "%relu"
        assert str(found) == f"linear: expected bias=None, is {bias}"


@pytest.mark.parametrize("how", [*WITH, *WITHOUT, "computed"])
@pytest.mark.parametrize("pattern", A_BIAS)
def test_a_bias(pattern: str, how: str) -> None:
    b = GraphBuilder()
    found = attempt(A_BIAS[pattern](), b, layer(b, how))
    if how in WITH:
        assert isinstance(found, Match)
        assert found["b"].target == "b"
    else:
        bias = "None" if how in WITHOUT else "%relu"
        expected = f"linear: expected bias to be a parameter or constant, is {bias}"
        assert str(found) == expected


@pytest.mark.parametrize("how", [*WITH, *WITHOUT, "computed"])
def test_any_bias(how: str) -> None:
    b = GraphBuilder()
    node = layer(b, how)
    found = attempt(Op(vocab.LINEAR, Any("x"), Attr("w"), bias=Any("b")), b, node)
    assert isinstance(found, Match)
    assert (found["b"] is None) is (how in WITHOUT)
    other = GraphBuilder()
    assert isinstance(attempt(Op(vocab.LINEAR, Any(), Attr()), other, layer(other, how)), Match)


def test_the_right_order_of_commuting_operands_by_name() -> None:
    b = GraphBuilder()
    x = b.input()
    found = attempt(Op(vocab.MUL, Any("x"), Const(float, bind="k")), b, b.mul(2.0, other=x))
    assert isinstance(found, Match)
    assert (found["x"], found["k"]) == (x, 2.0)


def own(x: object, scale: float = 1.0, *more: object, shift: float = 0.0, **rest: object) -> object:
    return x


FUNCTIONS = {  # a pattern, calls that match it, calls that do not
    "builtin": (
        lambda: Op(torch.flatten, Any("x"), start_dim=1, end_dim=-1),
        [((1,), {}), ((1, -1), {}), ((), {"start_dim": 1}), ((), {"end_dim": -1, "start_dim": 1})],
        [((), {}), ((1, 2), {}), ((0,), {})],
    ),
    "defaults that are lists": (
        lambda: Op(F.avg_pool2d, Any("x"), 2, padding=1),
        [((2, None, 1), {}), ((2,), {"padding": 1})],
        [((2,), {}), ((3, None, 1), {})],
    ),
    "overloads": (
        lambda: Op(torch.mean, Any("x"), dim=1),
        [((1,), {}), ((), {"dim": 1}), ((1, True), {})],
        [((), {}), ((2,), {}), (([1],), {})],
    ),
    "python": (
        lambda: Op(F.gelu, Any("x"), approximate="none"),
        [((), {}), ((), {"approximate": "none"})],
        [((), {"approximate": "tanh"})],
    ),
    "python with a flag": (
        lambda: Op(F.relu, Any("x"), False),
        [((), {}), ((False,), {}), ((), {"inplace": False})],
        [((True,), {}), ((), {"inplace": True})],
    ),
    "dispatched": (
        lambda: Op(F.max_pool2d, Any("x"), kernel_size=2, return_indices=False),
        [((2,), {}), ((), {"kernel_size": 2}), ((2, None, 0), {})],
        [((3,), {}), ((2,), {"return_indices": True})],
    ),
    "overload": (
        lambda: Op(torch.ops.aten.softmax.int, Any("x"), 1, dtype=None),
        [((1,), {}), ((), {"dim": 1}), ((1, None), {})],
        [((2,), {}), ((1, torch.float64), {})],
    ),
    "packet": (
        lambda: Op(torch.ops.aten.softmax, Any("x"), dim=1),
        [((1,), {}), ((), {"dim": 1})],
        [((2,), {})],
    ),
    "method": (
        lambda: Op("flatten", Any("x"), start_dim=1),
        [((1,), {}), ((), {"start_dim": 1}), ((1, 2), {})],
        [((), {}), ((2,), {})],
    ),
    "python method": (
        lambda: Op("split", Any("x"), split_size=2, dim=0),
        [((2,), {}), ((2, 0), {}), ((), {"split_size": 2})],
        [((2, 1), {}), ((3,), {})],
    ),
    "method with sizes": (
        lambda: Op("view", Any("x"), size=(2, 2)),
        [((2, 2), {}), (((2, 2),), {}), ((), {"size": (2, 2)})],
        [((4,), {}), ((torch.int8,), {})],
    ),
    "operator": (
        lambda: Op(operator.add, Any("x"), 1),
        [((1,), {})],
        [((2,), {})],
    ),
    "own function": (
        lambda: Op(own, Any("x"), 1.0, shift=0.0),
        [((), {}), ((1.0,), {}), ((1.0, "more"), {"other": 3}), ((), {"scale": 1.0})],
        [((2.0,), {}), ((), {"shift": 1.0})],
    ),
    "own function with more": (
        lambda: Op(own, Any("x"), 1.0, "more", other=3),
        [((1.0, "more"), {"other": 3})],
        [((1.0,), {"other": 3}), ((1.0, "more"), {})],
    ),
}


@pytest.mark.parametrize("which", FUNCTIONS)
def test_functions_and_methods_by_signature(which: str) -> None:
    make, fits, misfits = FUNCTIONS[which]
    pattern = make()
    for args, kwargs in (*fits, *misfits):
        b = GraphBuilder()
        (target,) = pattern.targets
        call = b.method if isinstance(target, str) else b.call
        found = attempt(pattern, b, call(target, b.input(), *args, **kwargs))
        if (args, kwargs) in fits:
            assert isinstance(found, Match), (args, kwargs, found)
        else:
            assert isinstance(found, Mismatch), (args, kwargs, found)
            assert "expected" in str(found) or "has no attribute" in str(found)


def test_modules_by_the_signature_of_forward() -> None:
    for how in ("position", "keyword"):
        b = GraphBuilder()
        x = b.input()
        node = b.module("fc", nn.Linear(4, 4, bias=how == "keyword"), x)
        if how == "keyword":
            node.args, node.kwargs = (), {"input": x}
        found = attempt(Module(nn.Linear, Any("x"), weight=Attr("w"), bias=Any("b")), b, node)
        assert isinstance(found, Match)
        assert found["x"] is x
        assert isinstance(found["w"], nn.Parameter)
        missed = attempt(Module(nn.Linear, Any("x"), bias=None), b, node)
        if how == "position":
            assert isinstance(missed, Match)
        else:
            assert str(missed) == "fc: expected bias=None, is a tensor"


def test_arguments_of_a_module_call() -> None:
    b = GraphBuilder()
    x = b.input()
    node = b.module("attend", nn.MultiheadAttention(4, 2), x, x, x)
    assert attempt(Module(nn.MultiheadAttention, Any("q"), need_weights=True, num_heads=2), b, node)
    missed = attempt(Module(nn.MultiheadAttention, Any("q"), need_weights=False), b, node)
    assert str(missed) == "attend: expected need_weights=False, is True"


def test_near_misses_name_the_argument() -> None:
    b = GraphBuilder()
    x, w = b.input(), b.attr("w", torch.ones(4, 4))
    node = b.linear(w, x)
    missed = attempt(Op(vocab.LINEAR, Any("x"), Attr("w"), bind="fc"), b, node)
    assert str(missed) == "fc: expected weight to be a parameter or constant, is %x"
    other = GraphBuilder()
    node = other.call(own, other.input(), 1.0, "less")
    missed = attempt(Op(own, Any("x"), 1.0, "more"), other, node)
    assert str(missed) == "own: expected operand 3 to be 'more', is 'less'"
