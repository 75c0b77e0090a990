"""Calibration on several ranks comes to the model of one process; a rank that fails is named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, fx, nn

import qfx
from examples import calibrate_torchrun
from qfx.quant.channel_mean import ChannelMean
from qfx.runtime import ranks

RANKS = 3


class Net(nn.Module):
    """Convolutions, a norm that is smoothed, a sum, and a branch with a range of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.norm, self.fc, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        x = x + torch.sigmoid(self.fc(self.norm(x)))
        y: Tensor = self.head(x)
        return y


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def data() -> list[Tensor]:
    made = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 8, 8, generator=made) * (1 + i) for i in range(7)]


def tensors(model: qfx.QuantizedModel) -> dict[str, Tensor]:
    """All numbers of the reference form, and what it yields."""
    graph = model.reference
    places = {node: i for i, node in enumerate(graph.graph.nodes)}
    found = {
        str(i): repr(fx.map_arg((node.args, dict(node.kwargs)), places.__getitem__))
        for node, i in places.items()
    }
    texts = {name: torch.tensor(list(text.encode())) for name, text in found.items()}
    return {**texts, **graph.state_dict(), "y": model(data()[0])}


def good(rank: int, out: Path) -> None:
    """Quantize in one call; and in two of calibrate, one of which a rank has nothing for."""
    shard = data()[rank::RANKS]
    one = qfx.quantize(net(), shard[0], backend="reference", calibration_data=shard)
    prepared = qfx.prepare(net(), shard[0], backend="reference")
    qfx.calibrate(prepared, data()[:2][rank::RANKS])
    qfx.calibrate(prepared, data()[2:][rank::RANKS])
    torch.save([tensors(one), tensors(qfx.convert(prepared))], out / f"{rank}.pt")


def failing(rank: int, out: Path) -> None:
    """One rank has NaN in its data."""
    batch = data()[rank] * (float("nan") if rank == 1 else 1)
    _told(rank, out, [batch])


def dying(rank: int, out: Path) -> None:
    """One rank's process ends while it calibrates."""

    def batches() -> Iterator[Tensor]:
        yield data()[rank]
        if rank == 1:
            os._exit(0)

    _told(rank, out, batches())


def _told(rank: int, out: Path, batches: object) -> None:
    try:
        qfx.quantize(net(), data()[0], backend="reference", calibration_data=batches)  # type: ignore[arg-type]
    except qfx.CalibrationError as error:
        torch.save(str(error), out / f"{rank}.pt")


def _start(rank: int, port: int, work: Callable[[int, Path], None], out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    options = {"rank": rank, "world_size": RANKS, "timeout": timedelta(seconds=240)}
    dist.init_process_group("gloo", **options)  # type: ignore[arg-type]
    work(rank, out)
    if work is good:
        dist.destroy_process_group()


def _run(work: Callable[[int, Path], None], out: Path) -> dict[int, object]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    processes = [context.Process(target=_start, args=(r, port, work, out)) for r in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return {int(p.stem): torch.load(p, weights_only=True) for p in sorted(out.glob("*.pt"))}


@pytest.mark.slow
def test_all_ranks_get_the_model_of_one_process_on_all_the_data(tmp_path: Path) -> None:
    found = _run(good, tmp_path)
    x = data()[0]
    alone = qfx.quantize(net(), x, backend="reference", calibration_data=data())
    wanted = tensors(alone)
    assert len(found) == RANKS
    for rank, models in found.items():
        for made in models:  # type: ignore[attr-defined]
            assert made.keys() == wanted.keys()
            for name, tensor in wanted.items():
                assert torch.equal(made[name], tensor), (rank, name)


@pytest.mark.slow
@pytest.mark.parametrize("work", [failing, dying])
def test_a_rank_that_fails_is_named_by_the_others(
    work: Callable[[int, Path], None], tmp_path: Path
) -> None:
    told = _run(work, tmp_path)
    assert {0, 2} <= told.keys()
    assert all("rank 1" in str(told[rank]) for rank in (0, 2))
    if work is failing:
        assert all("NaN" in str(text) for text in told.values())


@pytest.mark.slow
def test_the_example(tmp_path: Path) -> None:
    path = tmp_path / "model.qfx"
    program = [calibrate_torchrun.__file__, str(path)]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run([*run, *program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "calibrated by 2 processes" in done.stdout
    x = torch.ones(1, 3, 32, 32)
    batches = calibrate_torchrun.batches(0, 1)
    wanted = qfx.quantize(calibrate_torchrun.network(), x, calibration_data=batches)
    made = qfx.load(path)
    assert torch.equal(made(x), wanted(x))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_a_rank_that_fails_holds_what_it_held(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt does not wait for the others; of two ranks that fail each tells its own."""
    batch = data()[0]
    prepared = qfx.prepare(net(), batch, backend="reference")
    qfx.calibrate(prepared, [batch])
    kept = {name for name in prepared.state_dict() if not name.endswith("batches")}
    before = {name: prepared.state_dict()[name].clone() for name in kept}
    told = []

    def lost(message: Tensor) -> list[Tensor]:
        told.append(message)
        raise qfx.CalibrationError("rank 1 did not answer")

    def batches() -> Iterator[Tensor]:
        yield 9 * batch
        raise kind("no more")

    monkeypatch.setattr(ranks, "several", lambda: True)
    monkeypatch.setattr(ranks, "_exchange", lost)
    with pytest.raises(kind, match="no more"):
        qfx.calibrate(prepared, batches())
    assert len(told) == (kind is ValueError)
    after = prepared.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_recorders_merge() -> None:
    x = torch.randn(6, 3, 4)
    whole, first, second = (ChannelMean(1) for _ in range(3))
    whole(x)
    first(x[:2])
    second(x[2:])
    first.merge(second)
    first.merge(ChannelMean(1))
    torch.testing.assert_close(first.mean(), whole.mean())
    assert torch.equal(first.peak, whole.peak)
    assert int(first.count) == 24
    empty = ChannelMean(1)
    empty.merge(first)
    assert torch.equal(empty.total, first.total)
    empty.reset()
    assert not empty.seen
    empty(x)
    assert torch.equal(empty.total, whole.total)
