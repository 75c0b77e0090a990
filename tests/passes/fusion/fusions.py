"""Fusing a module for one backend, and modules to fuse."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from qfx import vocab
from qfx.backends.base import Backend, KernelRule
from qfx.testing.checking import Result
from qfx_passes.fusion.fuse_post_ops import ACTIVATIONS
from qfx_passes.fusion.fusible import CARRIERS

NAMES = tuple(op.name for op in ACTIVATIONS)


SINGLE = tuple((name,) for name in NAMES)


FULL = (*SINGLE, ("add",), ("add", "relu"), ("relu", "add"))


def backend(**chains: tuple[tuple[str, ...], ...]) -> Backend:
    rules = tuple(KernelRule(vocab.lookup(n), "k", post=chain) for n, chain in chains.items())
    return Backend("fake", rules, {})


EVERYTHING = backend(**{op.name: FULL for op in CARRIERS})


CONV_RELU = backend(conv2d=(("relu",),))


def fused(result: Result) -> list[str]:
    """Every operation with its post-ops, in graph order."""
    nodes = [n for n in result.graph_module.graph.nodes if n.op == "call_function"]
    return ["+".join([n.target.name, *(p[0] for p in n.kwargs.get("post", ()))]) for n in nodes]


class Apply(nn.Module):
    """``function`` of a convolution."""

    def __init__(self, function: Callable[..., Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer or nn.Conv2d(3, 4, 3)
        self.function = function
        if isinstance(function, nn.Module):
            self.act = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


class Residual(nn.Module):
    """``combine(conv, x)``, with batch-norm after the convolution."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self.norm(self.conv(x)), x)


class TwoBranches(nn.Module):
    """``short`` is computed last; ``main`` may be read a second time."""

    def __init__(self, *, main_act: bool = False, short_read_twice: bool = False) -> None:
        super().__init__()
        self.main, self.short = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.main_act, self.short_read_twice = main_act, short_read_twice

    def forward(self, x: Tensor) -> Tensor:
        main = self.main(x)
        short = self.short(x)
        total = main + short
        return total * short.mean() if self.short_read_twice else total
