"""annotate: decisions as data on the nodes, before anything is inserted."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

import qfx
from qfx.framework.instruments import Instrument
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.history.stage import Stage
from qfx.quant.annotation import Annotation, annotation
from tests.cases.flow import randn, seeded
from tests.passes.stages import Net, X, quantized, text


class Notes(Instrument):
    """Keeps what annotate wrote."""

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        if step.name == "annotate":
            nodes: list[fx.Node] = list(ctx.graph_module.graph.nodes)
            self.found = {n.name: note for n in nodes if (note := annotation(n)) is not None}


def annotated(model: nn.Module, x: Tensor) -> dict[str, Annotation]:
    passes = [qfx.get_pass(name) for name in ("canonicalize", "fuse-post-ops", "insert-stubs")]
    notes = Notes()
    qfx.run_passes(
        model, [*passes, qfx.get_pass("annotate")], x, backend="reference", instruments=[notes]
    )
    return notes.found


def test_who_reads_integers_and_who_hands_them_out() -> None:
    found = annotated(seeded(Net), X)
    quantized = [name for name, note in found.items() if note.decision.quantized]
    assert quantized == ["conv_relu", "mean", "fc"]
    conv, mean, fc = (found[name] for name in quantized)
    assert [*conv.reads] == ["x_1"]
    assert [*mean.reads] == ["conv_relu"]
    assert conv.weight is not None
    assert conv.weight.dtype is torch.int8
    assert mean.weight is None
    assert conv.output is not None
    assert fc.output is not None
    assert conv.output.spec.dtype is torch.uint8


def test_a_mean_shares_the_qparams_of_what_it_reads() -> None:
    found = annotated(seeded(Net), X)
    conv, mean, fc = (found[name].output for name in ("conv_relu", "mean", "fc"))
    assert conv is not None
    assert mean is not None
    assert fc is not None
    assert conv.group == mean.group
    assert fc.group != conv.group


def test_near_misses_say_why() -> None:
    class Cosh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.special.i1(self.fc(x))
            return y + torch.ones(x.shape[0], 1)

    report = qfx.quantize(seeded(Cosh), randn(3, 4), backend="reference").report
    assert [(s.op, s.decision, s.reason) for s in report.sites] == [
        ("Linear", "quantized", ""),
        ("special_i1", "float", "unknown-op"),
        ("ones", "float", "makes-numbers"),
        ("add", "quantized", ""),
    ]


def test_nothing_is_inserted() -> None:
    stages = quantized().history
    assert text(stages, "annotate") == text(stages, "insert-stubs")
