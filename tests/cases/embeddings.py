"""Specs and models that tests of embeddings use."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import QConfig, QuantSpec

BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")


ROWS, WIDTH = 50, 64


def signed(bits: int, **more: Any) -> QConfig:
    ends = {"quant_min": -(2 ** (bits - 1)), "quant_max": 2 ** (bits - 1) - 1}
    spec = QuantSpec(torch.int8, symmetric=True, per_channel=True, **ends, **more)
    return QConfig(weight=spec)


def affine(bits: int, **more: Any) -> QConfig:
    top = 2**bits - 1
    return QConfig(
        weight=QuantSpec(torch.uint8, per_channel=True, quant_min=0, quant_max=top, **more)
    )


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, ROWS, shape, generator=generator, dtype=dtype)


class Functional(nn.Module):
    """Spellings that read one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(ROWS, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = F.embedding(x, weight=self.table).sum(1)
        return y + F.embedding_bag(x, self.table, mode="sum") + torch.embedding(self.table, x)[:, 0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, ROWS, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.embed(x)))
