"""Transformer encoders of the shapes of BERT-base and MiniLM, and BERT's linear layers alone.

After Devlin et al. 2019 (arXiv:1810.04805): post-norm layers, 12 heads, GELU. They take embedded
tokens, f32[N, T, width], so that all that is timed is the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

LAYERS, WIDTH, HEADS, INNER = 12, 768, 12, 3072


@dataclass(frozen=True)
class Size:
    """Of an encoder, and how many tokens it is given."""

    layers: int
    width: int
    heads: int
    inner: int
    tokens: int


BERT = Size(LAYERS, WIDTH, HEADS, INNER, 128)
MINILM = Size(6, 384, 12, 1536, 24)


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each with a residual and a norm."""

    def __init__(self, size: Size = BERT) -> None:
        super().__init__()
        width, self.heads = size.width, size.heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, size.inner), nn.Linear(size.inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, T, width] to the same."""
        heads = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.output(mixed))
        return self.norm2(x + self.down(F.gelu(self.up(x))))  # type: ignore[no-any-return]


class Linears(nn.Module):
    """The linear layers of a :class:`Layer`, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.output = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, T, 768] to f32[N, T, 768].

        As in BERT, query, key and value read the same and no layer's result is added to another's:
        a product stands for attention.
        """
        mixed = self.query(x) * self.key(x) * self.value(x)
        return self.down(self.up(self.output(mixed)))  # type: ignore[no-any-return]


def encoder(size: Size = BERT) -> nn.Module:
    """All layers."""
    return nn.Sequential(*(Layer(size) for _ in range(size.layers)))


def linears() -> nn.Module:
    """The linear layers of all twelve."""
    return nn.Sequential(*(Linears() for _ in range(LAYERS)))
