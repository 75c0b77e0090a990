"""A model with a ``generate`` of its own, as nanoGPT's, keeps it: it is quantized in regions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr


class NanoGPT(nn.Module):
    """Reads its last words anew for each new one; the embedding is the head."""

    def __init__(self, width: int = 32, words: int = 40, most: int = 8) -> None:
        super().__init__()
        self.most = most
        self.embed, self.places = nn.Embedding(words, width), nn.Embedding(most, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(2)
        )
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x), None

    @torch.no_grad()
    def generate(self, ids: Tensor, max_new_tokens: int, temperature: float = 1.0) -> Tensor:
        for _ in range(max_new_tokens):
            logits = self(ids[:, -self.most :])[0][:, -1] / temperature
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        return ids


torch.manual_seed(0)
MODEL, IDS = NanoGPT().eval(), torch.randint(0, 40, (2, 5))


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_it_generates_as_before(method: str) -> None:
    quantized = qfx.quantize(MODEL, IDS, method=method)
    assert type(quantized) is NanoGPT
    assert list(quantized.regions) == ["embed", "places", "blocks.0", "blocks.1", "head"]
    ids = quantized.generate(IDS, 12)  # longer than what it reads
    assert ids.shape == (2, 17)
    assert sqnr(MODEL(ids[:, -8:])[0], quantized(ids[:, -8:])[0]) > 20
    # It reads many rows at a time, which is what "auto" is best at.
    assert quantized.report.backend == qfx.backends.detect()


def test_the_whole_can_be_had_without_it() -> None:
    quantized = qfx.quantize(MODEL, IDS, method="dynamic", regions="whole")
    assert isinstance(quantized, torch.fx.GraphModule)
    assert sqnr(MODEL(IDS)[0], quantized(IDS)[0]) > 20
