"""Functions of numbers, and what picks, as the tests of exports call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": lambda m, x: x.exp(),
    "expm1": lambda m, x: torch.expm1(x),
    "exp2": lambda m, x: x.exp2(),
    "log2": lambda m, x: torch.log2(x.abs() + 1),
    "log10": lambda m, x: torch.log10(x.abs() + 1),
    "fmax": lambda m, x: torch.fmax(x, (x.flip(1) - 0.5).log()),
    "fmin": lambda m, x: torch.fmin(x, (x.flip(1) - 0.5).log()),
    "lerp": lambda m, x: torch.lerp(x, x.flip(1), 0.3),
    "log": lambda m, x: torch.log(x.abs() + 1),
    "log1p": lambda m, x: torch.log1p(x.abs()),
    "sqrt": lambda m, x: x.abs().sqrt(),
    "rsqrt": lambda m, x: torch.rsqrt(x.abs() + 1),
    "reciprocal": lambda m, x: (x.abs() + 1).reciprocal(),
    "sin": lambda m, x: x.sin(),
    "cos": lambda m, x: x.cos(),
    "erf": lambda m, x: torch.erf(x),
    "sign": lambda m, x: torch.sign(x),
    "floor": lambda m, x: x.floor(),
    "ceil": lambda m, x: x.ceil(),
    "round": lambda m, x: torch.round(x * 3),
    "round_decimals": lambda m, x: torch.round(x, decimals=2),
    "neg": lambda m, x: -x,
    "pow": lambda m, x: x**3,
    "square": lambda m, x: x.square(),
    "maximum": lambda m, x: torch.maximum(x, x.flip(1)),
    "minimum": lambda m, x: torch.min(x, x.flip(1)),
    "where": lambda m, x: torch.where(x > 0, x, 0.5),
    "masked_fill": lambda m, x: x.masked_fill(x > 0.3, -2.0),
    "tril": lambda m, x: x.tril(),
    "triu": lambda m, x: x.triu(1),
    "cumsum": lambda m, x: x.cumsum(2),
    "grid_sample": lambda m, x: F.grid_sample(
        x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False
    ),
    "selu": lambda m, x: F.selu(x),
    "celu": lambda m, x: F.celu(x, 0.7),
    "softplus": lambda m, x: F.softplus(x, 2.0),
    "softplus_straight": lambda m, x: F.softplus(x, 2.0, 1.0),
    "softsign": lambda m, x: F.softsign(x),
    "logsigmoid": lambda m, x: F.logsigmoid(x),
    "hardshrink": lambda m, x: F.hardshrink(x, 0.2),
    "softshrink": lambda m, x: F.softshrink(x, 0.2),
    "tanhshrink": lambda m, x: F.tanhshrink(x),
    "threshold": lambda m, x: F.threshold(x, 0.1, 20.0),
    "glu": lambda m, x: F.glu(x, 1),
    "rms_norm": lambda m, x: m.rms_norm(x),
    "rms_norm_plain": lambda m, x: F.rms_norm(x, (4, 4)),
    "local_response_norm": lambda m, x: F.local_response_norm(x, 3, 0.5),
    "normalize": lambda m, x: F.normalize(x),
    "normalize_1": lambda m, x: F.normalize(x, 1.0, dim=-1),
    "vector_norm": lambda m, x: torch.linalg.vector_norm(x, dim=(2, 3)),
    "vector_norm_max": lambda m, x: x.norm(float("inf"), -1, keepdim=True),
    "var": lambda m, x: x.var((1, 2)),
    "std": lambda m, x: x.std(-1, correction=0, keepdim=True),
    "bilinear": lambda m, x: m.bilinear(x, x.flip(1)),
}
PICKS: dict[str, Callable[..., Any]] = {
    "tensor_split": lambda m, x: x.tensor_split(3, 1)[0],
    "tensor_split_places": lambda m, x: torch.tensor_split(x, (1, 3), 2)[1],
    "sort": lambda m, x: x.sort(1, descending=True),
    "sort_values": lambda m, x: torch.sort(x, -1)[0],
    "argsort": lambda m, x: x.argsort(2),
    "topk": lambda m, x: x.topk(2, -1),
    "topk_values": lambda m, x: x.topk(2, 1, largest=False).values,
    "take_along_dim": lambda m, x: torch.take_along_dim(x, x.argsort(2), 2),
    "index_select": lambda m, x: x.index_select(1, torch.tensor([3, 0])),
    "gather": lambda m, x: x.gather(2, x[:, :2, :3].argmax(-1, keepdim=True)),
    "diagonal": lambda m, x: x.diagonal(0, -2, -1),
    "diagonal_first": lambda m, x: x.diagonal(0, 1, 2),
    "windows": lambda m, x: x.unfold(2, 3, 1),
    "rot90": lambda m, x: x.rot90(1, (2, 3)),
}
