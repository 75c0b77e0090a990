"""What a pass preserves is not computed anew, neither while it works nor after it."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from typing_extensions import Self

import qfx
from qfx import vocab


class Layers(qfx.Analysis):
    """How many layers there are, which a change of activations leaves."""

    computed = 0

    def __init__(self, count: int) -> None:
        self.count = count

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Self:
        cls.computed += 1
        return cls(sum(node.target is vocab.LINEAR for node in graph_module.graph.nodes))


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))
def to_clamp(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    assert rw.analysis(Layers).count == 1
    return rw.call(vocab.CLAMP, match["x"], min=0.0)


class Forgets(qfx.PatternPass):
    name = "forgets"
    patterns = (to_clamp,)


class Preserves(Forgets):
    name = "preserves"
    preserves = (Layers,)


class Asks(qfx.Pass):
    name = "asks"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        assert ctx.analysis(Layers).count == 1


@pytest.mark.parametrize(("kind", "times"), [(Preserves, 1), (Forgets, 3)])
def test_an_analysis_that_is_preserved_is_computed_once(
    kind: type[qfx.Pass], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layers, "computed", 0)
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.ReLU()).eval()
    qfx.run_passes(model, [kind(), Asks()], torch.randn(2, 4), check=False)
    assert Layers.computed == times


def test_what_is_no_analysis_is_refused() -> None:
    with pytest.raises(qfx.ConfigError, match=r"Odd.preserves must be a tuple of qfx.Analysis"):

        class Odd(qfx.Pass):
            name = "odd"
            preserves = (int,)  # type: ignore[assignment]
