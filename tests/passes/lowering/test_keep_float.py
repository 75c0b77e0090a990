"""What kernels got wrong stays float between dequantize and quantize, and the history says so."""

from __future__ import annotations

import pytest
import torch

import qfx
from qfx import vocab
from qfx.quant.annotation import annotation
from tests.cases.flow import seeded, targets
from tests.passes.stages import Net, X, change, quantized, text
from tests.support.planted import with_fault

WHY = "it was seen to be wrong"


def kept(*operations: tuple[str, str]) -> qfx.QuantizedModel:
    keep = qfx.get_pass("keep-float")(operations=operations)  # type: ignore[call-arg]
    pipeline = qfx.pipelines.static(backend="x86").insert_before("lower", keep)
    return quantized(backend="x86", pipeline=pipeline)


pytestmark = pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86")


def test_the_graph_before_and_after() -> None:
    history = kept(("fc", WHY)).history
    assert change(history, "keep-float") == ""  # what is decided is no part of the graph
    (event,) = history["keep-float"].events
    assert (event.rule, event.changed) == ("keep-float/kernel-failed-check", ("fc",))
    linear = [line for line in text(history, "lower").splitlines() if "linear" in line]
    assert linear == ["%fc : f32[2,2] = linear(%mean_5, %fc_weight_1, @fc.bias_1)"]


def test_the_report_says_why() -> None:
    (site,) = (s for s in kept(("fc", WHY)).report.sites if s.node == "fc")
    assert (site.decision, site.reason, site.message) == ("float", "kernel-failed-check", WHY)


def test_what_is_not_named_is_lowered() -> None:
    qmodel = kept(("nobody", WHY))
    assert qmodel.history["keep-float"].events == ()
    assert targets(qmodel) == targets(quantized(backend="x86"))


def test_conversion_runs_it_first_where_a_kernel_is_wrong() -> None:
    qmodel = qfx.quantize(seeded(Net), X, backend=with_fault("x86", vocab.LINEAR, torch.neg))
    names = [stage.name for stage in qmodel.history]
    assert names[names.index("reference") :][:3] == ["reference", "keep-float", "lower"]
    (event,) = qmodel.history["keep-float"].events
    assert event.changed == ("fc",)
    assert "keep-float" not in [stage.name for stage in quantized(backend="x86").history]


def test_a_pipeline_with_it_is_read_as_it_is_printed() -> None:
    keep = qfx.get_pass("keep-float")(operations=(("fc", WHY),))  # type: ignore[call-arg]
    assert str(keep) == f"keep-float{{operations=(('fc', '{WHY}'),)}}"
    pipeline = qfx.pipelines.static(backend="x86").insert_before("lower", keep)
    assert qfx.parse_pipeline(str(pipeline)) == pipeline


def test_a_saved_model_keeps_it(tmp_path: object) -> None:
    qmodel = kept(("fc", WHY))
    loaded = qfx.load(qfx.save(qmodel, f"{tmp_path}/m.qfx"))
    assert isinstance(loaded, qfx.QuantizedModel)
    node = next(n for n in loaded.graph.nodes if n.name == "fc")
    note = annotation(node)
    assert note is not None
    assert note.decision.message == WHY
    assert torch.equal(loaded(X), qmodel(X))
