"""Multiply-accumulates of a float model, by module: the denominator of coverage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Macs:
    """``total`` of a forward pass, and what each leaf module (qualified name) does of it."""

    total: int
    by_module: dict[str, int]


@torch.no_grad()
def count(model: nn.Module, example: Tensor) -> Macs:
    """Count with PyTorch's flop counter, which sees matmuls and attention too (2 flops a MAC)."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque op that the counter does not know
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    root = type(model).__name__
    by_module = {
        name.removeprefix(f"{root}."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name not in ("Global", root)
    }
    return Macs(counter.get_total_flops() // 2, by_module)
