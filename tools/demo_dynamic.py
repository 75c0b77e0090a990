"""The dynamic part of the demo: an LSTM that reads digits row by row, and a sentence encoder.

Neither is calibrated: activations are measured when the model runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qfx
from tools import minilm
from tools.demo_data import (
    BATCH,
    Digits,
    batches,
    row_accuracy,
    row_latency,
    row_size,
    table_head,
)

EPOCHS = 8
SENTENCES = 200


class RowReader(nn.Module):
    """Reads an image of 32 rows of 32 pixels, as a sequence, in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 128, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images f32[N, 1, 32, 32] to class scores f32[N, 10]."""
        rows, _ = self.lstm(x.squeeze(1))
        scores: Tensor = self.head(rows.mean(1))
        return scores


def train(model: nn.Module, data: Digits) -> None:
    """Train in place with Adam; leaves the model in eval mode."""
    steps = EPOCHS * -(-len(data.train[0]) // BATCH)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for epoch in range(EPOCHS):
        for images, labels in batches(*data.train, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    model.eval()


def show_row_reader(data: Digits) -> None:
    """Train and quantize the LSTM; prints accuracy, size and latency before and after."""
    torch.manual_seed(0)
    model = RowReader()
    print(
        "\n3. training an LSTM that reads the same digits row by row, and quantizing it dynamically"
    )
    start = time.perf_counter()
    train(model, data)
    print(f"  took {time.perf_counter() - start:.1f} s")
    images, _ = data.test
    quantized = qfx.quantize(model, images[:1], method="dynamic")
    table_head()
    row_accuracy(model, quantized, data)
    row_size(*quantized.report.size_bytes)
    row_latency("batch 1", (model, quantized), images[:1])


def show_sentence_encoder() -> None:
    """Quantize MiniLM; prints how near its embeddings are, and what else changed."""
    print('\n4. MiniLM, a sentence encoder with real weights: method="dynamic"')
    if minilm.missing():
        print(f"  left out: {', '.join(minilm.missing())} not installed (make demo installs them)")
        return
    model, sentences = minilm.load(), minilm.sentences(SENTENCES)
    quantized = qfx.quantize(model, minilm.tokenize(sentences[:4]), method="dynamic")
    before, after = (embeddings(m, sentences) for m in (model, quantized))
    similar = F.cosine_similarity(before, after, dim=-1)
    table_head()
    mean, least = f"mean {similar.mean():.4f}", f"least {similar.min():.4f}"
    print(f"{f'cosine on {len(sentences)} real sentences':34}{mean:>24}{least:>14}")
    row_size(*quantized.report.size_bytes)
    row_latency("one sentence", (model, quantized), *minilm.tokenize(sentences[:1]))


@torch.no_grad()
def embeddings(model: nn.Module, sentences: Sequence[str]) -> Tensor:
    """f32[N, width], a sentence at a time."""
    return torch.cat([model(*minilm.tokenize([sentence])) for sentence in sentences])
