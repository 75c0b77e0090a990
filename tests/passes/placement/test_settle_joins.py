"""settle-joins: which values share the qparams of a concatenation, and which kernel joins them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.backends import resolve_backend
from qfx.framework.pass_context import PassContext
from qfx.quant.annotation import annotation
from tests.cases.flow import kernels, listing, quantized, randn, seeded, sqnr
from tests.passes.stages import change

X = randn(2, 3, 8, 8)


class Beside(nn.Module):
    """A value that a convolution reads, beside what the convolution makes of it, ``gain`` times."""

    def __init__(self, gain: float, dim: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.dim = dim
        with torch.no_grad():
            self.second.weight.copy_(torch.eye(4).reshape(4, 4, 1, 1) * gain)
            self.second.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.cat([F.max_pool2d(y, 2), F.max_pool2d(self.second(y), 2)], self.dim)


def joins(model: fx.GraphModule) -> list[str]:
    """The kernels of the concatenations: "CAT" moves codes, "cat" requantizes."""
    names = (str(getattr(n.target, "__name__", n.target)) for n in model.graph.nodes)
    return [name.partition(".")[0] for name in names if name.partition(".")[0] in ("CAT", "cat")]


def steps(qmodel: qfx.QuantizedModel) -> list[float]:
    """The scales of the reference form, in order."""
    nodes = qmodel.reference.graph.nodes
    return [float(n.args[1]) for n in nodes if n.target is vocab.QUANTIZE]  # type: ignore[arg-type]


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_what_others_read_keeps_its_own_step(backend: str, dim: int) -> None:
    qmodel = quantized(seeded(Beside, 20.0, dim), X, backend, quantize=1, dequantize=1)
    assert joins(qmodel) == ["cat"], listing(qmodel)
    _, first, *_, last = steps(qmodel)
    assert last > 10 * first
    assert sorted(set(steps(qmodel)[1:])) == [first, last]  # and the other operand has the cat's


def test_channels_last_requantizes_as_well() -> None:
    x = X.contiguous(memory_format=torch.channels_last)
    assert joins(quantized(seeded(Beside, 20.0), x, "fbgemm")) == ["cat"]


def test_own_steps_are_more_accurate() -> None:
    """Sharing, the second convolution would read a twentieth of the codes."""
    fbgemm = resolve_backend("fbgemm")
    rules = tuple(replace(rule, requantizes=False) for rule in fbgemm.rules)
    model = seeded(Beside, 20.0)
    backends = (fbgemm, replace(fbgemm, rules=rules))
    qmodels = [qfx.quantize(model, X, backend=backend) for backend in backends]
    assert [joins(q) for q in qmodels] == [["cat"], ["CAT"]]
    apart, together = (sqnr(model(X), q(X)) for q in qmodels)
    assert apart > together + 10


def test_close_steps_are_shared() -> None:
    """At most sqrt(2) apart: sharing costs the others less than requantizing would cost."""
    qmodel = quantized(seeded(Beside, 1.2), X, "fbgemm", quantize=1, dequantize=1)
    assert joins(qmodel) == ["CAT"]
    assert len(set(steps(qmodel)[1:])) == 1


def test_steps_further_apart_are_not() -> None:
    assert joins(quantized(seeded(Beside, 1.6), X, "fbgemm")) == ["cat"]


class Alone(nn.Module):
    """As ``Beside``, but what is pooled is read by nobody else, only measured."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.second.weight.mul_(20)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        pooled = F.max_pool2d(y, 2).reshape(y.shape[0], 4, 4, 4)
        return torch.cat([pooled, F.max_pool2d(self.second(x), 2)], 1)


def test_what_is_made_for_the_cat_shares_whatever_its_range() -> None:
    qmodel = quantized(seeded(Alone), X, "fbgemm", quantize=1, dequantize=1)
    assert joins(qmodel) == ["CAT"]
    assert len(set(steps(qmodel)[1:])) == 1


def test_a_kernel_that_cannot_requantize_shares() -> None:
    class Stacked(Beside):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return torch.stack([y, self.second(y)], 1)

    qmodel = quantized(seeded(Stacked, 20.0), X, "fbgemm", quantize=1, dequantize=1, bound=15)
    assert kernels(qmodel)[-1] == "STACK"
    assert len(set(steps(qmodel)[1:])) == 1


class Creeping(nn.Module):
    """Each concatenation is 1.301 times as wide as the last, which it holds.

    1.3 would make ties of every fifth code, and one that falls the other way grows down the chain.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 1)
        self.rest = nn.ModuleList(nn.Conv2d(2 * n, 2, 1) for n in range(1, count + 1))
        with torch.no_grad():
            for conv in self.rest:
                conv.weight.zero_()
                conv.weight[:, -2:, 0, 0] = torch.eye(2) * 1.301
                conv.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for conv in self.rest:
            y = torch.cat([y, conv(y)], 1)
        return y


def test_a_chain_of_steps_that_creep_up_is_cut() -> None:
    qmodel = quantized(seeded(Creeping, 6), X, "fbgemm", quantize=1, dequantize=1)
    assert joins(qmodel) == ["CAT", "cat"] * 3
    assert len(set(steps(qmodel)[1:])) == 4


def test_fixed_qparams_stay() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.last = nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            gate = torch.sigmoid(self.first(x))
            return self.last(torch.cat([gate, self.second(gate)], 1))

    qmodel = quantized(seeded(Gate), X, "fbgemm", quantize=1, dequantize=1)
    assert joins(qmodel) == ["cat"]
    assert 1 / (128 if resolve_backend("fbgemm").saturates else 256) in steps(qmodel)


@pytest.mark.parametrize("gain", [1.2, 20.0])
def test_annotations_say_who_shares(gain: float) -> None:
    model = seeded(Beside, gain)
    qmodel = qfx.quantize(model, X, backend="fbgemm")
    (cat,) = (n for n in qmodel.reference.graph.nodes if n.target is vocab.CAT)
    note = annotation(cat)
    assert note is not None
    assert note.output is not None
    groups = [edge.group for edge in note.reads.values()]
    assert groups.count(note.output.group) == (2 if gain < 1.4 else 1)
    (pool, _) = (n for n in qmodel.reference.graph.nodes if n.target is vocab.MAX_POOL2D)
    assert annotation(pool).output.group == groups[0]  # type: ignore[union-attr]


def test_without_data_the_error_names_the_sites() -> None:
    prepared = qfx.prepare(seeded(Beside, 20.0), X, backend="fbgemm")
    with pytest.raises(qfx.CalibrationError, match="have seen no data"):
        qfx.convert(prepared)


def test_the_prepared_model_is_left_alone() -> None:
    prepared = qfx.prepare(seeded(Beside, 1.2), X, backend="fbgemm")
    qfx.calibrate(prepared, [X])
    before = qfx.snapshot(prepared).to_text()
    state = {name: tensor.clone() for name, tensor in prepared.state_dict().items()}
    first, second = qfx.convert(prepared), qfx.convert(prepared)
    assert qfx.snapshot(prepared).to_text() == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in prepared.state_dict().items())
    assert torch.equal(first(X), second(X))


class _Coarser(qfx.Pass):
    """Gives the first operand of a stack twice the step of the other."""

    name = "coarser"
    keeps_values = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        (stack,) = (n for n in graph.nodes if n.target is vocab.STACK)
        restored = stack.all_input_nodes[0]
        for node in (restored, restored.all_input_nodes[0]):
            node.update_arg(1, 2 * node.args[1])


def test_operands_that_do_not_share_stay_float_where_they_must() -> None:
    """What another pass did to the reference form is lowered as it is, or not at all."""

    class Stacked(Beside):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return torch.stack([y, self.second(y)], 1)

    model = seeded(Stacked, 1.0)
    pipeline = qfx.pipelines.static().insert_after("reference", _Coarser())
    qmodel = quantized(model, X, "fbgemm", pipeline=pipeline)
    (site,) = (s for s in qmodel.report.sites if s.op == "stack")
    assert (site.decision, site.reason) == ("float", "unsupported")
    assert "its operands have different qparams" in site.message


AFTER = """\
- %observer_1 : f32[2,4,8,8] = HistogramObserver[@observer_1](%first)
+ %observer_1 : f32[2,4,8,8] = HistogramObserver[@observer_0](%first)
- %observer_3 : f32[2,4,4,4] = HistogramObserver[@observer_1](%max_pool2d)
+ %observer_3 : f32[2,4,4,4] = HistogramObserver[@observer_0](%max_pool2d)
"""


@pytest.mark.skipif("fbgemm" not in qfx.backends.available(), reason="no fbgemm")
@pytest.mark.parametrize(("gain", "after"), [(1.0, AFTER), (10.0, "")])
def test_the_graph_before_and_after(gain: float, after: str) -> None:
    """Values that are ten times as large are kept apart."""
    stages = qfx.quantize(seeded(lambda: Beside(gain)), X, backend="fbgemm").history
    assert change(stages, "settle-joins") == after
