"""A pass that breaks shapes is told so at once, by name, whatever it is run by."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.graph import inference
from qfx.graph.inference import Inference
from qfx.graph.meta import TensorInfo
from qfx.history.history import History
from qfx.rewrite.rule import RuleFunction

X = torch.randn(4, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x))).flatten(1).relu()


def rule(function: RuleFunction, op: vocab.OpDef = vocab.RELU) -> qfx.Pass:
    class Mine(qfx.PatternPass):
        name = "mine"
        patterns = (qfx.rewrite(qfx.Op(op, qfx.Any("x")), name="my-rule")(function),)

    return Mine()


def first(new: Any) -> RuleFunction:
    """At the relu between the layers only, and once."""
    return lambda m, rw: new(m, rw) if m.root.name == "relu" else qfx.Mismatch("the other")


def flattened(match: qfx.Match, rw: qfx.Rewriter) -> Any:
    return rw.call(vocab.FLATTEN, match["x"])


def run(step: qfx.Pass) -> History:
    return qfx.run_passes(Net().eval(), [step], X)[1]


def test_another_shape_in_an_old_place() -> None:
    with pytest.raises(
        qfx.PassError, match=r"yields f32\[20\] and stands where f32\[4,5\] was"
    ) as e:
        run(rule(first(flattened)))
    assert (e.value.pass_name, e.value.rule, e.value.node) == ("mine", "my-rule", "relu")
    assert "What the pass changed since" in str(e.value)


def test_passes_of_qfx_are_checked_alike() -> None:
    step = rule(first(flattened))
    type(step).__module__ = "qfx_passes.canonical.mine"
    with pytest.raises(qfx.PassError, match=r"yields f32\[20\] and stands where f32\[4,5\] was"):
        run(step)


def test_checking_records_nothing() -> None:
    """A node that plain fx made keeps what was recorded of it, right or wrong, until it fails."""

    class Forgetful(qfx.Pass):
        name = "forgetful"

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            relu = next(n for n in graph.nodes if n.name == "relu")
            qfx.graph.meta.set_value(relu, TensorInfo((4, 7), torch.float32))

    with pytest.raises(qfx.PassError, match=r"yields f32\[4,5\] and stands where f32\[4,7\]") as e:
        run(Forgetful())
    assert e.value.graph_module is not None
    left = next(n for n in e.value.graph_module.graph.nodes if n.name == "relu")
    assert qfx.graph.meta.tensor_info(left) is not None


def test_a_module_that_was_changed_is_run_again() -> None:
    class Narrow(qfx.Pass):
        name = "narrow"
        requires = qfx.Level.CAPTURED

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            (node, *_) = graph.find_nodes(op="call_module", target="flat")
            ctx.rewriter.configure(node, start_dim=0)

    model = nn.Sequential()
    model.add_module("flat", nn.Flatten(1))
    with pytest.raises(qfx.PassError, match=r"yields f32\[24\] and stands where f32\[2,12\] was"):
        qfx.run_passes(model.eval(), [Narrow()], torch.randn(2, 3, 4))


def test_quantize_blames_the_pass_and_not_the_data() -> None:
    pipeline = qfx.pipelines.static("reference").insert_after(
        "canonicalize", rule(first(flattened))
    )
    with pytest.raises(qfx.PassError, match="pass mine"):
        qfx.quantize(Net().eval(), X, pipeline=pipeline)


def test_what_reads_another_value_must_run_on_it() -> None:
    def turned(match: qfx.Match, rw: qfx.Rewriter) -> Any:
        value = TensorInfo((5, 4), torch.float32)  # what it yields, indeed
        return rw.call(vocab.TRANSPOSE, match["x"], dim0=0, dim1=1, value=value)

    with pytest.raises(qfx.PassError, match=r"%b .*can't run on what it reads \(f32\[5,4\], "):
        run(rule(first(turned)))


def test_a_dropped_operation_whose_readers_then_do_not_fit() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    drop = rule(lambda m, rw: m["x"], vocab.FLATTEN)
    with pytest.raises(qfx.PassError, match=r"fc.*can't run on what it reads \(f32\[4,3,1\]"):
        qfx.run_passes(Pool().eval(), [drop], torch.randn(4, 3, 1))


def test_another_output() -> None:
    drop = rule(lambda m, rw: m["x"], vocab.MEAN)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().mean(1)

    with pytest.raises(qfx.PassError, match=r"returned f32\[4\], and returns f32\[4,6\] now"):
        qfx.run_passes(Mean().eval(), [drop], X)


def test_a_dtype_counts() -> None:
    def doubled(match: qfx.Match, rw: qfx.Rewriter) -> Any:
        return rw.call(vocab.MUL, match["x"], rw.constant("k", torch.ones(1, 5).double()))

    with pytest.raises(qfx.PassError, match=r"f64\[4,5\] and stands where f32\[4,5\]"):
        run(rule(first(doubled)))


def test_steps_inside_a_rewrite_need_no_value() -> None:
    def around(match: qfx.Match, rw: qfx.Rewriter) -> Any:
        if match["x"].target is vocab.TRANSPOSE:
            return qfx.Mismatch("done")
        turned = rw.call(vocab.TRANSPOSE, match["x"], dim0=0, dim1=1)
        return rw.call(vocab.TRANSPOSE, rw.call(vocab.RELU, turned), dim0=0, dim1=1)

    history = run(rule(first(around)))
    shapes = [r.type_text for r in history[-1].snapshot if "f32[5,4]" in r.type_text]
    assert len(shapes) == 2


# -- every node that a pass makes, however it is spelled -------------------------------------------
def at_relu(make: Any) -> qfx.Pass:
    """A plain pass that replaces the first relu."""

    class Plain(qfx.Pass):
        name = "plain"
        keeps_values = False

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            node = next(n for n in graph.nodes if n.name == "relu")
            rw = ctx.rewriter
            with rw.at(node):
                rw.replace(node, make(rw, node.args[0]))

    return Plain()


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def opaque_flat(x: Tensor) -> Tensor:
    return x.reshape(-1)


WRONG = {
    "function": (lambda rw, x: rw.call(torch.flatten, x, 0), r"f32\[20\]"),
    "operation": (lambda rw, x: rw.call(vocab.FLATTEN, x), r"f32\[20\]"),
    "module": (lambda rw, x: rw.call_module("flat", nn.Flatten(0), x), r"f32\[20\]"),
    "own module": (lambda rw, x: rw.call_module("double", Doubling(), x), r"f64\[4,5\]"),
    "method": (lambda rw, x: rw.call_method("double", x), r"f64\[4,5\]"),
    "overload": (lambda rw, x: rw.call(torch.ops.aten.t.default, x), r"f32\[5,4\]"),
    "own function": (lambda rw, x: rw.call(opaque_flat, x), r"f32\[20\]"),
    "number": (lambda rw, x: rw.call(vocab.SIZE, x, dim=0), "no tensor"),
    "two steps": (lambda rw, x: rw.call(torch.relu, rw.call_method("t", x)), r"f32\[5,4\]"),
}


@pytest.mark.parametrize("make", WRONG)
def test_what_a_pass_makes_yields_what_stood_there(make: str) -> None:
    step, found = at_relu(WRONG[make][0]), WRONG[make][1]
    with pytest.raises(qfx.PassError, match=rf"yields {found} and stands where f32\[4,5\]") as e:
        run(step)
    assert (e.value.pass_name, e.value.node) == ("plain", "relu")
    assert "What the pass changed since" in str(e.value)


@pytest.mark.parametrize("make", ["function", "module", "method"])
def test_under_quantize_too(make: str) -> None:
    pipeline = qfx.pipelines.static("reference").insert_after(
        "canonicalize", at_relu(WRONG[make][0])
    )
    with pytest.raises(qfx.PassError, match=r"pass plain .*stands where f32\[4,5\] was"):
        qfx.quantize(Net().eval(), X, pipeline=pipeline)


UNFIT = {
    "function": lambda rw, x: rw.call(torch.matmul, x, x),
    "module": lambda rw, x: rw.call_module("fc", nn.Linear(7, 5), x),
    "method": lambda rw, x: rw.call_method("view", x, 7),
    "no such method": lambda rw, x: rw.call_method("dooble", x),
    "raw": lambda rw, x: rw.graph.call_function(torch.matmul, (x, x)),
}


@pytest.mark.parametrize("make", UNFIT)
def test_what_cannot_run_is_named(make: str) -> None:
    with pytest.raises(qfx.PassError, match=r"can't run on what it reads \(f32\[4,5\]") as e:
        run(at_relu(UNFIT[make]))
    assert e.value.pass_name == "plain"


@pytest.mark.parametrize("method", ["t", "double"])
def test_what_stands_in_by_plain_fx_is_named_not_its_reader(method: str) -> None:
    class Plain(qfx.Pass):
        name = "plain"

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            node = next(n for n in graph.nodes if n.target is vocab.RELU)
            with graph.inserting_before(node):
                made = graph.call_method(method, (node.args[0],))
            node.replace_all_uses_with(made)
            graph.erase_node(node)

    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with pytest.raises(qfx.PassError, match=rf"The pass made %{method} .*, which it reads") as e:
        qfx.run_passes(model, [Plain()], torch.ones(4, 5))
    assert e.value.node == method


def test_what_needs_values_is_let_through() -> None:
    def by_value(x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else x.relu()

    history = run(at_relu(lambda rw, x: rw.call(by_value, x)))
    record = next(r for r in history[-1].snapshot if r.name == "relu")
    assert record.type_text == "f32[4,5]"  # as what stood there


def test_a_value_given_is_checked_too() -> None:
    wrong = TensorInfo((4, 7), torch.float32)
    step = at_relu(lambda rw, x: rw.call(vocab.TANH, x, value=wrong))
    with pytest.raises(qfx.PassError, match=r"yields f32\[4,5\] and stands where f32\[4,7\]"):
        run(step)


def test_sizes_are_numbers_of_the_shapes() -> None:
    def folded(rw: qfx.Rewriter, x: fx.Node) -> fx.Node:
        rows = rw.call(vocab.SIZE, x, dim=0)
        flat = rw.call(vocab.RESHAPE, x, shape=(1, rw.call(vocab.SCALARS[operator.mul], rows, 5)))
        return rw.call(vocab.RESHAPE, flat, shape=(rows, -1))

    history = run(at_relu(folded))
    shapes = [r.type_text for r in history[-1].snapshot if r.target == "reshape"]
    assert shapes == ["f32[1,20]", "f32[4,5]"]


def test_what_lies_in_a_list_may_be_changed_there() -> None:
    def halved(rw: qfx.Rewriter, x: fx.Node) -> fx.Node:
        sizes = rw.call(list, (4, 10))
        rw.call(halve, sizes)
        width = rw.call(operator.getitem, sizes, 1)
        return rw.call(vocab.RESHAPE, x, shape=(-1, width), value=TensorInfo((4, 5), torch.float32))

    assert run(at_relu(halved))  # in a list of 10 the relu would yield f32[2,10]


def halve(sizes: list[int]) -> None:
    sizes[:] = [size // 2 for size in sizes]


def test_equal_calls_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[fx.Node] = []
    call = Inference._call
    monkeypatch.setattr(Inference, "_call", lambda s, n, a: seen.append(n) or call(s, n, a))
    monkeypatch.setattr(inference, "_known", {})

    def chain(rw: qfx.Rewriter, x: fx.Node) -> fx.Node:
        for _ in range(50):
            x = rw.call(vocab.FLIP, x, dims=(0,))
        return x

    run(at_relu(chain))
    assert 1 <= len(seen) <= 9  # when they are made or checked, not 100 times
