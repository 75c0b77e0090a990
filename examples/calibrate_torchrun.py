"""Calibrate on several processes, each with data of its own; all get the same quantized model.

    torchrun --nproc-per-node 2 examples/calibrate_torchrun.py model.qfx

What every process saw is put together exactly, so that the model is, to the bit, the one that a
single process makes of all the batches.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

import qfx


def network() -> nn.Module:
    """The same model, with the same weights, in every process."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


def batches(first: int, step: int) -> list[Tensor]:
    """Every ``step``-th of 8 batches, from ``first`` on."""
    made = torch.Generator().manual_seed(1)
    data = [torch.randn(4, 3, 32, 32, generator=made) for _ in range(8)]
    return data[first::step]


def main(path: str) -> None:
    """Quantize on all processes; the first writes the model."""
    dist.init_process_group("gloo")  # torchrun says where the others are
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model, x = network(), torch.zeros(1, 3, 32, 32)
    quantized = qfx.quantize(model, x, calibration_data=batches(rank, ranks))
    if rank == 0:
        qfx.save(quantized, path)
        print(f"{path}: calibrated by {ranks} processes")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "model.qfx")
