"""What each level promises: graphs that keep it, and one that breaks each promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.framework.level_checks import LevelChecks
from qfx.framework.levels import Level
from qfx.quant.level_checks import QUANTIZATION
from qfx.quant.observers import MinMaxObserver
from qfx.quant.recorders import is_observer, observer_of
from qfx.vocab import is_op


class Net(nn.Module):
    """Convolution, norm, pool, dropout, residual, concatenation, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.same = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        y = torch.max_pool2d(y, 2)
        y = torch.cat([y, self.same(y) + y], 1)
        return self.fc(self.drop(y.mean((2, 3))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0])


X = torch.randn(2, 3, 8, 8)


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["reference", "x86"])
@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only", "qat"])
@pytest.mark.parametrize("kind", [Net, Recurrent])
def test_every_stage_keeps_its_level(
    kind: type[nn.Module], method: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[Level] = set()
    check = LevelChecks.check

    def watched(self: LevelChecks, graph_module: fx.GraphModule, level: Level) -> None:
        assert self is QUANTIZATION
        seen.add(level)
        check(self, graph_module, level)

    monkeypatch.setattr(LevelChecks, "check", watched)
    x = X if kind is Net else torch.randn(2, 7, 6)
    model = kind().eval()
    if method == "qat":
        prepared = qfx.prepare(model.train(), x, method="qat", backend=backend)
        prepared(x)
        qfx.convert(prepared)
    else:
        qfx.quantize(model, x, method=method, backend=backend)
    passed = set(Level) - {Level.CAPTURED, Level.FAKE_QUANT}
    assert seen >= (passed | {Level.FAKE_QUANT} if method == "qat" else passed)


# -- graphs that break a promise -------------------------------------------------------------------
def named(gm: fx.GraphModule, op: vocab.OpDef, at: int = 0) -> fx.Node:
    return [n for n in gm.graph.nodes if is_op(n, op)][at]


def observers(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if is_observer(n)]


def by_keyword(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    fc.args, fc.kwargs = fc.args[:2], {**fc.kwargs, "bias": fc.args[2]}


def left_over(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    with gm.graph.inserting_before(fc):
        gm.graph.call_function(torch.tanh, (fc.args[0],))


def unknown_post_op(gm: fx.GraphModule) -> None:
    named(gm, vocab.CONV2D).update_kwarg("post", (("rellu",),))


def stub_of_a_number(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    with gm.graph.inserting_before(fc):
        size = gm.graph.call_function(vocab.SIZE, (fc.args[0],), {"dim": 0})
        gm.graph.call_function(vocab.QUANT_STUB, (size,))


def skips_its_observer(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    value = fc.args[0]
    while value.op == "call_module":  # a recorder or a dropout, an observer
        value = value.args[0]
    fc.replace_input_with(fc.args[0], value)


def observes_twice(gm: fx.GraphModule) -> None:
    first = observers(gm)[0]
    module = gm.get_submodule(first.target)
    gm.add_module("second", type(module)(module.spec))
    with gm.graph.inserting_after(first):
        gm.graph.call_module("second", first.args)


def observes_an_observer(gm: fx.GraphModule) -> None:
    first = observers(gm)[0]
    with gm.graph.inserting_after(first):
        gm.graph.call_module(first.target, (first,))


def plain_observer(gm: fx.GraphModule) -> None:
    first = observers(gm)[0]
    spec = observer_of(first).spec
    gm.add_module("plain", MinMaxObserver(spec))
    first.target = "plain"


def skips_its_weight_fake_quant(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    fc.replace_input_with(fc.args[1], fc.args[1].args[0])


def keeps_an_observer(gm: fx.GraphModule) -> None:
    spec = qfx.QuantSpec(torch.uint8)
    gm.add_module("left", spec.make_observer())
    fc = named(gm, vocab.LINEAR)
    with gm.graph.inserting_before(fc):
        gm.graph.call_module("left", (fc.args[0],))


def keeps_a_stub(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    with gm.graph.inserting_before(fc):
        gm.graph.call_function(vocab.QUANT_STUB, (fc.args[0],))


def other_scale(gm: fx.GraphModule) -> None:
    pair = named(gm, vocab.LINEAR).args[0]
    pair.args = (pair.args[0], pair.args[1] * 2, pair.args[2])


def other_axis(gm: fx.GraphModule) -> None:
    named(gm, vocab.LINEAR).args[0].update_kwarg("axis", 1)


def float_codes(gm: fx.GraphModule) -> None:
    pair = named(gm, vocab.LINEAR).args[0]
    pair.args = (pair.args[0].args[0], *pair.args[1:])


def reads_codes(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    with gm.graph.inserting_before(fc):
        gm.graph.call_function(vocab.RELU, (fc.args[0].args[0],))


def unquantized_read(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    fc.replace_input_with(fc.args[0], fc.args[0].args[0].args[0])


def float_weight(gm: fx.GraphModule) -> None:
    fc = named(gm, vocab.LINEAR)
    gm.register_buffer("plain", torch.ones(5, 8))
    with gm.graph.inserting_before(fc):
        fc.replace_input_with(fc.args[1], gm.graph.get_attr("plain"))


def weight_is_a_parameter(gm: fx.GraphModule) -> None:
    codes = named(gm, vocab.LINEAR).args[1].args[0]
    gm.codes = nn.Parameter(qfx.graph.lookup.Lookup(gm).get(codes.target), requires_grad=False)
    codes.target = "codes"


BROKEN: list[tuple[Level, Callable[[fx.GraphModule], None], str]] = [
    (Level.CANONICAL, by_keyword, "its operand bias is given by keyword"),
    (Level.CANONICAL, unknown_post_op, "which names no operation"),
    (Level.CANONICAL, left_over, "%tanh .*is read by nothing"),
    (Level.LOWERED, left_over, "%tanh .*is read by nothing"),
    (Level.FUSED, by_keyword, "its operand bias is given by keyword"),
    (Level.FUSED, unknown_post_op, r"has the post-op \('rellu',\), which names no operation"),
    (Level.STUBBED, unknown_post_op, "which names no operation"),
    (Level.STUBBED, stub_of_a_number, "is a stub of something that is no float tensor"),
    (Level.OBSERVED, by_keyword, "its operand bias is given by keyword"),
    (Level.OBSERVED, skips_its_observer, "is to be quantized but has no observer"),
    (Level.OBSERVED, observes_twice, "observes %x_1, which %.* observes already"),
    (Level.OBSERVED, observes_an_observer, "another observer's result"),
    (Level.FAKE_QUANT, by_keyword, "its operand bias is given by keyword"),
    (Level.FAKE_QUANT, plain_observer, "is an observer, where fake-quants"),
    (Level.FAKE_QUANT, skips_its_observer, "is to be quantized but has no fake-quant"),
    (Level.FAKE_QUANT, observes_twice, "observes already"),
    (Level.FAKE_QUANT, observes_an_observer, "another observer's result"),
    (Level.FAKE_QUANT, skips_its_weight_fake_quant, "has a weight without a fake-quant"),
    (Level.REFERENCE, by_keyword, "its operand bias is given by keyword"),
    (Level.REFERENCE, keeps_an_observer, "is an observer, which should be gone by now"),
    (Level.REFERENCE, keeps_a_stub, "is a stub, which should be gone by now"),
    (Level.REFERENCE, other_scale, "with scale=.*, and that was quantized with"),
    (Level.REFERENCE, other_axis, "with axis=1, and that was quantized with None"),
    (Level.REFERENCE, float_codes, "dequantizes %.*, which is torch.float32"),
    (Level.REFERENCE, reads_codes, "reads the integers %.*, before dequantize"),
    (Level.REFERENCE, unquantized_read, "which nothing quantizes"),
    (Level.REFERENCE, float_weight, "has the weight %plain, which is not stored in few bits"),
    (Level.REFERENCE, weight_is_a_parameter, "holds integers and is a parameter"),
    (Level.LOWERED, keeps_an_observer, "is an observer, which should be gone by now"),
    (Level.LOWERED, other_scale, "and that was quantized with"),
]
_UP_TO = {
    Level.CANONICAL: "canonicalize",
    Level.FUSED: "fuse-post-ops",
    Level.STUBBED: "insert-stubs",
    Level.OBSERVED: "record-input-means",
    Level.REFERENCE: "reference",
    Level.LOWERED: "lower",
}


def at_level(level: Level, breaks: Callable[[fx.GraphModule], None]) -> None:
    """Let a pass break a graph that has reached ``level``."""

    class Breaks(qfx.Pass):
        name = "breaks"

        def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
            breaks(ctx.graph_module)

    model = Net().eval()
    if level is Level.FAKE_QUANT:
        pipeline = qfx.pipelines.qat("reference").insert_after("training-form", Breaks())
        qfx.prepare(model.train(), X, method="qat", pipeline=pipeline)
        return
    pipeline = qfx.pipelines.static("reference").insert_after(_UP_TO[level], Breaks())
    qfx.quantize(model, X, pipeline=pipeline)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("level", "breaks", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", str(v)[:10])
)
def test_what_breaks_a_promise_is_named(
    level: Level, breaks: Callable[[fx.GraphModule], None], message: str
) -> None:
    with pytest.raises(qfx.PassError, match=message) as caught:
        at_level(level, breaks)
    assert caught.value.pass_name == "breaks"
    assert caught.value.node


def test_every_level_declares_its_checks() -> None:
    assert list(QUANTIZATION.by_level) == [level for level in Level if level > Level.FUSED]
    assert all(QUANTIZATION.by_level.values())
