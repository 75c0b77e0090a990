"""Two processes that train one model on different data hold, and convert to, the same model."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import qfx
from tests.cases.flow import randn

RANKS = 2
KINDS = ("moving_average_minmax", "minmax", "histogram", "lsq", "late")
"""Observers; "late" is of a rank that has nothing to see in the first step."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def work(rank: int, port: int, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    kept = {kind: train(rank, kind) for kind in KINDS}
    torch.save(kept, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def train(rank: int, kind: str) -> dict[str, Any]:
    torch.manual_seed(0)
    weight = qfx.get_default_qconfig("reference", "qat").weight
    late = kind == "late"
    observer = "moving_average_minmax" if late else kind
    config = qfx.QConfig(activation=qfx.QuantSpec(torch.uint8, observer=observer), weight=weight)
    x = randn(4, 3, 8, 8)
    model = qfx.prepare(Net(), (x,), method="qat", backend="reference", qconfig=config)
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.05)
    if late:
        qfx.freeze_batchnorm(wrapped)
    for step in range(3):
        optimizer.zero_grad()
        data = randn(4, 3, 8, 8, seed=step + 10 * rank) * (1 + 3 * rank)
        empty = late and rank == 1 and step == 0
        wrapped(data[:0] if empty else data).square().sum().div(12).backward()
        optimizer.step()
    qfx.freeze_observers(wrapped)
    converted = qfx.convert(model)
    return {"state": model.state_dict(), "y": converted(x)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank holds of every kind: processes are started once, and take seconds."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, str(out)), nprocs=RANKS)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_agree(kind: str, ranks: list[dict[str, Any]]) -> None:
    first, second = (kept[kind] for kept in ranks)
    assert torch.equal(first["y"], second["y"])
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
        assert tensor.isfinite().all(), name
    if kind == "minmax":  # of the inputs, rank 1 alone saw the largest
        seen = [v for n, v in first["state"].items() if n.endswith("max_val") and v.dim() == 0]
        inputs = [4 * randn(4, 3, 8, 8, seed=10 + step).max() for step in range(3)]
        assert max(inputs) in seen
