"""Stages do nearly the same work, send little, and compute what the model does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qfx
from examples.passes.qfx_extras.stages import SplitStages, stage_table, stages_of

X = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))


class Tower(nn.Module):
    """Eight layers, of which the fourth and the sixth hand on little."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (16, 32, 32, 64, 8, 64, 8, 64, 32)
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y).relu()
        return y.sum(1) + x.sum(1)


@pytest.fixture(scope="module")
def split() -> tuple[Tower, torch.fx.GraphModule, qfx.History]:
    model = Tower().eval()
    return model, *qfx.run_passes(model, [SplitStages(stages=3, slack=0.4)], X)


def findings(history: qfx.History) -> dict[str, dict[str, object]]:
    return {record.name: dict(record.findings) for record in history[-1].snapshot}


def test_stages_run_one_after_the_other_are_the_model(
    split: tuple[Tower, torch.fx.GraphModule, qfx.History],
) -> None:
    model, gm, _ = split
    stages = stages_of(gm)
    assert len(stages.stages) == 3
    torch.testing.assert_close(stages(X), model(X), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(stages)(X[:1]), model(X[:1]))
    held = {p.data_ptr() for p in stages.parameters()}
    assert held == {p.data_ptr() for p in gm.parameters()}


def test_work_is_balanced_and_the_cut_is_where_little_is_sent(
    split: tuple[Tower, torch.fx.GraphModule, qfx.History],
) -> None:
    _, gm, history = split
    found = findings(history)
    assert found["output"]["largest_share"] <= (1 + 2 * 0.4) / 3
    assert found["x"]["stage"] == 0
    assert found["output"]["stage"] == 2
    for node in gm.graph.nodes:
        for each in node.all_input_nodes:
            if each.op != "get_attr":
                assert found[each.name]["stage"] <= found[node.name]["stage"]
    relus = [n for n in gm.graph.nodes if n.target is qfx.vocab.RELU]
    last = {n: max(found[user.name]["stage"] for user in n.users) for n in relus}
    cut = [n for n in relus if last[n] > found[n.name]["stage"]]
    assert [qfx.tensor_info(n).shape[1] for n in cut] == [32, 8]  # of {32, 64} and {8, 64, 8}
    rows = stage_table(gm).splitlines()
    assert rows[0].split() == ["stage", "calls", "MACs", "share", "bytes", "handed", "on"]
    assert len(rows) == 4
    assert rows[-1].split()[-1] == "0"


def test_the_picture_and_the_difference_show_the_stages(
    split: tuple[Tower, torch.fx.GraphModule, qfx.History],
) -> None:
    _, _, history = split
    assert "stage=1" in history[-1].snapshot.to_dot().source
    assert "stage=2" in str(history[-1])
    assert not history.diff("split-stages").changed


def test_what_can_not_be_split_is_told() -> None:
    with pytest.raises(qfx.ConfigError, match=r"split-stages\{stages=0\} makes no sense"):
        qfx.run_passes(Tower().eval(), [SplitStages(stages=0)], X)
    with pytest.raises(qfx.ConfigError, match="has no multiply-accumulates"):
        qfx.run_passes(nn.ReLU(), [SplitStages()], X)
    gm, _ = qfx.run_passes(nn.ReLU(), [qfx.get_pass("canonicalize")], X)
    with pytest.raises(qfx.ConfigError, match="run the pass split-stages last"):
        stages_of(gm)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.two(self.one(x) + self.calls)


def test_what_writes_in_place_is_told() -> None:
    with pytest.raises(qfx.ConfigError, match=r"writes to its operand in place"):
        qfx.run_passes(Counts().eval(), [SplitStages()], X)


def test_a_split_tensor_may_cross() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(16, 16), nn.Linear(8, 32)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.one(x).chunk(2, 1)
            return self.two(a) + b.repeat(1, 4)

    model = Halves().eval()
    gm, _ = qfx.run_passes(model, [SplitStages(slack=0.3)], X)
    torch.testing.assert_close(stages_of(gm)(X), model(X), rtol=0, atol=0)
