"""A pass that breaks the graph is an error that names pass, rule and node."""

import pickle

import pytest
import torch
from torch import fx

from qfx import vocab
from qfx.capture.capture import capture
from qfx.custom_passes import run_passes
from qfx.errors import (
    CalibrationError,
    ConfigError,
    PassError,
    PatternError,
    QfxError,
    RuleError,
    VerifyError,
)
from qfx.framework.level_checks import LevelChecks
from qfx.framework.levels import Level
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_base import Pass, PatternPass
from qfx.framework.pass_context import PassContext
from qfx.rewrite import Any, Match, Op, Rewriter, rewrite
from tests.framework.passes import ConvRelu, FuseConvRelu, X, conv_relu, do


def remove_output(graph: fx.Graph, ctx: PassContext) -> None:
    graph.erase_node(next(iter(reversed(graph.nodes))))


def second_output(graph: fx.Graph, ctx: PassContext) -> None:
    graph.create_node("output", "output", (next(iter(graph.nodes)),))


def output_not_last(graph: fx.Graph, ctx: PassContext) -> None:
    x = next(iter(graph.nodes))
    graph.create_node("call_function", vocab.RELU, (x,))


def node_named(graph: fx.Graph, name: str) -> fx.Node:
    return next(n for n in graph.nodes if n.name == name)


def dangling(graph: fx.Graph, ctx: PassContext) -> None:
    sigmoid = node_named(graph, "sigmoid")
    relu = sigmoid.args[0]
    sigmoid.args = (node_named(graph, "conv"),)
    graph.erase_node(relu)
    sigmoid.args = (relu,)


def cycle(graph: fx.Graph, ctx: PassContext) -> None:
    conv = node_named(graph, "conv")
    conv.replace_input_with(conv.args[0], node_named(graph, "sigmoid"))


def wrong_arity(graph: fx.Graph, ctx: PassContext) -> None:
    relu = node_named(graph, "relu")
    relu.args = (*relu.args, 1, 2)


def unknown_keyword(graph: fx.Graph, ctx: PassContext) -> None:
    node_named(graph, "relu").kwargs = {"slope": 1}


def overload_arity(graph: fx.Graph, ctx: PassContext) -> None:
    node_named(graph, "relu").target = torch.ops.aten.add.Tensor


def foreign_node(graph: fx.Graph, ctx: PassContext) -> None:
    node_named(graph, "relu").args = (fx.Graph().placeholder("x"),)


def missing_attribute(graph: fx.Graph, ctx: PassContext) -> None:
    weight = node_named(graph, "conv").args[1]
    weight.target = "conv.wait"


def not_a_module(graph: fx.Graph, ctx: PassContext) -> None:
    relu = node_named(graph, "relu")
    with graph.inserting_before(relu):
        graph.create_node("call_module", "conv.weight", relu.args)


def same_name(graph: fx.Graph, ctx: PassContext) -> None:
    node_named(graph, "relu").name = "sigmoid"


def removed_input(graph: fx.Graph, ctx: PassContext) -> None:
    x = next(iter(graph.nodes))
    with graph.inserting_before(x):
        x.replace_all_uses_with(graph.call_function(torch.rand, ((1, 3, 8, 8),)))
    graph.erase_node(x)


def other_outputs(graph: fx.Graph, ctx: PassContext) -> None:
    output = next(iter(reversed(graph.nodes)))
    output.args = ((output.args[0], output.args[0]),)


def operand_by_keyword(graph: fx.Graph, ctx: PassContext) -> None:
    relu = node_named(graph, "relu")
    relu.args, relu.kwargs = (), {"input": relu.args[0]}


def renamed_input(graph: fx.Graph, ctx: PassContext) -> None:
    node_named(graph, "x").target = "image"


def spelled_default(graph: fx.Graph, ctx: PassContext) -> None:
    node_named(graph, "add").kwargs = {"alpha": 1}


BROKEN = [
    (remove_output, "the graph has no output", None),
    (second_output, "the graph has 2 outputs: %output, %output_1", "output_1"),
    (output_not_last, "the output is not the last node: relu_2 .* comes after it", "relu_2"),
    (dangling, r"%sigmoid \(.*passes.py:\d+\) reads %relu, which has been erased", "sigmoid"),
    (cycle, "reads %sigmoid before it is computed: they form a cycle, or the order", "conv"),
    (wrong_arity, "does not fit relu: too many positional arguments", "relu"),
    (unknown_keyword, "does not fit relu: got an unexpected keyword argument 'slope'", "relu"),
    (overload_arity, "does not fit aten.add.Tensor: missing argument 'other'", "relu"),
    (foreign_node, "reads %x, which belongs to another graph", "relu"),
    (missing_attribute, "refers to 'conv.wait', which the model does not have", "conv_weight"),
    (not_a_module, "calls 'conv.weight', which is a Parameter and no module", "conv_weight_1"),
    (same_name, "shares its name with another node", "sigmoid"),
    (removed_input, r"the inputs were \(x\) and are \(\) now", None),
    (renamed_input, r"the inputs were \(x\) and are \(image\) now", "x"),
    (operand_by_keyword, "is not canonical: its operand input is given by keyword", "relu"),
    (spelled_default, "is not canonical: alpha=1 is the default, leave it out", "add"),
    (other_outputs, r"the output was \* and is \(\*, \*\) now", "output"),
]


@pytest.mark.parametrize(
    ("action", "message", "node"), BROKEN, ids=lambda v: getattr(v, "__name__", "")
)
def test_broken_graph_is_caught(action, message: str, node: str | None) -> None:
    model = ConvRelu().eval()
    with pytest.raises(PassError, match=message) as caught:
        run_passes(model, [FuseNothing(), do(action)], X)
    error = caught.value
    assert error.pass_name == "do"
    assert error.node == node
    assert isinstance(error.__cause__, VerifyError)
    assert "What the pass changed since stage 2 fuse-nothing:" in str(error)
    assert (f"The IR around %{node}" in str(error)) is (node is not None)
    assert torch.equal(error.graph_module(X), model(X))


class FuseNothing(PatternPass):
    name = "fuse-nothing"


def left_over(graph: fx.Graph, ctx: PassContext) -> None:
    sigmoid = node_named(graph, "sigmoid")
    with graph.inserting_before(sigmoid):
        graph.call_function(torch.tanh, (sigmoid.args[0],))


def bypassed(graph: fx.Graph, ctx: PassContext) -> None:
    node_named(graph, "sigmoid").args = (node_named(graph, "conv"),)


@pytest.mark.parametrize(("action", "node"), [(left_over, "tanh"), (bypassed, "relu")])
def test_what_nothing_reads_is_named(action, node: str) -> None:
    with pytest.raises(PassError, match=rf"%{node} .*is read by nothing") as caught:
        run_passes(ConvRelu(), [do(action)], X)
    assert (caught.value.pass_name, caught.value.node) == ("do", node)


def test_error_in_a_rule_names_rule_and_node_and_undoes_its_pass() -> None:
    @rewrite(Op(vocab.SIGMOID, Any("x")))
    def explode(match: Match, rw: Rewriter) -> fx.Node:
        raise ZeroDivisionError("oops")

    class Half(PatternPass):
        name = "half"
        patterns = (conv_relu, explode)

    model = ConvRelu().eval()
    with pytest.raises(PassError) as caught:
        run_passes(model, [Half()], X)
    error = caught.value
    assert (error.pass_name, error.rule, error.node) == ("half", "explode", "sigmoid")
    lines = str(error).splitlines()
    assert lines[0] == "pass half (rule explode at %sigmoid) raised ZeroDivisionError: oops"
    assert any(line.startswith("  > %sigmoid") for line in lines)
    assert any(line.startswith("  + %conv_relu") for line in lines)
    assert "conv2d(" in str(fx_text(error.graph_module))
    assert torch.equal(error.graph_module(X), model(X))


def fx_text(gm: fx.GraphModule) -> str:
    from qfx.history.snapshot import snapshot

    return snapshot(gm).to_text()


def test_rule_that_breaks_the_graph_is_named() -> None:
    @rewrite(Op(vocab.SIGMOID, Any("x")))
    def forget_operand(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.ADD, match["x"])

    class Breaks(PatternPass):
        name = "breaks"
        patterns = (forget_operand,)

    with pytest.raises(PassError, match="missing a required argument: 'other'") as caught:
        run_passes(ConvRelu(), [Breaks()], X)
    assert (caught.value.rule, caught.value.node) == ("forget_operand", "sigmoid")


def test_a_predicate_that_raises_is_named() -> None:
    def divide(node: fx.Node) -> bool:
        return bool(1 / 0)

    @rewrite(Op(vocab.SIGMOID, Op(vocab.RELU, where=divide)))
    def never(match: Match, rw: Rewriter) -> fx.Node:
        return match.root

    class Divides(PatternPass):
        name = "divides"
        patterns = (never,)

    message = r"pass divides \(rule never at %sigmoid\) raised ZeroDivisionError"
    with pytest.raises(PassError, match=message) as caught:
        run_passes(ConvRelu(), [Divides()], X)
    assert (caught.value.rule, caught.value.node) == ("never", "sigmoid")


def test_names_are_no_passes() -> None:
    for given in ("canonicalize", ["canonicalize"]):
        with pytest.raises(ConfigError, match=r'qfx.get_pass\("canonicalize"\)'):
            run_passes(ConvRelu(), given, X)


def test_error_at_an_insertion_point_names_the_node() -> None:
    def fail(graph: fx.Graph, ctx: PassContext) -> None:
        with ctx.rewriter.at(node_named(graph, "sigmoid")):
            raise RuntimeError("no")

    with pytest.raises(PassError, match=r"pass do \(at %sigmoid\) raised RuntimeError: no"):
        run_passes(ConvRelu(), [do(fail)], X)


def test_an_operation_of_the_rewriter_that_fails_names_its_node() -> None:
    def fail(graph: fx.Graph, ctx: PassContext) -> None:
        ctx.rewriter.erase(node_named(graph, "relu"))

    with pytest.raises(PassError, match=r"pass do \(at %relu\) raised PatternError: cannot erase"):
        run_passes(ConvRelu(), [do(fail)], X)


def test_a_graph_that_run_returns_would_be_lost() -> None:
    class Builds(Pass):
        name = "builds"

        def run(self, graph: fx.Graph, ctx: PassContext) -> fx.Graph:
            return fx.Graph()

    with pytest.raises(PassError, match="returned a Graph of its own"):
        run_passes(ConvRelu(), [Builds()], X)


def test_a_rule_that_does_not_terminate_is_named() -> None:
    @rewrite(Op(vocab.RELU, Any("x")))
    def again(match: Match, rw: Rewriter) -> fx.Node:
        return rw.call(vocab.RELU, match["x"])

    class Again(PatternPass):
        name = "again"
        patterns = (again,)

    with pytest.raises(PassError, match=r"pass again \(rule again at %relu\)") as caught:
        run_passes(ConvRelu(), [Again()], X)
    assert (caught.value.rule, caught.value.node) == ("again", "relu")


def failing(error: Exception) -> type[PatternPass]:
    @rewrite(Op(vocab.SIGMOID, Any("x")))
    def raises(match: Match, rw: Rewriter) -> fx.Node:
        raise error

    class Fails(PatternPass):
        name = "fails"
        patterns = (raises,)

    return Fails


@pytest.mark.parametrize("kind", [CalibrationError, ConfigError])
def test_typed_errors_for_callers_pass_through_and_say_where(kind: type[QfxError]) -> None:
    with pytest.raises(kind) as caught:
        run_passes(ConvRelu(), [failing(kind("for the caller"))], X)
    error = caught.value
    assert not isinstance(error, PassError)
    assert str(error) == (
        "for the caller\nRaised while running pass fails, rule raises at %sigmoid."
    )
    loaded = pickle.loads(pickle.dumps(error))
    for each in (error, loaded):
        assert (each.pass_name, each.rule, each.node) == ("fails", "raises", "sigmoid")
    assert str(loaded) == str(error)


def test_typed_errors_outside_rules_name_the_pass() -> None:
    def fail(graph: fx.Graph, ctx: PassContext) -> None:
        raise ConfigError("for the caller")

    with pytest.raises(ConfigError, match=r"caller\nRaised while running pass do\.$") as caught:
        run_passes(ConvRelu(), [do(fail)], X)
    assert (caught.value.pass_name, caught.value.rule, caught.value.node) == ("do", None, None)


def test_of_passes_that_run_passes_the_innermost_counts() -> None:
    def outer(graph: fx.Graph, ctx: PassContext) -> None:
        run_passes(ConvRelu(), [failing(ConfigError("for the caller"))], X)

    with pytest.raises(ConfigError, match="running pass do") as caught:
        run_passes(ConvRelu(), [do(outer)], X)
    assert "running pass fails" in str(caught.value)
    assert (caught.value.pass_name, caught.value.rule) == ("fails", "raises")


def test_outside_a_pass_errors_name_none() -> None:
    error = ConfigError("alone")
    assert (error.pass_name, error.rule, error.node, str(error)) == (None, None, None, "alone")


@pytest.mark.parametrize("caught_as", [PassError, PatternError])
def test_malformed_rules_are_pass_errors(caught_as: type[Exception]) -> None:
    @rewrite(Op(vocab.SIGMOID, Any("x")))
    def returns_nothing(match: Match, rw: Rewriter) -> None: ...

    class Malformed(PatternPass):
        name = "malformed"
        patterns = (returns_nothing,)

    with pytest.raises(caught_as, match="rule returns_nothing returned NoneType") as caught:
        run_passes(ConvRelu(), [Malformed()], X)
    error = caught.value
    assert isinstance(error, RuleError)
    assert (error.pass_name, error.rule, error.node) == ("malformed", "returns_nothing", "sigmoid")
    assert str(error).startswith("pass malformed (rule returns_nothing at %sigmoid) raised Patt")
    assert isinstance(error.__cause__, PatternError)
    assert error.graph_module is not None
    assert pickle.loads(pickle.dumps(error)).rule == "returns_nothing"


def test_level_predicate_is_checked() -> None:
    def no_sigmoid(graph_module: fx.GraphModule) -> None:
        for node in graph_module.graph.nodes:
            if vocab.is_op(node, vocab.SIGMOID):
                raise VerifyError("sigmoid at FUSED", node=node.name)

    class Claims(FuseConvRelu):
        name = "claims"
        produces = Level.FUSED

    run_passes(ConvRelu(), [Claims()], X)
    checks = LevelChecks({Level.FUSED: (no_sigmoid,)})
    with pytest.raises(PassError, match="sigmoid at FUSED"):
        run_passes(ConvRelu(), [Claims()], X, settings=[checks])


def test_broken_graph_to_begin_with_is_nobodys_fault() -> None:
    gm = capture(ConvRelu(), (X,))
    gm.graph.erase_node(next(iter(reversed(gm.graph.nodes))))
    with pytest.raises(VerifyError, match="no output"):
        run_pipeline(gm, [FuseNothing()])
