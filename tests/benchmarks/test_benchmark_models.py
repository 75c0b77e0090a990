"""Models and graphs of the benchmarks: seeded, awake and tame."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import fx, nn

from benchmarks import graphs, macs, models


def test_models_and_data_are_seeded() -> None:
    first, second = models.build("toy"), models.build("toy")
    assert not first.training
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(models.images("toy", 2, seed=3), models.images("toy", 2, seed=3))
    shapes = [tuple(batch.shape) for batch in models.calibration("toy")]
    assert shapes == [(4, 3, 16, 16)] * 4


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="no model 'resnet17'"):
        models.build("resnet17")


@pytest.mark.parametrize("kind", graphs.GENERATORS)
def test_generated_graph_has_its_size_and_stays_tame(kind: str) -> None:
    model, example = graphs.generate(kind, 1000)
    traced = fx.symbolic_trace(model)
    assert 1000 <= len(traced.graph.nodes) <= 1002
    with torch.no_grad():
        gain = model(example).norm() / example.norm()
    assert 0.1 < gain < 10


def test_macs_by_module() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))
    counts = macs.count(model, torch.zeros(2, 3, 6, 6))
    assert counts.by_module["0"] == 2 * 8 * 4 * 4 * 3 * 9
    assert counts.by_module["2"] == 2 * 128 * 10
    assert counts.total == counts.by_module["0"] + counts.by_module["2"]


def test_macs_see_inside_attention() -> None:
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    counts = macs.count(attention, torch.zeros(1, 5, 8))
    projections, scores, feed_forward = 4 * 5 * 8 * 8, 2 * 5 * 5 * 8, 2 * 5 * 8 * 16
    assert counts.total == projections + scores + feed_forward
