"""Models that can't be captured whole: they branch on data, loop, keep caches and generate."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Convolution, batch-norm and relu, with an attribute that others read."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))

    @property
    def doubled(self) -> int:
        return 2 * self.out_channels


class Branches(nn.Module):
    """Branches on the contents of a tensor, and loops until a condition holds."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(Block(3, 8), nn.MaxPool2d(2), Block(8, 16))
        self.head = nn.Linear(16, 8)
        self.again = nn.Linear(8, 8)

    def forward(self, image: Tensor, *, most: int = 3) -> dict[str, Tensor]:
        features = self.backbone(image).mean((2, 3))
        if features.sum() > 1e6:
            features = features / features.sum()
        logits, steps = self.again(self.head(features)), 1
        while logits.abs().max() > 0.02 and steps < most:
            logits, steps = self.again(logits), steps + 1
        return {"logits": logits, "steps": torch.tensor(steps)}

    def describe(self) -> str:
        """A method of the user's that a graph would leave behind."""
        return f"{type(self).__name__} with {len(list(self.children()))} children"


class LooksInside(Branches):
    """Reads attributes, children and weights of its parts from outside."""

    def forward(self, image: Tensor, *, most: int = 3) -> dict[str, Tensor]:
        found = super().forward(image, most=most)
        found["width"] = torch.tensor(self.backbone[2].out_channels + self.backbone[2].doubled)
        found["first"] = self.head.weight[0, 0]
        return found


class Cache:
    """Keys and values of the tokens so far."""

    def __init__(self) -> None:
        self.held: list[Tensor] = []

    def add(self, entries: Tensor) -> Tensor:
        self.held = [torch.cat([*self.held, entries], dim=1)]
        return self.held[0]


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.out = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        keys = cache.add(self.key(x))
        weights = (self.query(x) @ keys.transpose(1, 2) / x.shape[-1] ** 0.5).softmax(-1)
        return self.out(weights @ keys)


class Feed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


class Decoder(nn.Module):
    """Generates as models of transformers do: ``generate`` calls it with a cache of its own."""

    def __init__(self, width: int = 32, words: int = 50) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.attention, self.feed = Attention(width), Feed(width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)

    def can_generate(self) -> bool:
        return True

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        x = self.embed(ids)
        x = x + self.attention(x, Cache() if cache is None else cache)
        return self.head(self.norm(x + self.feed(x)))

    @torch.no_grad()
    def generate(self, ids: Tensor, max_new_tokens: int = 5, do_sample: bool = False) -> Tensor:
        cache, read = Cache(), ids
        for _ in range(max_new_tokens):
            read = self(read, cache)[:, -1:].argmax(-1)
            ids = torch.cat([ids, read], dim=1)
        return ids


class Detector(nn.Module):
    """Keeps what scores high: as many rows as the data says, and decides by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(Block(3, 8), Block(8, 8))
        self.scores = nn.Conv2d(8, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        scores = self.scores(self.backbone(image)).flatten()
        kept = scores[scores > scores.mean()]
        return kept if kept.numel() > 40 else kept.sort().values
