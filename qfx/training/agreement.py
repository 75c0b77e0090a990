"""Ranks of a distributed training agree on what they have seen.

DistributedDataParallel averages gradients, and sends the buffers of rank 0 before every forward:
what the others observed is lost, and after the last step every rank holds buffers of its own. So
after a forward in training the ranks put together what they saw, in a collective call for each of
these, however many sites there are:

* averages (moving ranges, statistics of batch-norm): the average over the ranks that have one;
* extremes: the smallest and the largest;
* any other observer, and learned scales: what the first rank has that has any.

A range of nothing but zeros is none, if another rank has one.

Scales follow. So all ranks convert to the same model, whichever of them does. Not so inside
``ddp.join()``, where ranks stop at different times, nor where the whole forward is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qfx.private_attributes import buffers_held, takes_uneven_inputs
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.learned_fake_quant import LearnedFakeQuantize
from qfx.quant.observers.base import Observer, is_empty
from qfx.quant.observers.minmax import MinMaxObserver, MovingAverageMinMaxObserver
from qfx.torch_private import BATCH_NORMS, active_ddp

_Known: TypeAlias = "tuple[Tensor, Tensor]"
"""A tensor, and whether what this rank has of it counts."""


def is_distributed() -> bool:
    """Whether the forward that runs is that of DistributedDataParallel, on several ranks."""
    if not (dist.is_available() and dist.is_initialized()) or torch.compiler.is_compiling():
        return False
    ddp = active_ddp()
    uneven = takes_uneven_inputs(ddp)  # other ranks may be done already
    return ddp is not None and not uneven and dist.get_world_size() > 1


@torch.no_grad()
def agree(model: nn.Module) -> None:
    """Let all ranks hold the same statistics; all of them must call it."""
    averaged: list[_Known] = []
    least: list[tuple[Tensor, int]] = []  # tensors, and the sign under which the smallest counts
    first: list[_Known] = []
    moved: list[FakeQuantize] = []
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            averaged += _moving_statistics(module)
        elif isinstance(module, LearnedFakeQuantize):
            started = ~is_empty(*module.observer.extent()).all()
            first += [(module.scale, started), (module.zero_point, started)]
            least += _extremes(module.observer)
        elif isinstance(module, FakeQuantize) and module.moved:
            moved.append(module)
            observer = module.observer
            least.append((observer.batches, -1))  # the most that any has seen
            if isinstance(observer, MovingAverageMinMaxObserver):
                ends = observer.min_val, observer.max_val
                averaged += [(end, ~is_empty(*ends)) for end in ends]
                least.append((observer.beyond, -1))
            elif isinstance(observer, MinMaxObserver):
                least += _extremes(observer)
            else:
                first += [(b, torch.ones_like(observer.recording)) for b in observer.buffers()]
    _average(averaged)
    _smallest(least)
    _take_over(first)
    for fake_quant in moved:
        fake_quant.choose()
        fake_quant.moved = False


def _moving_statistics(norm: nn.Module) -> list[_Known]:
    """Mean and variance of a batch-norm that is in training and has them."""
    found = [buffers_held(norm).get(name) for name in ("running_mean", "running_var")]
    return [(t, t.isfinite()) for t in found if t is not None and norm.training]


def _extremes(observer: Observer) -> list[tuple[Tensor, int]]:
    """The ends of what was seen; none per channel, as of weights, which all ranks share."""
    if not isinstance(observer, MinMaxObserver):
        return []
    return [(observer.min_val, 1), (observer.max_val, -1)]


def _average(tensors: Sequence[_Known]) -> None:
    """Averages over the ranks that know; zero if none does, but some saw zeros."""
    if tensors:
        flat, known = _flat(tensor for tensor, _ in tensors), _masks(tensors)
        finite = flat.isfinite()
        counted = torch.where(known, flat, 0.0), known.to(flat.dtype), finite.to(flat.dtype)
        total, knowing, seen = _summed(torch.stack(counted))
        flat = torch.where(knowing > 0, total / knowing, torch.where(seen > 0, 0.0, flat))
        _write(flat, [tensor for tensor, _ in tensors])


def _smallest(signed: Sequence[tuple[Tensor, int]]) -> None:
    if signed:
        flat = _flat([tensor.double() * sign for tensor, sign in signed])
        dist.all_reduce(flat, dist.ReduceOp.MIN)
        signs = _flat([torch.full_like(tensor, sign).double() for tensor, sign in signed])
        _write(flat * signs, [tensor for tensor, _ in signed])


def _take_over(tensors: Sequence[_Known]) -> None:
    """What the first rank has that knows."""
    if tensors:
        flat, rank = _flat(tensor.double() for tensor, _ in tensors), dist.get_rank()
        owner = torch.where(_masks(tensors), rank, dist.get_world_size())
        dist.all_reduce(owner, dist.ReduceOp.MIN)
        total = _summed(torch.where(owner == rank, flat, 0.0))
        flat = torch.where(owner < dist.get_world_size(), total, flat)
        _write(flat, [tensor for tensor, _ in tensors])


def _summed(tensor: Tensor) -> Tensor:
    dist.all_reduce(tensor)
    return tensor


def _masks(tensors: Sequence[_Known]) -> Tensor:
    """For each value, whether this rank knows it."""
    return torch.cat([known.expand(tensor.shape).reshape(-1) for tensor, known in tensors])


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _write(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Backward may hold on to what is written, but does not read it: ``data`` says so."""
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.data.copy_(part.view_as(tensor))
