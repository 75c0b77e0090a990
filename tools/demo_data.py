"""What the parts of the demo share: scikit-learn's digits, accuracy and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 64
TEST_IMAGES = 397
EDGE = 32


@dataclass(frozen=True)
class Digits:
    """Images f32[N, 1, 32, 32] and labels i64[N], split once with a fixed seed."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load() -> Digits:
    """scikit-learn's 1797 digits of 8x8 pixels, enlarged; nothing is downloaded."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SystemExit(f"{error}: pip install scikit-learn") from error
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=(EDGE, EDGE), mode="bilinear", align_corners=False)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order] - 0.3, labels[order]
    split = len(images) - TEST_IMAGES
    return Digits((images[:split], labels[:split]), (images[split:], labels[split:]))


def batches(images: Tensor, labels: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one epoch."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    for indices in order.split(BATCH):  # type: ignore[no-untyped-call]
        yield images[indices], labels[indices]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of test images that are classified correctly."""
    return float((model(images).argmax(1) == labels).float().mean())


@torch.no_grad()
def latencies(models: Sequence[nn.Module], *inputs: Tensor, rounds: int = 15) -> list[float]:
    """Median seconds of a forward pass, each model in turn in every round."""
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, times in zip(models, seconds, strict=True):
            model(*inputs)  # wake the caches
            for _ in range(5):
                start = time.perf_counter()
                model(*inputs)
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def table_head() -> None:
    """The head of a table of results."""
    print(f"\n{'':34}{'float32':>12}{'qfx int8':>12}{'ratio':>9}")


def row_accuracy(model: nn.Module, quantized: nn.Module, data: Digits) -> None:
    """A row of accuracies."""
    before, after = (accuracy(m, *data.test) for m in (model, quantized))
    print(f"{f'accuracy on {len(data.test[0])} test images':34}{before:>12.2%}{after:>12.2%}")


def row_size(before: int, after: int) -> None:
    """A row of sizes, in bytes."""
    sizes = f"{before / 1e3:>9.1f} kB{after / 1e3:>9.1f} kB"
    print(f"{'parameters, buffers, qparams':34}{sizes}{before / after:>8.2f}x")


def row_latency(what: str, models: Sequence[nn.Module], *inputs: Tensor) -> None:
    """A row of median latencies."""
    slow, fast = latencies(models, *inputs)
    times = f"{1e3 * slow:>9.3f} ms{1e3 * fast:>9.3f} ms"
    print(f"{f'latency, {what} (median)':34}{times}{slow / fast:>8.2f}x")
