"""Generated models of a given number of graph nodes, cheap to run and numerically tame.

Layers are tiny, so that time goes to the graph and not to arithmetic, and near the identity
(W = I + O(1/depth) or x + O(1/depth)), so that a hundred thousand of them neither vanish nor
overflow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH = 8


class ResidualLinear(nn.Module):
    """``x = x + relu(linear(x))``, three operations a block; takes f32[N, 8]."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        blocks = max(1, nodes // 3)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.div_(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, 8] to f32[N, 8]."""
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x


def conv_chain(nodes: int) -> nn.Sequential:
    """Chain of conv 3x3, batch-norm, relu: three operations a block; takes f32[N, 8, H, W]."""
    blocks = max(1, nodes // 3)
    layers: list[nn.Module] = []
    for _ in range(blocks):
        conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        with torch.no_grad():
            noise = conv.weight.clone()
            nn.init.dirac_(conv.weight).add_(noise, alpha=1 / blocks)
        # eps 0: with 1e-5 in each of them, 33,000 batch-norms would shrink the signal by 15 %
        layers += [conv, nn.BatchNorm2d(WIDTH, eps=0.0), nn.ReLU()]
    return nn.Sequential(*layers)


GENERATORS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "linear": (ResidualLinear, (2, WIDTH)),
    "conv": (conv_chain, (1, WIDTH, 4, 4)),
}


def generate(kind: str, nodes: int) -> tuple[nn.Module, Tensor]:
    """A seeded model of about ``nodes`` operations in eval mode, and an input for it."""
    make, shape = GENERATORS[kind]
    torch.manual_seed(0)
    return make(nodes).eval(), torch.randn(shape)
