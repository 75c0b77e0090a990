"""Where the time of dynamic linear layers goes, on x86: what is left when a part is left out.

    python -m benchmarks.parts [--tokens 128] [--layers 12] [--threads 2]

The linear layers of BERT-base (six a block) run in turns as

* float: ``F.linear``;
* kernels: oneDNN's integer kernels alone, on codes that are at hand, query, key and value as one
  product. No form of quantization that calls these kernels is faster;
* + measured: the smallest and largest value of what each layer reads is found, too;
* + quantized: all that ``method="dynamic"`` does, without a graph around it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.encoder import INNER, WIDTH
from qfx.backends.onednn import packing
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.table import markdown

SHAPES = ((WIDTH, WIDTH),) * 4 + ((INNER, WIDTH), (WIDTH, INNER))
"""(out, in) of query, key, value, output, up and down."""
ALIKE = 3
"""How many of these read the same input: measured once, and one product."""

_linear = torch.ops.onednn.qlinear_pointwise.default
_FLOAT: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")


class Block:
    """The layers of one block: float weights, and packed ones."""

    def __init__(self, tokens: int) -> None:
        self.weights = [torch.randn(shape) * 0.02 for shape in SHAPES]
        self.biases = [torch.randn(out) * 0.02 for out, _ in SHAPES]
        self.packed = []
        products = [torch.cat(self.weights[:ALIKE]), *self.weights[ALIKE:]]
        for weight in products:
            scales = weight.abs().amax(1) / 127
            codes = (weight / scales[:, None]).round().to(torch.int8)
            packed = packing.pack_linear(codes, (1, tokens, codes.shape[1]))
            zeros = torch.zeros(len(scales), dtype=torch.int64)
            self.packed.append((packed, scales, zeros))
        self.packed_biases = [torch.cat(self.biases[:ALIKE]), *self.biases[ALIKE:]]
        self.codes = {
            width: torch.randint(0, 255, (1, tokens, width), dtype=torch.uint8)
            for width in (WIDTH, INNER)
        }

    def in_float(self, x: Tensor) -> Tensor:
        """In float32."""
        y, *_ = (F.linear(x, self.weights[i], self.biases[i]) for i in range(ALIKE))
        for i in range(ALIKE, len(SHAPES)):
            y = F.linear(y, self.weights[i], self.biases[i])
        return y

    def in_integers(
        self, x: Tensor, codes_of: Callable[[Tensor], tuple[Tensor, float, int]]
    ) -> Tensor:
        """In integers, with the codes and qparams that ``codes_of`` hands out."""
        y, *_ = self._run(codes_of(x), 0).chunk(ALIKE, -1)
        for i in range(1, len(self.packed)):
            y = self._run(codes_of(y), i)
        return y

    def at_hand(self, x: Tensor) -> tuple[Tensor, float, int]:
        """Codes that cost nothing."""
        return self.codes[x.shape[-1]], 0.05, 128

    def measured(self, x: Tensor) -> tuple[Tensor, float, int]:
        """Those, after the range was found."""
        for end in torch.aminmax(x):
            end.item()
        return self.at_hand(x)

    def _run(self, read: tuple[Tensor, float, int], i: int) -> Tensor:
        y: Tensor = _linear(*read, *self.packed[i], self.packed_biases[i], *_FLOAT)
        return y


def forms(blocks: Sequence[Block], x: Tensor) -> dict[str, Callable[[], None]]:
    """The ways to run all blocks."""

    def run(step: Callable[[Block, Tensor], Tensor]) -> Callable[[], None]:
        def call() -> None:
            y = x
            for block in blocks:
                y = step(block, y)

        return call

    def quantized(y: Tensor) -> tuple[Tensor, float, int]:
        return quantize_dynamic(y, overwrite=y is not x)

    return {
        "float": run(Block.in_float),
        "kernels": run(lambda b, y: b.in_integers(y, b.at_hand)),
        "+ measured": run(lambda b, y: b.in_integers(y, b.measured)),
        "+ quantized": run(lambda b, y: b.in_integers(y, quantized)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    blocks = [Block(options.tokens) for _ in range(options.layers)]
    calls = forms(blocks, torch.randn(1, options.tokens, WIDTH))
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for _ in range(options.rounds):
            for name, call in calls.items():
                call()  # wake the caches
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(each) for name, each in times.items()}
    rows = [
        [
            name,
            f"{medians[name]:.2f}",
            f"{min(times[name]):.2f}",
            f"{medians['float'] / medians[name]:.2f}",
        ]
        for name in calls
    ]
    print(markdown(["linear layers of BERT-base", "median ms", "min ms", "x float"], rows))


if __name__ == "__main__":
    main()
