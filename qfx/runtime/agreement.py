"""Ranks of a distributed training agree on what they have seen.

DistributedDataParallel averages gradients, and sends the buffers of rank 0 before every forward:
what the others observed is lost, and after the last step every rank holds buffers of its own. So
after a forward in training the ranks put together what they saw, in a collective call for each of
these, however many sites there are:

* averages (moving ranges, statistics of batch-norm): the average over the ranks;
* extremes: the smallest and the largest;
* any other observer, and where learned scales start: what rank 0 has.

Scales follow. So all ranks convert to the same model, whichever of them does. Not so inside
``ddp.join()``, where ranks stop at different times, nor where the whole forward is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qfx.quant.fake_quant import FakeQuantize, LearnedFakeQuantize
from qfx.quant.observers.minmax import MinMaxObserver, MovingAverageMinMaxObserver

_NORMS = nn.modules.batchnorm._BatchNorm


def is_distributed() -> bool:
    """Whether the forward that runs is that of DistributedDataParallel, on several ranks."""
    if not (dist.is_available() and dist.is_initialized()) or torch.compiler.is_compiling():
        return False
    ddp = nn.parallel.DistributedDataParallel._active_ddp_module
    uneven = ddp is not None and ddp._join_config.enable  # other ranks may be done already
    return ddp is not None and not uneven and dist.get_world_size() > 1


@torch.no_grad()
def agree(model: nn.Module) -> None:
    """Let all ranks hold the same statistics; all of them must call it."""
    averaged: list[Tensor] = []
    least: list[tuple[Tensor, int]] = []  # tensors, and the sign under which the smallest counts
    of_rank_0: list[Tensor] = []
    observing: list[FakeQuantize] = []
    for module in model.modules():
        if isinstance(module, _NORMS) and module.training and module.running_mean is not None:
            assert module.running_var is not None
            averaged += [module.running_mean, module.running_var]
        elif isinstance(module, LearnedFakeQuantize):
            of_rank_0 += [module.scale, module.zero_point]
        elif isinstance(module, FakeQuantize) and module.observes_data:
            observing.append(module)
            observer = module.observer
            least.append((observer.batches, -1))  # the most that any has seen
            if isinstance(observer, MovingAverageMinMaxObserver):
                averaged += [observer.min_val, observer.max_val]
            elif isinstance(observer, MinMaxObserver):
                least += [(observer.min_val, 1), (observer.max_val, -1)]
            else:
                of_rank_0 += observer.buffers()
    _average(averaged)
    _smallest(least)
    _take_over(of_rank_0)
    for fake_quant in observing:
        fake_quant.choose()


def _average(tensors: Sequence[Tensor]) -> None:
    """Averages over the ranks that have seen something: what a range is before that is infinite."""
    if tensors:
        flat = _flat(tensors)
        known = flat.isfinite()
        sums = torch.stack([torch.where(known, flat, 0.0), known.to(flat.dtype)])
        dist.all_reduce(sums)
        _write(torch.where(sums[1] > 0, sums[0] / sums[1], flat), tensors)


def _smallest(signed: Sequence[tuple[Tensor, int]]) -> None:
    if signed:
        flat = _flat([tensor.double() * sign for tensor, sign in signed])
        dist.all_reduce(flat, dist.ReduceOp.MIN)
        signs = _flat([torch.full_like(tensor, sign).double() for tensor, sign in signed])
        _write(flat * signs, [tensor for tensor, _ in signed])


def _take_over(tensors: Sequence[Tensor]) -> None:
    if tensors:
        flat = _flat(tensor.double() for tensor in tensors)
        dist.broadcast(flat, 0)
        _write(flat, tensors)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _write(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Backward may hold on to what is written, but does not read it: ``data`` says so."""
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.data.copy_(part.view_as(tensor))
