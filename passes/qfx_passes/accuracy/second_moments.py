"""Second moments of what a layer reads: all that a squared error of its output depends on.

With patches x (as the model has them) and x' (rounded), as columns, a layer computes W x + b, and
its rounded form Q x' + b'. Of N positions are kept

    u = E[x],  u' = E[x'],  S = E[x x^T],  C = E[x x'^T],  H = E[x' x'^T]

per group of channels, and so

    E |W x + b - Q x' - b'|^2 = tr(W S W^T - 2 W C Q^T + Q H Q^T) + ...

where moments are taken about the means if a bias makes these up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qfx import vocab
from qfx.graph import meta
from qfx.vocab import bound, is_op

UNFOLDED = tuple(op for op in vocab.OUTPUTS_FIRST if op.dims in (0, 1, 2))
"""Layers whose patches are known: F.unfold takes images."""

_COLUMNS = 256  # about so many of a batch, at least
_FOR_EACH = 8  # and so many for each value of a patch; more of the same images tell little


def patches(node: fx.Node, x: Tensor) -> Tensor:
    """(G, K, N) what positions of the output of a layer read of ``x``, per group.

    All of them, or some that are spread evenly.
    """
    if is_op(node, vocab.LINEAR):
        rows = x.reshape(-1, x.shape[-1])
        return rows[:: -(-len(rows) // _enough(x.shape[-1])) or 1].T.unsqueeze(0)
    arguments = bound(node)
    weight, groups = _shape(arguments["weight"]), arguments["groups"]
    dims = len(weight) - 2
    x = x if x.dim() == dims + 2 else x.unsqueeze(0)
    x = x if dims == 2 else x.unsqueeze(2)
    down, across = _pair(arguments["stride"], 1)
    sizes = len(x), -(-x.shape[2] // down), -(-x.shape[3] // across)
    apart = _apart(*sizes, most=_enough(math.prod(weight[1:])))
    columns = F.unfold(
        x,
        _pair(weight[2:], 1),
        dilation=_pair(arguments["dilation"], 1),
        padding=_pair(arguments["padding"], 0),
        stride=(down * apart, across * apart),
    )
    return columns.movedim(0, 1).reshape(groups, -1, columns.shape[0] * columns.shape[2])


def _enough(size: int) -> int:
    """How many patches of so many values are to be taken of a batch."""
    return max(_COLUMNS, _FOR_EACH * size)


def _apart(images: int, height: int, width: int, most: int) -> int:
    """How far positions of images are from each other, if few enough are to be taken."""
    far = range(1, max(height, width) + 1)
    few = (a for a in far if images * -(-height // a) * -(-width // a) <= most)
    return next(few, max(far))


def _shape(weight: fx.Node) -> tuple[int, ...]:
    info = meta.tensor_info(weight)
    assert info is not None
    return info.shape


def _pair(value: Any, first: int) -> tuple[int, int]:
    """A setting of a convolution of one or two dims, as that of two."""
    if isinstance(value, int):
        return (value, value)
    return (first, value[0]) if len(value) == 1 else (value[0], value[1])


@dataclass
class Moments:
    """Sums over positions, in float64.

    Attributes:
        count: of positions.
        mean, mean_rounded: (G, K) sums of x and x'.
        exact, mixed, rounded: (G, K, K) sums of x x^T, x x'^T and x' x'^T.
    """

    count: int
    mean: Tensor
    mean_rounded: Tensor
    exact: Tensor
    mixed: Tensor
    rounded: Tensor

    @classmethod
    def none(cls, groups: int, size: int, device: torch.device) -> Moments:
        """The moments of no position: zeros."""
        flat = [torch.zeros(groups, size, dtype=torch.float64, device=device) for _ in range(2)]
        square = [
            torch.zeros(groups, size, size, dtype=torch.float64, device=device) for _ in range(3)
        ]
        return cls(0, *flat, *square)

    def add(self, x: Tensor, rounded: Tensor) -> None:
        """Add (G, K, N) patches."""
        if not x.shape[2]:
            return
        x, rounded = x.float(), rounded.float()
        self.count += x.shape[2]
        self.mean += x.sum(2)
        self.mean_rounded += rounded.sum(2)
        self.exact += x @ x.mT
        self.mixed += x @ rounded.mT
        self.rounded += rounded @ rounded.mT

    def join(self, other: Moments) -> None:
        """Add those of other positions."""
        self.count += other.count
        self.mean += other.mean
        self.mean_rounded += other.mean_rounded
        self.exact += other.exact
        self.mixed += other.mixed
        self.rounded += other.rounded

    def about(self, *, means: bool) -> tuple[Tensor, Tensor]:
        """C and H: about the means, or about zero."""
        n = max(self.count, 1)
        mixed, rounded = self.mixed / n, self.rounded / n
        if means:
            u, v = self.means()
            mixed -= u.unsqueeze(2) * v.unsqueeze(1)
            rounded -= v.unsqueeze(2) * v.unsqueeze(1)
        return mixed, rounded

    def power(self) -> Tensor:
        """(G,) mean square of x'."""
        return self.rounded.diagonal(dim1=1, dim2=2).mean(1) / max(self.count, 1)

    def means(self) -> tuple[Tensor, Tensor]:
        """(G, K) means of x and of x'."""
        n = max(self.count, 1)
        return self.mean / n, self.mean_rounded / n

    def error(self, weight: Tensor, bias: Tensor, other: Tensor, other_bias: Tensor) -> float:
        """Mean squared error of the output of ``other``, which reads x', summed over channels.

        Args:
            weight: (G, O, K), with ``bias``, (G, O): the layer, which reads x.
            bias: of the layer.
            other: likewise, the layer in place of it.
            other_bias: of that.
        """
        u, v = self.means()
        power = _product(weight, self.exact, weight) - 2 * _product(weight, self.mixed, other)
        power = (power + _product(other, self.rounded, other)) / max(self.count, 1)
        off = applied(weight, u) - applied(other, v)
        varies = power - off.square().sum()
        return max(float(varies), 0.0) + float((off + bias - other_bias).square().sum())

    def exact_power(self, weight: Tensor, *, means: bool) -> float:
        """Mean of |W x|^2, summed over channels: about the mean of W x, or about zero."""
        power = _product(weight, self.exact, weight) / max(self.count, 1)
        if means:
            power = power - applied(weight, self.means()[0]).square().sum()
        return float(power)


def _product(weight: Tensor, moments: Tensor, other: Tensor) -> Tensor:
    """The trace of W M V^T, summed over groups."""
    return (weight @ moments * other).sum()


def applied(weight: Tensor, mean: Tensor) -> Tensor:
    """(G, O) what (G, O, K) weights make of (G, K) means."""
    return (weight @ mean.unsqueeze(2)).squeeze(2)
