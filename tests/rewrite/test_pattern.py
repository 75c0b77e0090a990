import operator
import re

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx import vocab
from qfx.errors import PatternError
from qfx.rewrite import (
    Any,
    Attr,
    Const,
    Match,
    Matcher,
    Mismatch,
    Module,
    OneOf,
    Op,
    Pattern,
    RewriteRule,
    rewrite,
)
from tests.rewrite.graphs import GraphBuilder


def attempt(pattern: Pattern, builder: GraphBuilder, node) -> Match | Mismatch | None:
    rule = RewriteRule(pattern, lambda match, rw: match.root, "rule")
    graph_module = builder.done(node)
    matcher = Matcher((rule,), graph_module)
    return matcher.match(rule, node) if rule in matcher.rules_for(node) else None


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
        (lambda: Op(vocab.RELU, users=-1), "users must be 0 or more"),
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


# -- arguments, however they are given -------------------------------------------------------------
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
