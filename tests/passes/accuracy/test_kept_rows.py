"""Of the values that passes try scales on, few rows and channels are kept, spread over all."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx_passes.accuracy import kept_rows
from qfx_passes.accuracy.kept_rows import KeptBatch, KeptRows
from qfx_passes.accuracy.watching import WatchedCall, watch
from tests.cases.flow import randn


class Tokens(nn.Module):
    """A norm with large channels, a GELU, and a residual that is the same for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 300), nn.Linear(300, 16)
        self.place = nn.Parameter(randn(1, 6, 16, seed=3))
        with torch.no_grad():
            self.norm.weight[::5] = 30.0

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x)))) + self.place


DATA = [randn(4, 6, 16, seed=i) for i in range(3)]


@pytest.fixture(scope="module")
def kept() -> list[KeptRows]:
    """What the passes had, as they measured."""
    torch.manual_seed(0)
    found: list[KeptRows] = []
    keep = KeptRows.keep

    def noting(rows: KeptRows, *args: object) -> None:
        found.append(rows)
        keep(rows, *args)  # type: ignore[arg-type]

    with patch.object(KeptRows, "keep", noting), patch.object(kept_rows, "MOST_ROWS", 9):
        qfx.quantize(Tokens().eval(), DATA[0], calibration_data=DATA, backend="x86")
    return found


def batches_by_name(rows: KeptRows) -> dict[str, list[KeptBatch]]:
    return {node.name: batches for node, batches in rows._batches.items()}


def test_the_graph_runs_once_for_norms_and_inputs(kept: list[KeptRows]) -> None:
    assert len(kept) == 1
    assert sorted(batches_by_name(kept[0])) == ["norm", "up_gelu"]


def test_rows_are_spread_and_extremes_are_of_all(kept: list[KeptRows]) -> None:
    torch.manual_seed(0)
    norm = Tokens().norm
    (batch,) = batches_by_name(kept[0])["norm"]  # of all three
    with torch.no_grad():
        values = [norm(x).reshape(-1, 16) for x in DATA]
    assert torch.equal(batch.rows, torch.cat([value[[0, 11, 23]] for value in values]))
    assert torch.equal(batch.low, torch.cat(values).amin(0))
    assert torch.equal(batch.high, torch.cat(values).amax(0))


def test_a_layer_can_be_called_again_on_its_rows(kept: list[KeptRows]) -> None:
    torch.manual_seed(0)
    down = Tokens().down
    (batch,) = batches_by_name(kept[0])["up_gelu"]
    (call,) = batch.calls.values()
    again = call.again(batch.rows, down.weight.detach())
    torch.testing.assert_close(again, call.result)


def test_channels_are_spread_by_size(kept: list[KeptRows]) -> None:
    torch.manual_seed(0)
    weight = Tokens().up.weight.detach()
    (channels,) = (c for n, c in kept[0].channels.items() if n.name == "up_gelu")
    assert channels is not None
    assert channels.tolist() == weight.norm(dim=1).argsort(descending=True)[::2].tolist()
    (few,) = (c for n, c in kept[0].channels.items() if n.name == "down")
    assert few is None  # 16 are no more than are kept


def test_of_images_as_many_as_their_positions_allow() -> None:
    images = randn(5, 3, 4, 4)
    assert KeptBatch(images, -3, most=40).rows.shape == (3, 3, 4, 4)
    none = KeptBatch(images, -3, most=0)
    assert none.positions == 0
    assert torch.equal(none.high, images.amax((0, 2, 3)))


def test_what_is_behind_the_last_look_is_not_run() -> None:
    def refuse(x: Tensor) -> Tensor:
        raise AssertionError("it ran")

    graph = fx.Graph()
    x = graph.placeholder("x")
    seen = graph.call_function(torch.relu, (x,))
    graph.output(graph.call_function(refuse, (seen,)))
    found: list[WatchedCall] = []
    sample = qfx.runtime.samples.Sample((randn(2),), {})
    watch(fx.GraphModule(nn.Module(), graph), [sample], {seen: [found.append]})
    assert len(found) == 1
