"""Fewer bytes are alive in the new order, values that are alive at once lie apart, results stay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import qfx
from examples.passes.qfx_extras.memory import PlanMemory

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
WIDE = 2 * 64 * 4
"""Bytes of a wide value."""
NARROW = 2 * 4 * 4


class Branches(nn.Module):
    """Written so that all wide values are alive at once."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ModuleList(nn.Linear(8, 64) for _ in range(count))
        self.down = nn.ModuleList(nn.Linear(64, 4) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        wide = [up(x) for up in self.up]
        return torch.cat([down(each) for down, each in zip(self.down, wide, strict=True)], 1)


def findings(history: qfx.History) -> dict[str, dict[str, object]]:
    return {record.name: dict(record.findings) for record in history[-1].snapshot}


def test_branches_are_finished_one_after_the_other() -> None:
    model = Branches().eval()
    gm, history = qfx.run_passes(model, [PlanMemory()], X)
    output = findings(history)["output"]
    assert output["peak_bytes_before"] == 4 * WIDE + NARROW
    assert output["peak_bytes"] == WIDE + 4 * NARROW
    assert output["arena_bytes"] == output["peak_bytes"]
    torch.testing.assert_close(gm(X), model(X), rtol=0, atol=0)
    difference = history.diff("plan-memory")
    assert difference.moved
    assert difference.added == difference.removed == difference.changed == ()
    assert "peak_bytes=" in str(history[-1])
    assert "alive=" in history[-1].snapshot.to_dot().source
    moved = {name for event in history[-1].events for name in event.changed}
    assert moved >= set(difference.moved)


def test_the_order_stays_where_asked() -> None:
    _, history = qfx.run_passes(Branches().eval(), [PlanMemory(reorder=False)], X)
    assert not history.diff("plan-memory").moved
    output = findings(history)["output"]
    assert output["peak_bytes"] == output["peak_bytes_before"] == 4 * WIDE + NARROW


class Views(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = (x + 1.0).reshape(4, 4)
        z = y.t()
        a, b = torch.chunk(x * 2.0, 2, dim=1)
        return z.relu() + y, a.tanh() + b


def test_values_that_are_alive_at_once_lie_apart() -> None:
    """A view keeps what it shows alive, and takes nothing itself."""
    for model in (Views(), Branches(3)):
        gm, history = qfx.run_passes(model.eval(), [PlanMemory()], X)
        found = findings(history)
        nodes = list(gm.graph.nodes)
        views = [n for n in nodes if qfx.shares_memory(n)]
        assert not [n.name for n in views if "offset" in found[n.name]]
        lives = []
        for position, node in enumerate(nodes):
            if "offset" not in found[node.name]:
                continue
            members = {node}
            for each in nodes[position:]:
                if not members.isdisjoint(qfx.shares_memory(each)):
                    members.add(each)
            end = max(nodes.index(user) for each in members for user in each.users)
            info = qfx.tensor_info(node)
            size = 4 * (16 if info is None else info.numel)
            lives.append((position, end, found[node.name]["offset"], size))
        for i, (start, end, offset, size) in enumerate(lives):
            for start2, end2, offset2, size2 in lives[i + 1 :]:
                if start2 <= end and start <= end2:
                    assert offset + size <= offset2 or offset2 + size2 <= offset


class Acts(nn.Module):
    """What writes stays between what comes before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.up, self.down = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.up(x), self.up(x + 1.0)
        self.seen.add_(first.sum())
        return self.down(first) + self.down(second) * self.seen


def test_what_writes_stays_where_it_is() -> None:
    model = Acts().eval()
    gm, _ = qfx.run_passes(model, [PlanMemory()], X)
    assert torch.equal(gm(X), Acts.forward(model, X))
