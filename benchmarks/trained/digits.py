"""A CNN, a ViT and an LSTM that are trained here, in seconds, on scikit-learn's digits.

The images that are neither trained on nor calibrated with test, and their labels are known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.demo import DigitsNet
from tools.demo_data import BATCH, Digits, batches, load
from tools.demo_dynamic import RowReader

PACKAGES = ("sklearn",)


class Block(nn.Module):
    """Self-attention and a feed-forward network, each behind a norm and with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, T, width] to the same."""
        heads = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        x = x + self.projection(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        y: Tensor = x + self.outer(F.gelu(self.inner(self.norm2(x))))
        return y


class DigitsViT(nn.Module):
    """Patches of 8 x 8, three blocks, the mean of the tokens (Dosovitskiy et al. 2020)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 8, stride=8)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width, heads=4) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images f32[N, 1, 32, 32] to class scores f32[N, 10]."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        scores: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return scores


class Recipe(NamedTuple):
    """How a model is made and trained."""

    make: Callable[[], nn.Module]
    rate: float
    epochs: int


MODELS = {
    "digits-cnn": Recipe(DigitsNet, 1e-2, 4),
    "digits-vit": Recipe(DigitsViT, 2e-3, 16),
    "digits-lstm": Recipe(RowReader, 1e-2, 8),
}


def trained(name: str) -> tuple[nn.Module, Digits]:
    """The model in eval mode, the same each time, and the data of its training and test."""
    data = load()
    torch.manual_seed(0)
    model = MODELS[name].make()
    with torch.enable_grad():
        _train(model, MODELS[name], data)
    return model.eval().requires_grad_(False), data


def _train(model: nn.Module, recipe: Recipe, data: Digits) -> None:
    """Adam, with one cycle of the rate."""
    steps = recipe.epochs * -(-len(data.train[0]) // BATCH)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    for epoch in range(recipe.epochs):
        for images, labels in batches(*data.train, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
