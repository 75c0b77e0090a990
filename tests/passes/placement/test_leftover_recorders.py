"""Each pass stands alone: dropping one that reads recorders leaves nothing of them behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import fx, nn

import qfx
from qfx.framework.pipeline import CALIBRATE
from qfx.quant.channel_mean import ChannelMean
from qfx.vocab import QUANTIZE

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_without_correct_bias_the_recorders_do_nothing(backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    pipeline = qfx.pipelines.static().without("correct-bias")
    left = qfx.quantize(net(), X, backend=backend, pipeline=pipeline)
    clean = pipeline.without("record-input-means")
    expected = qfx.quantize(net(), X, backend=backend, pipeline=clean)
    assert left.report.coverage == 1
    assert torch.equal(left(X), expected(X))
    assert not any(isinstance(m, ChannelMean) for m in left.modules())


class RecordLate(qfx.Pass):
    name = "record-late"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        node = next(n for n in graph.nodes if n.target is QUANTIZE)
        value = node.args[0]
        with ctx.rewriter.at(node):
            made = ctx.rewriter.call_module("late", ChannelMean(1), value)
        node.args = (made, *node.args[1:])


def test_a_graph_past_calibration_may_not_record() -> None:
    pipeline = qfx.pipelines.static().insert_after("reference", RecordLate())
    with pytest.raises(qfx.PassError, match=r"pass record-late.*%late.* is a recorder"):
        qfx.quantize(net(), X, backend="reference", pipeline=pipeline)


@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
def test_a_pipeline_without_calibrate_says_so(method: str) -> None:
    whole = getattr(qfx.pipelines, method)()
    with pytest.raises(qfx.ConfigError, match="a pipeline can't do without"):
        whole.without("calibrate")
    at = whole.passes.index(CALIBRATE)
    behind = whole.passes[at + 1].name
    pipeline = replace(whole, passes=(*whole.passes[:at], *whole.passes[at + 1 :]))
    with pytest.raises(qfx.ConfigError, match="has no step `calibrate`") as raised:
        qfx.quantize(net(), X, method=method, pipeline=pipeline)
    assert f'insert_before("{behind}", qfx.framework.pipeline.CALIBRATE)' in str(raised.value)
    assert str(pipeline.insert_before(behind, CALIBRATE)) == str(whole)
