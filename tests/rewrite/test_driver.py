import time

import pytest
import torch
from torch import fx, nn

from qfx import vocab
from qfx.errors import PatternError
from qfx.graph import meta
from qfx.rewrite import Any, Match, Mismatch, Op, Rewriter, drive, rewrite
from tests.rewrite.graphs import GraphBuilder, text


@rewrite(Op(vocab.RELU, Op(vocab.LINEAR, Any("x"), bind="linear", users=1)))
def fuse_relu(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    if match["linear"].kwargs.get("post"):
        return Mismatch("{0} has a post-op already", match["linear"])
    return rw.with_args(match["linear"], post=(("relu",),))


@rewrite(Op(vocab.RELU, Op(vocab.RELU, Any("x"), bind="first")))
def relu_twice(match: Match, rw: Rewriter) -> fx.Node:
    return match["first"]


def linear_chain(n: int) -> fx.GraphModule:
    b = GraphBuilder()
    y = b.input()
    weight = b.attr("w", torch.eye(4))
    for _ in range(n):
        y = b.relu(b.linear(y, weight))
    return b.done(y)


def test_fires_everywhere_and_records_events() -> None:
    gm = linear_chain(2)
    rw = Rewriter(gm, pass_name="fuse")
    assert drive((fuse_relu,), rw) == []
    assert (
        text(gm)
        == """\
%x = input
%linear_relu = linear+relu(%x, @w)
%linear_1_relu_1 = linear+relu(%linear_relu, @w)
return %linear_1_relu_1"""
    )
    assert [(e.rule, e.removed, e.added) for e in rw.events] == [
        ("fuse/fuse_relu", ("relu", "linear"), ("linear_relu",)),
        ("fuse/fuse_relu", ("relu_1", "linear_1"), ("linear_1_relu_1",)),
    ]
    assert {e.source for e in rw.events} == {"model.py:7"}


def test_keeps_the_near_miss() -> None:
    b = GraphBuilder()
    linear = b.linear(b.input(), b.attr("w", torch.eye(4)))
    gm = b.done(b.relu(linear), linear)
    before = text(gm)
    misses = drive((fuse_relu,), Rewriter(gm, pass_name="fuse"))
    assert [str(m) for m in misses] == [
        "fuse/fuse_relu at %relu: linear: expected 1 user, has 2   # model.py:7"
    ]
    assert text(gm) == before


def test_keeps_the_reason_of_a_rule() -> None:
    b = GraphBuilder()
    linear = b.linear(b.input(), b.attr("w", torch.eye(4)), post=(("tanh",),))
    misses = drive((fuse_relu,), Rewriter(b.done(b.relu(linear)), pass_name="fuse"))
    assert [m.reason for m in misses] == ["linear has a post-op already"]


def test_a_rewrite_enables_a_rule_that_failed_before() -> None:
    # The second reader of %linear goes away only after relu(linear) has been tried.
    @rewrite(Op(vocab.SUB, Any("x"), Any("x")))
    def nothing_left(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.MUL, match.root.graph._root.next, 0.0)

    b = GraphBuilder()
    x = b.input()
    linear = b.linear(x, b.attr("w", torch.eye(4)))
    relu = b.relu(linear)
    gm = b.done(b.add(relu, b.sub(linear, linear)))
    misses = drive((fuse_relu, nothing_left), Rewriter(gm, pass_name="p"))
    assert misses == []
    assert "linear+relu" in text(gm)


def test_a_rewrite_enables_a_rule_below_it() -> None:
    @rewrite(Op(vocab.TANH, Op(vocab.LINEAR, Any("x"), post=(("relu",),), bind="linear")))
    def absorb(match: Match, rw: Rewriter) -> fx.Node:
        return rw.with_args(match["linear"], post=(("relu",), ("tanh",)))

    b = GraphBuilder()
    gm = b.done(b.tanh(b.relu(b.linear(b.input(), b.attr("w", torch.eye(4))))))
    drive((absorb, fuse_relu), Rewriter(gm, pass_name="p"))
    assert "linear+relu+tanh" in text(gm)


@pytest.mark.parametrize("first", ["tanh", "sigmoid"])
def test_earlier_rule_wins(first: str) -> None:
    names = ["tanh", "sigmoid"] if first == "tanh" else ["sigmoid", "tanh"]
    rules = tuple(
        rewrite(Op(vocab.RELU, Any("x")), name=name)(
            lambda match, rw, name=name: rw.call(vocab.lookup(name), match["x"])
        )
        for name in names
    )
    b = GraphBuilder()
    gm = b.done(b.relu(b.input()))
    drive(rules, Rewriter(gm, pass_name="p"))
    assert [n.target.name for n in gm.graph.nodes if vocab.is_op(n)] == [first]


def test_looping_rule_is_named() -> None:
    @rewrite(Op(vocab.ADD, Any("a"), Any("b")))
    def swap(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.ADD, match["b"], match["a"])

    b = GraphBuilder()
    gm = b.done(b.add(b.input("x"), b.input("y")))
    with pytest.raises(PatternError, match="rule swap of pass p does not terminate"):
        drive((swap,), Rewriter(gm, pass_name="p"))


def test_growing_rule_is_named() -> None:
    @rewrite(Op(vocab.RELU, Any("x")))
    def grow(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.ADD, rw.call(vocab.RELU, match["x"]), rw.call(vocab.RELU, match["x"]))

    b = GraphBuilder()
    gm = b.done(b.relu(b.input()))
    with pytest.raises(PatternError, match="rule grow of pass p does not terminate"):
        drive((grow,), Rewriter(gm, pass_name="p"))


def test_rule_that_wraps_its_root_again_and_again_is_named() -> None:
    @rewrite(Op(vocab.RELU, Any("x"), bind="relu"))
    def wrap(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.ADD, match["x"], match["relu"])

    b = GraphBuilder()
    rw = Rewriter(b.done(b.relu(b.input())), pass_name="p")
    with pytest.raises(PatternError, match="rule wrap of pass p does not terminate"):
        drive((wrap,), rw)
    assert (rw.rule, rw.node) == ("p/wrap", "relu")


def test_calls_that_an_operation_does_not_take_are_refused_where_they_are_made() -> None:
    @rewrite(Op(vocab.RELU, Any("x")))
    def twice(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.RELU, match["x"], match["x"])

    b = GraphBuilder()
    with pytest.raises(PatternError, match=r"relu .*: too many positional .* relu\(input"):
        drive((twice,), Rewriter(b.done(b.relu(b.input())), pass_name="p"))


def test_rule_must_not_return_what_it_erased() -> None:
    @rewrite(Op(vocab.RELU, Any("x")))
    def erased(match: Match, rw: Rewriter) -> fx.Node:
        made = rw.call(vocab.TANH, match["x"])
        rw.erase(made)
        return made

    b = GraphBuilder()
    with pytest.raises(PatternError, match=r"rule erased returned .*, which has been erased"):
        drive((erased,), Rewriter(b.done(b.relu(b.input())), pass_name="p"))


def test_two_rules_that_undo_each_other_are_caught() -> None:
    @rewrite(Op(vocab.RELU, Any("x")))
    def split(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.CLAMP, rw.call(vocab.CLONE, match["x"]), min=0.0)

    @rewrite(Op(vocab.CLAMP, Op(vocab.CLONE, Any("x"))))
    def join(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.RELU, match["x"])

    b = GraphBuilder()
    with pytest.raises(PatternError, match="does not terminate"):
        drive((split, join), Rewriter(b.done(b.relu(b.input())), pass_name="p"))


def test_long_shrinking_chain_is_no_loop() -> None:
    b = GraphBuilder()
    y = b.input()
    for _ in range(500):
        y = b.relu(y)
    gm = b.done(y)
    drive((relu_twice,), Rewriter(gm, pass_name="p"))
    assert len(gm.graph.nodes) == 3


@pytest.mark.parametrize("wrong", [None, 3, "root"])
def test_rule_must_return_a_new_node_or_a_mismatch(wrong: object) -> None:
    @rewrite(Op(vocab.RELU))
    def bad(match: Match, rw: Rewriter):
        return match.root if wrong == "root" else wrong

    b = GraphBuilder()
    with pytest.raises(PatternError, match="rule bad returned"):
        drive((bad,), Rewriter(b.done(b.relu(b.input())), pass_name="p"))


def test_nodes_made_before_a_mismatch_are_taken_back() -> None:
    @rewrite(Op(vocab.RELU, Any("x")))
    def hesitant(match: Match, rw: Rewriter) -> Mismatch:
        rw.call(vocab.TANH, rw.constant("unused", torch.ones(4)))
        return Mismatch("changed my mind")

    b = GraphBuilder()
    gm = b.done(b.relu(b.input()))
    before = text(gm)
    rw = Rewriter(gm, pass_name="p")
    misses = drive((hesitant,), rw)
    rw.finish()
    assert [m.reason for m in misses] == ["changed my mind"]
    assert text(gm) == before
    assert rw.events == []
    assert dict(gm.named_buffers()) == {}


def test_mutating_before_a_mismatch_is_an_error() -> None:
    @rewrite(Op(vocab.RELU, Any("x")))
    def indecisive(match: Match, rw: Rewriter) -> Mismatch:
        rw.replace(match.root, rw.call(vocab.TANH, match["x"]))
        return Mismatch("too late")

    b = GraphBuilder()
    with pytest.raises(PatternError, match="p/indecisive changed the graph at relu and then"):
        drive((indecisive,), Rewriter(b.done(b.relu(b.input())), pass_name="p"))


def test_rule_may_replace_the_root_itself() -> None:
    @rewrite(Op(vocab.RELU, Any("x")))
    def own(match: Match, rw: Rewriter) -> fx.Node:
        new = rw.call(vocab.TANH, match["x"])
        rw.replace(match.root, new)
        return new

    b = GraphBuilder()
    gm = b.done(b.relu(b.input()))
    drive((own,), Rewriter(gm, pass_name="p"))
    assert "tanh(%x)" in text(gm)


def seconds(gm: fx.GraphModule) -> float:
    began = time.process_time()
    drive((fuse_relu, relu_twice), Rewriter(gm, pass_name="p"))
    return time.process_time() - began


def star(n: int) -> fx.GraphModule:
    """One node with very many readers, each a rewrite."""
    b = GraphBuilder()
    x, weight = b.input(), b.attr("w", torch.eye(4))
    total = hub = b.tanh(x)
    for _ in range(n):
        total = b.add(total, b.relu(b.linear(hub, weight)))
    return b.done(total)


@pytest.mark.slow
@pytest.mark.parametrize("build", [linear_chain, star])
def test_time_is_linear(build) -> None:
    seconds(build(100))
    small, large = seconds(build(500)), seconds(build(4000))
    assert large < 8 * small * 4 + 0.1  # quadratic would be 64 times; 32 leaves room for noise


def test_hub_is_rewritten_completely() -> None:
    gm = star(100)
    drive((fuse_relu,), Rewriter(gm, pass_name="p"))
    assert text(gm).count("linear+relu") == 100


def test_a_rule_that_nothing_could_match_says_so() -> None:
    gm = linear_chain(1)
    before_canonicalize = rewrite(Op(vocab.CONV2D, Any("x")), "my-rule")(lambda m, rw: m["x"])
    written = rewrite(Op("tanh", Any("x")), "written")(lambda m, rw: m["x"])
    misses = drive((before_canonicalize, written), Rewriter(gm, pass_name="mine"))
    assert [str(m) for m in misses] == [
        "mine/my-rule: nothing in the graph is conv2d",
        "mine/written: nothing in the graph is .tanh()",
    ]


def test_where_a_spelling_of_it_stands_as_written_that_is_told() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    calls = (graph.call_function(torch.mul, (x, x)), graph.call_method("tanh", (x,)))
    graph.output(calls)
    meta.set_note(calls[0], "it writes to what others read")
    ops = (vocab.MUL, vocab.TANH, vocab.ADD)
    rules = tuple(rewrite(Op(op, Any("x")), op.name)(lambda m, rw: m["x"]) for op in ops)
    misses = drive(rules, Rewriter(fx.GraphModule(nn.Module(), graph), pass_name="mine"))
    assert [str(m) for m in misses] == [
        "mine/mul at %mul: nothing in the graph is mul; torch.mul stands here as it was written: "
        "it writes to what others read",
        "mine/tanh at %tanh: nothing in the graph is tanh; .tanh() stands here as it was written, "
        "and the pass canonicalize may make it canonical",
        "mine/add: nothing in the graph is add: canonical operations come with the pass "
        "canonicalize, and lower replaces them by kernels",
    ]
