"""inference-form: the graph that is meant, back from the one that was trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.vocab import DROPOUT, is_op
from tests.cases.flow import seeded
from tests.passes.stages import Net, X, text


def trained(model: nn.Module) -> qfx.PreparedModel:
    found = qfx.prepare(model.train(), X, method="qat", backend="reference")
    found(X)
    return found


def test_the_graph_that_is_meant_is_back() -> None:
    prepared = trained(seeded(Net))
    converted = qfx.convert(prepared).history
    assert text(converted, "inference-form") == text(prepared.history, "start-from")
    assert text(converted, "inference-form") != text(prepared.history, "training-form")


class Dropping(nn.Module):
    """Dropouts: one that values pass, and one that a kernel computes along."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(6, 6), nn.Linear(6, 6), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(self.last(self.drop(torch.relu(self.first(x)))) + x)
        return y


def drops(graph: fx.Graph) -> bool:
    post = [str(node.kwargs.get("post", ())) for node in graph.nodes]
    return any(is_op(n, DROPOUT) for n in graph.nodes) or any("dropout" in each for each in post)


def test_dropouts_are_gone() -> None:
    prepared = trained(seeded(Dropping))
    meant = prepared.settings.trained
    assert meant is not None
    assert drops(meant.graph)
    assert not drops(qfx.convert(prepared).reference.graph)


def test_weights_that_hold_no_numbers_are_named() -> None:
    prepared = trained(seeded(Net))
    with torch.no_grad():
        prepared.get_parameter("fc.weight").fill_(torch.nan)
    with pytest.raises(qfx.QfxError, match=r"fc\.weight"):
        qfx.convert(prepared)
