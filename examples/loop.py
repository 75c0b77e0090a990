"""A greedy decoder: a GRU in a Python loop that stops when it says so, quantized as it is written.

    python -m examples.loop [--width 256] [--method dynamic]

No graph holds such a loop. qfx quantizes the layers in place, and the loop stays Python. The
weights are random: what is printed is how far the quantized decoder is from the float one.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr

STOP = 0


class Translator(nn.Module):
    """Reads a sentence with one GRU, and writes another with a second, word by word."""

    def __init__(self, words: int = 1000, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.reads = nn.GRU(width, width, layers, batch_first=True)
        self.writes = nn.GRU(width, width, layers, batch_first=True)
        self.words = nn.Linear(width, words)

    def forward(self, sentence: Tensor, most: int = 16) -> tuple[Tensor, Tensor]:
        """Words that follow ``sentence`` (batch, length), and the logits that they come from."""
        _, state = self.reads(self.embed(sentence))
        word = sentence[:, -1:]
        words, logits = [], []
        for _ in range(most):
            said, state = self.writes(self.embed(word), state)
            logits.append(self.words(said[:, -1]))
            word = logits[-1].argmax(-1, keepdim=True)
            words.append(word)
            if bool((word == STOP).all()):
                break
        return torch.cat(words, 1), torch.stack(logits, 1)


class Numbers(NamedTuple):
    """What came out.

    Attributes:
        first_logits: SQNR of the logits of the first word, in dB.
        same: fraction of the words that float says, up to the first that differs.
        coverage: fraction of the multiply-accumulates in integers.
        size: bytes before and after.
        seconds: for decoding once, in float and quantized.
    """

    first_logits: float
    same: float
    coverage: float
    size: tuple[int, int]
    seconds: tuple[float, float]


@torch.no_grad()
def run(*, words: int = 1000, width: int = 256, method: str = "dynamic") -> Numbers:
    """Quantize a decoder with random weights and compare it."""
    torch.manual_seed(0)
    model, sentence = Translator(words, width).eval(), torch.randint(1, words, (1, 12))
    quantized: nn.Module = qfx.quantize(model, sentence, method=method)
    print(quantized.regions)
    times = []
    for each in (model, quantized):
        each(sentence)
        start = time.perf_counter()
        each(sentence)
        times.append(time.perf_counter() - start)
    expected, theirs = model(sentence)
    found, ours = quantized(sentence)
    least = min(len(expected[0]), len(found[0]))
    agree = (expected[:, :least] == found[:, :least]).cumprod(1)
    report: qfx.QuantizationReport = quantized.report  # type: ignore[assignment]
    return Numbers(
        sqnr(theirs[:, 0], ours[:, 0]),
        float(agree.sum()) / expected.numel(),
        report.coverage or 0.0,
        report.size_bytes,
        (times[0], times[1]),
    )


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--method", default="dynamic", choices=("dynamic", "weight_only", "static"))
    chosen = parser.parse_args()
    numbers = run(width=chosen.width, method=chosen.method)
    print(f"\nlogits of the first word: {numbers.first_logits:.1f} dB")
    print(f"words as in float: {numbers.same:.0%}; MACs in integers: {numbers.coverage:.1%}")
    print("bytes: {:,} -> {:,}".format(*numbers.size))
    print("seconds: {:.4f} -> {:.4f}".format(*numbers.seconds))


if __name__ == "__main__":
    main()
