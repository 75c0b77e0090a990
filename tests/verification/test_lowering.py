"""Passes around the one that lowers are held to what the graph computes, whoever wrote them."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import qfx

X = torch.randn(8, 4)


class Grow(qfx.Pass):
    name = "grow"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        (output,) = graph.find_nodes(op="output")
        (result,) = output.all_input_nodes
        with ctx.rewriter.at(output):
            more = ctx.rewriter.call(torch.mul, result, 1.01, origins=(result,))
        ctx.rewriter.rewire(output, result, more)


class Wrap(Grow):
    name = "wrap"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        (output,) = graph.find_nodes(op="output")
        (result,) = output.all_input_nodes
        with ctx.rewriter.at(output):
            same = ctx.rewriter.call(torch.mul, result, 1.0, origins=(result,))
        ctx.rewriter.rewire(output, result, same)


def quantized(*steps: qfx.Pass, after: str) -> qfx.QuantizedModel:
    pipeline = qfx.pipelines.static(backend="x86")
    for step in reversed(steps):
        pipeline = pipeline.insert_after(after, step)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    made = qfx.quantize(net, X, pipeline=pipeline, progress=False)
    assert isinstance(made, qfx.QuantizedModel)
    return made


@pytest.mark.parametrize("maker", ["theirs", "qfx_passes.lowering"])
@pytest.mark.parametrize("after", ["reference", "lower", "keep-contiguous", "flatten-constants"])
def test_who_changes_values_is_named(
    after: str, maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grow, "__module__", maker)
    with pytest.raises(qfx.PassError, match="pass grow changes what the model computes") as e:
        quantized(Wrap(), Grow(), after=after)
    assert e.value.pass_name == "grow"


def test_what_keeps_values_passes() -> None:
    made = quantized(Wrap(), after="lower")
    assert "wrap" in [stage.name for stage in made.history]
