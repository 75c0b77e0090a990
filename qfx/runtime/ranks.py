"""Calibration on several ranks: each runs data of its own, and all hold what all of them saw.

What a rank saw since the call began is sent to every other one, and each puts the parts together in
the order of the ranks, so that all come to the same bits: extremes and counts of histograms are
exact in any order. What was seen before the call, the same on all ranks, comes first. The batches
that are kept to measure on alternate between ranks, as ``data[rank::ranks]`` deals them out.

Messages go from each rank to each: where one is lost, the others know which, and a rank that fails
says so before it raises, so that nobody waits for it.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from qfx.errors import CalibrationError
from qfx.graph.tensor_bytes import bytes_of
from qfx.quant.channel_mean import ChannelMean
from qfx.quant.observers import Observer
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.samples import Samples

_SIZE, _BODY = 7101, 7102
"""Tags of messages."""

_Recorder: TypeAlias = "Observer | ChannelMean"
_State: TypeAlias = "dict[str, Tensor]"

_LOST = (
    "calibration runs on all ranks of the process group, and {names} did not answer: {why}\n"
    "What to do: see what that rank logged last, and start all ranks again. If it was never meant "
    "to calibrate, call qfx on every rank, or destroy the process group before"
)
_FAILED = "calibration failed on rank {rank} of {ranks}: {why}"
_OTHERS = "rank {rank} prepared another model than rank {own}: give all ranks the same model"


@dataclass(frozen=True)
class _Before:
    """What the graphs held before the call."""

    recorders: Mapping[str, _Recorder]
    samples: Sequence[Samples]


def several() -> bool:
    """Whether this process is one of several ranks of a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    return dist.get_world_size() > 1


def together(graphs: Sequence[PreparedModel], run: Callable[[], int]) -> int:
    """Calibrate by ``run`` on every rank, and let all hold what all saw.

    Args:
        graphs: what records.
        run: runs the batches of this rank, and returns how many there were.

    Returns:
        How many batches there were on all ranks.

    Raises:
        CalibrationError: a rank failed, was lost, or calibrates another model; it is named.
    """
    if not several():
        return run()
    before = _set_aside(graphs)
    try:
        count = run()
    except BaseException as error:
        _put_together(graphs, before, [])
        if isinstance(error, Exception):  # an interrupt is not to wait for others
            with suppress(CalibrationError):  # that another was lost, too
                _exchange(_pack({"error": f"{type(error).__name__}: {error}"}))
        raise
    parts = [_unpack(message) for message in _exchange(_pack(_seen(graphs, count)))]
    for rank, part in enumerate(parts):
        if "error" in part:
            _put_together(graphs, before, [])
            ranks = dist.get_world_size()
            raise CalibrationError(_FAILED.format(rank=rank, ranks=ranks, why=part["error"]))
    _put_together(graphs, before, parts)
    return sum(part["count"] for part in parts)


def _recorders(graphs: Sequence[PreparedModel]) -> dict[str, _Recorder]:
    return {
        f"{i}.{name}": module
        for i, graph in enumerate(graphs)
        for name, module in graph.named_modules()
        if isinstance(module, (Observer, ChannelMean))
    }


def _set_aside(graphs: Sequence[PreparedModel]) -> _Before:
    """Let everything start from nothing, and return what was there."""
    found = _recorders(graphs)
    before = _Before(copy.deepcopy(found), [graph.samples for graph in graphs])
    for module in found.values():
        module.reset()
    for graph in graphs:
        graph.__dict__["samples"] = Samples(graph.samples.room)
    return before


def _seen(graphs: Sequence[PreparedModel], count: int) -> dict[str, Any]:
    """What this rank saw, on the CPU."""
    return {
        "count": count,
        "recorders": {
            name: _on_cpu(module.state_dict()) for name, module in _recorders(graphs).items()
        },
        "samples": [_on_cpu(graph.samples.state(graph.ordered_examples)) for graph in graphs],
    }


def _on_cpu(state: Mapping[str, Tensor]) -> _State:
    return {name: tensor.cpu() for name, tensor in state.items()}


def _put_together(
    graphs: Sequence[PreparedModel], before: _Before, parts: Sequence[dict[str, Any]]
) -> None:
    """What was there before, and then what every rank saw."""
    found = _recorders(graphs)
    for rank, part in enumerate(parts):
        if part["recorders"].keys() != found.keys():
            raise CalibrationError(_OTHERS.format(rank=rank, own=dist.get_rank()))
    for name, module in found.items():
        module.reset()
        module.merge(before.recorders[name])  # type: ignore[arg-type]
        for part in parts:
            other = copy.deepcopy(module)
            other.load_state_dict(part["recorders"][name])
            module.merge(other)  # type: ignore[arg-type]
    device = next((str(m.count.device) for m in found.values() if isinstance(m, ChannelMean)), None)
    for i, graph in enumerate(graphs):
        like, room = graph.ordered_examples, before.samples[i].room
        dealt = [Samples.of_state(part["samples"][i], like, room).to(device) for part in parts]
        graph.__dict__["samples"] = _in_turns(before.samples[i], dealt)


def _in_turns(first: Samples, dealt: Sequence[Samples]) -> Samples:
    """The samples of before, then one of each rank, and again."""
    made = Samples(first.room)
    for row in (*((each,) for each in first), *itertools.zip_longest(*dealt)):
        for sample in row:
            if sample is not None:
                made.offer(*sample)
    return made


def _pack(message: Mapping[str, Any]) -> Tensor:
    kept = io.BytesIO()
    torch.save(dict(message), kept)
    return torch.frombuffer(bytearray(kept.getvalue()), dtype=torch.uint8)


def _unpack(message: Tensor) -> dict[str, Any]:
    with bytes_of(message) as view:
        found: dict[str, Any] = torch.load(io.BytesIO(view), weights_only=True)
    return found


def _exchange(own: Tensor) -> list[Tensor]:
    """The messages of all ranks, in order; CalibrationError that names those that were lost."""
    rank, ranks, group = dist.get_rank(), dist.get_world_size(), _group()
    others = [r for r in range(ranks) if r != rank]
    sizes = {r: torch.zeros(1, dtype=torch.int64) for r in others}
    lost = _swap(torch.tensor([own.numel()]), sizes, group, _SIZE)
    bodies = {
        r: torch.empty(int(size), dtype=torch.uint8) for r, size in sizes.items() if r not in lost
    }
    lost |= _swap(own, bodies, group, _BODY)
    if lost:
        names = " and ".join(f"rank {r}" for r in sorted(lost))
        raise CalibrationError(_LOST.format(names=names, why=lost[min(lost)]))
    return [own if r == rank else bodies[r] for r in range(ranks)]


def _group() -> dist.ProcessGroup | None:
    """A group that takes tensors on the CPU: the one there is, or one beside it."""
    if str(dist.get_backend()) == "nccl":
        made: dist.ProcessGroup = dist.new_group(backend="gloo")
        return made
    return None


def _swap(
    own: Tensor, received: Mapping[int, Tensor], group: dist.ProcessGroup | None, tag: int
) -> dict[int, str]:
    """Send ``own`` to ranks and receive from them; which were lost, and why."""
    lost: dict[int, str] = {}
    going: list[tuple[int, dist.Work | None]] = []
    for rank, buffer in received.items():
        for start in (partial(dist.irecv, buffer, rank), partial(dist.isend, own, rank)):
            with _noting(lost, rank):
                going.append((rank, start(group=group, tag=tag)))
    for rank, work in going:
        with _noting(lost, rank):
            if work is not None:
                work.wait()
    return lost


@contextmanager
def _noting(lost: dict[int, str], rank: int) -> Iterator[None]:
    """Note that a rank was lost if talking to it fails."""
    try:
        yield
    except RuntimeError as error:
        lost.setdefault(rank, str(error))
