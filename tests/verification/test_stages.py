"""Passes beside a numeric check: what it records, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.capture.capture import capture
from qfx.errors import ConfigError, PassError
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_context import PassContext
from qfx.rewrite import RewriteRule
from qfx.verification.outputs import agreement
from qfx.verification.stages import NumericCheck

X = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)) + 1.0


class Shift(qfx.Pass):
    name = "shift"
    by: float = 0.01

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        add = next(n for n in graph.nodes if n.target is vocab.ADD)
        add.args = (add.args[0], 1.0 + self.by)


class ShiftOnPurpose(Shift):
    name = "shift-on-purpose"
    keeps_values = False


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))
def relu_is_silu(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return rw.call(vocab.SILU, match["x"])


class Silu(qfx.PatternPass):
    name = "silu"
    patterns = (relu_is_silu,)


# -- run_passes holds passes to it -----------------------------------------------------------------
def test_a_pass_that_changes_values_is_refused() -> None:
    model = Net().eval()
    with pytest.raises(PassError, match="pass shift changes what the model computes") as raised:
        qfx.run_passes(model, [Shift()], X)
    error = raised.value
    assert (error.pass_name, error.rule, error.node) == ("shift", None, "add")
    assert "first at %add" in str(error)
    assert "keeps_values = False" in str(error)
    assert "1.01" in str(error), "the diff shows the change"
    assert error.graph_module is not None
    torch.testing.assert_close(error.graph_module(X), model(X))


def test_the_rule_is_named() -> None:
    with pytest.raises(PassError) as raised:
        qfx.run_passes(Net().eval(), [Silu()], X)
    assert (raised.value.pass_name, raised.value.rule) == ("silu", "relu_is_silu")
    assert raised.value.node == "relu"
    assert "pass silu (rule relu_is_silu) changes" in str(raised.value)


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x"), bind="r"))
def dropped(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    found: fx.Node = match["x"]
    return found


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x"), bind="r"))
def zeros(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    info = qfx.tensor_info(match["r"])
    assert info is not None
    return rw.constant("zeros", torch.zeros(info.shape))


@pytest.mark.parametrize("rule", [dropped, zeros], ids=["what-it-reads", "a-constant"])
@pytest.mark.parametrize("last", [False, True])
def test_the_rule_is_named_where_it_made_no_call(rule: RewriteRule, last: bool) -> None:
    class Replace(qfx.PatternPass):
        name = "replace"
        patterns = (rule,)

    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), *([] if last else [nn.Linear(3, 2)]))
    with pytest.raises(PassError, match=rf"\(rule {rule.name}\) changes .* first at %_1") as raised:
        qfx.run_passes(model.eval(), [Replace()], X.new_tensor([[1.0, -2.0, 3.0]]))
    assert (raised.value.rule, raised.value.node) == (rule.name, "_1")


@qfx.rewrite(qfx.Op(vocab.CONV2D, qfx.Any("x"), qfx.Attr("w"), bias=qfx.Any("b")))
def scale(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
    rw.tensor(match["w"]).data.mul_(2)  # autograd does not count it
    return qfx.Mismatch("done in place")


class Scale(qfx.PatternPass):
    name = "scale"
    patterns = (scale,)


def test_writing_to_weights_is_found_and_undone() -> None:
    model = Net().eval()
    expected = model(X)
    with pytest.raises(
        PassError, match=r"contents of conv\.weight; %.* reads conv\.weight\."
    ) as raised:
        qfx.run_passes(model, [Scale()], X)
    error = raised.value
    assert (error.pass_name, error.rule, error.node) == ("scale", "scale", "conv")
    assert error.graph_module is not None
    torch.testing.assert_close(error.graph_module(X), expected)
    torch.testing.assert_close(model(X), expected)


@pytest.mark.parametrize("keeps", [True, False])
def test_writing_to_weights_is_the_fault_of_the_pass_when_quantizing(keeps: bool) -> None:
    class Halve(qfx.Pass):
        name = "halve"
        keeps_values = keeps

        def run(self, graph: fx.Graph, ctx: PassContext) -> None:
            ctx.graph_module.get_parameter("conv.weight").data = torch.zeros(8, 3)

    model = Net().eval()
    pipeline = qfx.pipelines.static().insert_after("canonicalize", Halve())
    for run in (
        lambda: qfx.quantize(model, X, backend="reference", pipeline=pipeline),
        lambda: qfx.run_passes(model, [Halve()], X),
    ):
        with pytest.raises(PassError, match=r"pass halve wrote to the contents of conv\.weight"):
            run()


def _hook(conv: nn.Module) -> None:
    conv.register_forward_hook(lambda module, args, result: result * 2)


def _become_another(conv: nn.Module) -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    conv.__class__ = Doubled


def _quantize(pipeline: qfx.Pipeline) -> None:
    qfx.quantize(Net().eval(), X, backend="reference", pipeline=pipeline)


def _train(pipeline: qfx.Pipeline) -> None:
    qfx.prepare(Net(), X, method="qat", backend="reference", pipeline=pipeline)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_hook, "pass tamper changes what the model computes, first at %conv"),
        (_become_another, "pass tamper changes what the model computes, first at %conv"),
        (lambda conv: setattr(conv, "padding", (3, 3)), r"pass tamper .*%conv .*8,10,10\] and sta"),
    ],
)
def test_what_is_done_to_a_module_that_is_called_is_the_fault_of_who_did_it(
    change: Callable[[nn.Module], None], told: str
) -> None:
    class Tamper(qfx.Pass):
        name = "tamper"
        requires = qfx.Level.CAPTURED

        def run(self, graph: fx.Graph, ctx: PassContext) -> None:
            change(ctx.graph_module.get_submodule("conv"))

    for run in (
        lambda: qfx.run_passes(Net().eval(), [Tamper()], X),
        lambda: _quantize(qfx.pipelines.static().insert_before("canonicalize", Tamper())),
        lambda: _train(qfx.pipelines.qat().insert_before("canonicalize", Tamper())),
    ):
        with pytest.raises(PassError, match=told) as raised:
            run()
        assert (raised.value.pass_name, raised.value.node) == ("tamper", "conv")
        restored = raised.value.graph_module
        assert restored is not None
        torch.testing.assert_close(restored(X), Net()(X))


def test_what_is_meant_or_not_checked_passes() -> None:
    model = Net().eval()
    for gm, _ in (
        qfx.run_passes(model, [ShiftOnPurpose()], X),
        qfx.run_passes(model, [Shift()], X, check=False),
        qfx.run_passes(model, [Shift(by=1e-7)], X),
    ):
        torch.testing.assert_close(gm(X), model(X), atol=0.02, rtol=0)


def test_what_is_meant_is_no_excuse_for_the_next() -> None:
    for passes in ([ShiftOnPurpose(by=0.5), Shift()], [Shift(by=0.0), Shift()]):
        with pytest.raises(PassError, match="pass shift changes"):
            qfx.run_passes(Net().eval(), passes, X)


def test_lowering_rounds() -> None:
    names = ("canonicalize", "fold-constants", "fuse-conv-bn", "fuse-post-ops", "insert-stubs")
    passes: list[type[qfx.Pass]] = [
        *map(qfx.get_pass, names),
        qfx.get_pass("annotate"),
        qfx.get_pass("place-observers"),
    ]

    class Calibrate(qfx.Pass):
        name = "calibrate-here"

        def run(self, graph: fx.Graph, ctx: PassContext) -> None:
            ctx.graph_module.recompile()
            ctx.graph_module(X)

    passes += [Calibrate, *map(qfx.get_pass, ("settle-joins", "reference", "lower"))]
    model = Net().eval()
    gm, history = qfx.run_passes(model, passes, X)
    assert history[-1].name == "leave-single-rows"
    assert agreement(model(X), gm(X)) > 25


# -- the instrument --------------------------------------------------------------------------------
def test_it_measures_against_the_stage_before() -> None:
    check = NumericCheck()
    passes = [qfx.get_pass("fuse-post-ops"), Shift(), ShiftOnPurpose(by=0.0)]
    qfx.run_passes(Net().eval(), passes, X, instruments=[check], check=False)
    assert check.sqnr["canonicalize"] == float("inf")
    assert 35 < check.sqnr["shift"] < 50  # 20 log10(1.5 / 0.01) is 43.5 dB
    assert 35 < check.sqnr["shift-on-purpose"] < 50
    named = r"pass shift changes .* first at %add.* 4\d.\d dB .* at least 100.0 dB are asked for"
    with pytest.raises(PassError, match=named):
        qfx.run_passes(
            Net().eval(), [Shift()], X, instruments=[NumericCheck(min_sqnr=100)], check=False
        )


def test_it_leaves_no_trace() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).train()
    random = torch.get_rng_state()
    inputs = X.clone()
    check = NumericCheck(min_sqnr=100)
    gm, _ = qfx.run_passes(model, [ShiftNothing()], inputs, instruments=[check])
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(inputs, X)
    assert int(gm.get_buffer("0.num_batches_tracked")) == 0


class ShiftNothing(qfx.Pass):
    name = "nothing"
    requires = qfx.Level.CAPTURED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None: ...


def test_it_needs_inputs() -> None:
    with pytest.raises(ConfigError, match="needs example inputs"):
        run_pipeline(capture(Net().eval(), (X,)), [], instruments=[NumericCheck()])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], float("inf")),
        ([1.0, 0.0], [1.0, 0.1], 20.0),
        ([1.0, 2.0, -1e9], [1.0, 2.2, -1e9], 10 * math.log10(5 / 0.04)),
        ([1.0], [1.0, 1.0], -float("inf")),
        ([0.0], [1.0], -float("inf")),
        ([float("nan")], [float("nan")], float("inf")),
        ([float("nan")], [1.0], -float("inf")),
        ([1, 2], [1, 2], float("inf")),
        ([1, 2], [1, 3], -float("inf")),
        ([1, 2], [1.0, 2.0], -float("inf")),
    ],
)
def test_agreement(a: list[float], b: list[float], expected: float) -> None:
    assert agreement(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-5)


def test_each_output_counts_by_itself() -> None:
    boxes, scores = torch.tensor([640.0, 320.0]), torch.tensor([0.5, 0.25])
    assert agreement((boxes, scores), (boxes, -scores)) < 0


# -- faults beside what is large, coarse or trained ------------------------------------------------
class Head(nn.Module):
    """A head whose output is given out in one of several ways."""

    def __init__(self, out: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l, self.h, self.out = nn.Linear(8, 8), nn.Linear(8, 16), out

    def forward(self, x: Tensor) -> Any:
        hidden = torch.relu(self.l(x))
        logits = self.h(hidden)
        if self.out == "masked":
            return logits.masked_fill(torch.arange(16) > 13, -1e9)
        if self.out == "boxes":
            return {"boxes": hidden * 640, "scores": logits.sigmoid()}
        if self.out == "codes":
            return logits, (logits * 1e6).round().long()
        return logits


class Negate(qfx.Pass):
    name = "negate"

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        head = ctx.graph_module.get_submodule("h")
        head.weight = nn.Parameter(-head.get_parameter("weight").detach())


@pytest.mark.parametrize("out", ["masked", "boxes", "codes", "plain"])
def test_no_fault_hides_behind_another_output(out: str) -> None:
    with pytest.raises(PassError, match="pass negate changes what the model computes"):
        qfx.run_passes(Head(out).eval(), [Negate()], torch.linspace(-1, 1, 64).reshape(8, 8))


@pytest.mark.parametrize("after", ["canonicalize", "fuse-conv-bn"])
def test_a_fault_before_training_is_found_before_training(after: str) -> None:
    pipeline = qfx.pipelines.qat(backend="reference").insert_after(after, Negate())
    with pytest.raises(PassError, match="pass negate changes what the model computes"):
        qfx.prepare(
            Head("plain"), torch.linspace(-1, 1, 64).reshape(8, 8), method="qat", pipeline=pipeline
        )
