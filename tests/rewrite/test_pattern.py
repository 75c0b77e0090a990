"""Tests."""

import re

import pytest
import torch
from torch import nn

from qfx import vocab
from qfx.errors import PatternError
from qfx.rewrite import (
    Any,
    Attr,
    Const,
    Match,
    Mismatch,
    Module,
    OneOf,
    Op,
    RewriteRule,
    rewrite,
)
from tests.rewrite.graphs import GraphBuilder
from tests.rewrite.patterns import attempt


def test_binds_nodes_literals_and_root() -> None:
    b = GraphBuilder()
    x = b.input()
    relu = b.relu(b.mul(x, 3.0))
    match = attempt(
        Op(vocab.RELU, Op(vocab.MUL, Any("x"), Const(float, bind="factor")), bind="relu"), b, relu
    )
    assert isinstance(match, Match)
    assert match["x"] is x
    assert match["factor"] == 3.0
    assert match["relu"] is match.root is relu
    assert [n.name for n in match.nodes] == ["mul", "relu"]
    assert match.get("x") is x
    assert match.get("factor") is None
    assert match.get("nothing") is None
    assert "x" in match
    with pytest.raises(PatternError, match="binds factor, relu, x, not 'y'"):
        match["y"]


def test_other_root_is_not_tried() -> None:
    b = GraphBuilder()
    assert attempt(Op(vocab.RELU, Any()), b, b.sigmoid(b.input())) is None


def test_far_miss_has_no_reason() -> None:
    b = GraphBuilder()
    relu = b.relu(b.sigmoid(b.input()))
    assert attempt(Op(vocab.RELU, Op(vocab.LINEAR, Any())), b, relu) is None


def test_users_count_reads() -> None:
    b = GraphBuilder()
    y = b.relu(b.input())
    root = b.add(y, y)
    pattern = Op(vocab.ADD, Op(vocab.RELU, bind="y", users=1), Any())
    missed = attempt(pattern, b, root)
    assert isinstance(missed, Mismatch)
    assert missed.reason == "y: expected 1 user, has 2"
    assert missed.node is y


def test_users_of_the_root() -> None:
    b = GraphBuilder()
    relu = b.relu(b.input())
    b.sigmoid(relu)
    missed = attempt(Op(vocab.RELU, users=3), b, relu)
    assert str(missed) == "relu: expected 3 users, has 2"


def test_commutative_operands_match_either_way() -> None:
    pattern = Op(vocab.ADD, Op(vocab.LINEAR, Any(), Attr(), bind="linear"), Any("other"))
    for swap in (False, True):
        b = GraphBuilder()
        x = b.input()
        linear = b.linear(x, b.attr("w", torch.ones(4, 4)))
        match = attempt(pattern, b, b.add(*((x, linear) if swap else (linear, x))))
        assert isinstance(match, Match)
        assert (match["linear"], match["other"]) == (linear, x)


def test_scaled_add_does_not_commute() -> None:
    b = GraphBuilder()
    x = b.input()
    root = b.add(x, b.relu(x), alpha=2)
    assert attempt(Op(vocab.ADD, Op(vocab.RELU), Any()), b, root) is None


def test_commutes_on_request_and_not() -> None:
    for commutes in (True, False):
        b = GraphBuilder()
        x = b.input()
        root = b.call(torch.maximum, x, b.relu(x))
        pattern = Op(torch.maximum, Op(vocab.RELU), Any(), commutative=commutes)
        assert isinstance(attempt(pattern, b, root), Match) is commutes


def test_takes_back_a_choice_that_a_later_operand_contradicts() -> None:
    # Both operands of the inner add are relus; only the second order makes "x" agree.
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    inner = b.add(b.relu(x), b.relu(y))
    root = b.mul(inner, y)
    pattern = Op(vocab.MUL, Op(vocab.ADD, Op(vocab.RELU, Any("x")), Any("rest")), Any("x"))
    match = attempt(pattern, b, root)
    assert isinstance(match, Match)
    assert match["x"] is y
    assert match["rest"].args == (x,)


def test_same_name_must_be_same_node() -> None:
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    missed = attempt(Op(vocab.ADD, Op(vocab.RELU, Any("v")), Any("v")), b, b.add(b.relu(x), y))
    assert isinstance(missed, Mismatch)
    assert missed.reason == "v is %x in one place and %y in another"


def test_alternatives_in_order() -> None:
    pattern = OneOf(Op(vocab.RELU, Any("x")), Op("relu", Any("x")), Op(torch.relu, Any("x")))
    for make in ("relu", "method", "function"):
        b = GraphBuilder()
        x = b.input()
        node = {
            "relu": lambda b=b, x=x: b.relu(x),
            "method": lambda b=b, x=x: b.method("relu", x),
            "function": lambda b=b, x=x: b.call(torch.relu, x),
        }[make]()
        match = attempt(pattern, b, node)
        assert isinstance(match, Match)
        assert match["x"] is x


def test_any_target_of_a_tuple() -> None:
    b = GraphBuilder()
    assert attempt(Op((vocab.RELU, vocab.TANH)), b, b.tanh(b.input()))


def test_module_type_is_exact() -> None:
    class Special(nn.ReLU):
        pass

    for module, fits in ((nn.ReLU(), True), (Special(), False)):
        b = GraphBuilder()
        found = attempt(Module(nn.ReLU, Any("x")), b, b.module("act", module, b.input()))
        assert isinstance(found, Match) is fits


def test_module_attributes() -> None:
    b = GraphBuilder()
    node = b.module("act", nn.LeakyReLU(0.5), b.input())
    missed = attempt(Module(nn.LeakyReLU, Any(), negative_slope=0.01), b, node)
    assert isinstance(missed, Mismatch)
    assert missed.reason == "act: expected negative_slope=0.01, is 0.5"


def test_attribute_default_counts_when_left_out() -> None:
    b = GraphBuilder()
    node = b.leaky_relu(b.input())
    match = attempt(Op(vocab.LEAKY_RELU, negative_slope=Const(float, bind="slope")), b, node)
    assert isinstance(match, Match)
    assert match["slope"] == 0.01


def test_attribute_that_another_target_has_is_no_match() -> None:
    b = GraphBuilder()
    either = Op((vocab.RELU, vocab.LEAKY_RELU), negative_slope=1)
    assert not attempt(either, b, b.relu(b.input()))


def test_lists_match_item_by_item() -> None:
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    match = attempt(Op(vocab.CAT, [Any("a"), Any("b")], dim=1), b, b.cat([x, y], dim=1))
    assert isinstance(match, Match)
    assert (match["a"], match["b"]) == (x, y)


def test_list_of_other_length() -> None:
    b = GraphBuilder()
    x = b.input()
    missed = attempt(Op(vocab.CAT, [Any(), Any()]), b, b.cat([x, x, x]))
    assert str(missed) == "cat: expected tensors to be a list of 2, is a list of 3"


@pytest.mark.parametrize(
    ("expected", "literal", "fits"),
    [
        (Const(2), 2, True),
        (Const(2), 2.0, True),
        (Const(1), True, False),
        (Const(int), True, False),
        (Const(bool), True, True),
        (Const((int, float)), 2.5, True),
        (Const(float), 2, False),
        (Const(lambda v: v > 1), 2, True),
        (Const(lambda v: v > 1), 1, False),
        (2.0, 2.0, True),
        ((1, 2), [1, 2], True),
        ((1, 2), (1, 3), False),
    ],
)
def test_literals(expected: object, literal: object, fits: bool) -> None:
    b = GraphBuilder()
    node = b.getitem(b.input(), literal)
    pattern = Op(vocab.GETITEM, Any(), expected)
    assert isinstance(attempt(pattern, b, node), Match) is fits


def test_constant_is_no_node() -> None:
    b = GraphBuilder()
    x = b.input()
    assert not attempt(Op(vocab.MUL, Any(), Const(lambda v: True)), b, b.mul(x, x))


def test_where_reason() -> None:
    def is_wide(node) -> bool | Mismatch:
        return Mismatch("{0} has {1} columns", node.name, 4)

    b = GraphBuilder()
    missed = attempt(Op(vocab.RELU, where=is_wide), b, b.relu(b.input()))
    assert str(missed) == "relu has 4 columns"


def test_where_without_a_reason_is_named() -> None:
    def is_wide(node) -> bool:
        return False

    b = GraphBuilder()
    missed = attempt(Op(vocab.RELU, where=is_wide), b, b.relu(b.input()))
    assert str(missed) == "relu: refused by is_wide"


def test_an_operand_that_is_left_out() -> None:
    b = GraphBuilder()
    node = b.relu(
        b.linear(
            b.input(),
            b.attr("w", torch.ones(4, 4)),
        )
    )
    missed = attempt(Op(vocab.RELU, Op(vocab.LINEAR, Any(), Any(), Attr(), bind="fc")), b, node)
    assert isinstance(missed, Mismatch)
    assert missed.reason == "fc: expected bias to be a parameter or constant, is None"


def test_the_method_any_is_not_the_pattern_any() -> None:
    b = GraphBuilder()
    x = b.input()
    pattern = Op("any", Any("x"))
    assert attempt(pattern, b, b.method("any", x))
    other = GraphBuilder()
    assert attempt(pattern, other, other.method("all", other.input())) is None


def test_mismatch_formats_when_read() -> None:
    class Loud:
        def __str__(self) -> str:
            raise AssertionError("formatted too early")

    assert not Mismatch("{0}", Loud())
    with pytest.raises(AssertionError, match="too early"):
        Mismatch("{0}", Loud()).reason  # noqa: B018
    assert Mismatch("braces {} stay").reason == "braces {} stay"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Op(nn.Conv2d, Any()), "write Module(Conv2d, ...)"),
        (lambda: Op(3), "3 is no operation"),
        (lambda: Op(()), "needs a target"),
        (lambda: Op(vocab.RELU, users=-1), "users must be a number, 0 or more, got -1"),
        (lambda: Op(vocab.RELU, users="1"), "users must be a number, 0 or more, got '1'"),
        (lambda: Op(vocab.RELU, where="x"), "where is 'x'; give a predicate"),
        (lambda: Op(vocab.RELU, Op(vocab.TANH, users=0)), "users=0 never holds of it"),
        (lambda: Op(vocab.RELU, Const(3.0)), "input of relu is a tensor, which never equals 3.0"),
        (lambda: Op(vocab.RELU, Const(float)), "input of relu is Tensor, which is never float"),
        (lambda: Op(vocab.RELU, Const(callable)), "input of relu is Tensor, which is never calla"),
        (lambda: Op(vocab.MEAN, keepdim=Const(int)), "keepdim of mean is bool, which is never int"),
        (
            lambda: Op(vocab.SOFTMAX, dim=Const(float)),
            "dim of softmax is int, which is never float",
        ),
        (lambda: Op(vocab.SOFTMAX, dim=Attr()), "dim of softmax is int, and never a parameter"),
        (lambda: Module(vocab.RELU), "is no nn.Module type"),
        (lambda: OneOf(Any()), "two alternatives"),
        (lambda: RewriteRule(Const(3), lambda m, rw: m.root, "r"), "cannot be the root"),
        (lambda: Op(vocab.RELU, "x"), 'input of relu is a tensor.*write Any("x")'),
        (lambda: Op(vocab.RELU, None), "input of relu is a tensor, which never equals None"),
        (lambda: Op(vocab.RELU, [Any()]), "input of relu is Tensor, and never a list"),
        (lambda: Op(vocab.RELU, Any(), Any(), Any()), "relu takes 1 operand (input), and.*has 3"),
        (lambda: Op(vocab.SOFTMAX, Any(), 1), "takes 1 operand (input).*given by keyword"),
        (lambda: Op(vocab.LINEAR, vocab.RELU), "relu alone is no pattern; write Op(relu, ...)"),
        (lambda: Op(vocab.LINEAR, Op), "Op alone is no pattern; write Op(...)"),
        (lambda: Op(vocab.LINEAR, Any(), Any(), Any(), bias=None), "has bias twice"),
        (lambda: Op(vocab.MUL, Any(), float), "for any float write Const(float)"),
        (lambda: Op(vocab.CONV2D, stride=2), "stride of conv2d is Sequence[int], which never"),
        (lambda: Op(vocab.MEAN, keepdim=1), "keepdim of mean is bool, which never equals 1"),
        (lambda: Op(vocab.GELU, approximate=3), "approximate of gelu is str"),
        (lambda: Any(vocab.RELU), "Any takes the name to bind, a string, not relu.*write Op(relu"),
        (lambda: Attr(vocab.RELU), "Attr takes the name to bind"),
        (lambda: Op(vocab.RELU, bind=vocab.RELU), "is no name"),
        (lambda: rewrite(vocab.RELU), "rewrite takes a pattern.*not RELU"),
        (lambda: rewrite(lambda match, rw: match.root), "rewrite takes a pattern"),
    ],
)
def test_malformed_patterns_fail_when_built(make, message: str) -> None:
    with pytest.raises(PatternError, match=re.sub(r"[()\[\]]", r"\\\g<0>", message)):
        make()


def test_patterns_print() -> None:
    pattern = Op(vocab.ADD, Op("conv", Any("x"), bind="conv", users=1), alpha=2)
    assert repr(pattern).startswith("Op(add, Op(.conv(), Any(bind='x'), bind='conv', users=1)")


def test_a_mistyped_keyword_is_no_attribute() -> None:
    with pytest.raises(PatternError, match=r"relu has no attribute 'usrs'; did you mean users\?"):
        Op(vocab.RELU, Any("x"), usrs=1)
    Op((vocab.RELU, vocab.CLAMP), Any("x"), min=0)  # one of them has it
    with pytest.raises(
        PatternError, match=r"relu has no attribute 'zzz'\. Its attributes are input"
    ):
        Op(vocab.RELU, zzz=1)
    Op("view", Any("x"), shape=(1,))  # what is no canonical operation may take anything


@pytest.mark.parametrize(
    "make",
    [
        lambda: Op(vocab.MUL, Any(), Const(float)),
        lambda: Op(vocab.MUL, 2.0, Any()),  # it may stand on either side
        lambda: Op(vocab.MUL, 2.0),
        lambda: Op(vocab.MUL, Any(), Const((int, float))),
        lambda: Op(vocab.MUL, Any(), Const(lambda v: v > 0)),
        lambda: Op(vocab.MUL, Any(), Attr("scale")),
        lambda: Op(vocab.CLAMP, Any(), min=Const(int), max=Const(object)),
        lambda: Op(vocab.LINEAR, Any(), Any(), bias=Const(type(None))),
        lambda: Op(vocab.MEAN, keepdim=Const(bool)),
        lambda: Op(vocab.CONV2D, stride=Const(tuple)),
        lambda: Op(vocab.SOFTMAX, dim=Op(vocab.SIZE)),
    ],
)
def test_patterns_that_may_match_are_taken(make) -> None:
    assert make()


@pytest.mark.parametrize("text", ["{0} {1}", "{} {}", "{name}", "a {"])
def test_a_mismatch_that_cannot_be_shown_fails_where_it_is_made(text: str) -> None:
    with pytest.raises(PatternError, match=r"Mismatch\(.*can't be shown"):
        Mismatch(text, 1)


def test_braces_without_arguments_are_text() -> None:
    assert Mismatch("is in {'a': 1}").reason == "is in {'a': 1}"
    assert Mismatch("{0:.1f} of {{x}}, {1[0]}", 1, (2,)).reason == "1.0 of {x}, 2"
