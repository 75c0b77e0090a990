"""Train a small CNN on scikit-learn's digits, quantize it with qfx, and show what changed.

    python tools/demo.py [--out demo-output]        (or: make demo)

Prints accuracy, size and latency before and after, what every pass did to the graph, and the
report; the folder gets the graph at every stage as text, DOT and JSON, the diffs between them, and
the report. The latency here is of one process on the machine as it is;
``python -m benchmarks.latency`` is the careful measurement.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import qfx

EPOCHS = 4
BATCH = 64
TEST_IMAGES = 397
CALIBRATION_BATCHES = 8
EDGE = 32


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, C, H, W] to the same shape."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Separable(nn.Module):
    """A depthwise convolution with stride 2, then a pointwise one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False
        )
        self.bn1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, inputs, H, W] to f32[N, outputs, H/2, W/2]."""
        x = F.relu6(self.bn1(self.depthwise(x)))
        return F.relu6(self.bn2(self.pointwise(x)))


class DigitsNet(nn.Module):
    """Stem, residual and depthwise-separable blocks, and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.body = nn.Sequential(
            Residual(32), Separable(32, 64), Residual(64), Separable(64, 128), Residual(128)
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images f32[N, 1, 32, 32] to class scores f32[N, 10]."""
        x = self.body(self.stem(x))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        scores: Tensor = self.head(self.dropout(x))
        return scores


@dataclass(frozen=True)
class Digits:
    """Images f32[N, 1, 32, 32] and labels i64[N], split once with a fixed seed."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load() -> Digits:
    """scikit-learn's 1797 digits of 8x8 pixels, enlarged; nothing is downloaded."""
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
    for indices in order.split(BATCH):
        yield images[indices], labels[indices]


def train(model: nn.Module, data: Digits) -> None:
    """Train in place with Adam and a one-cycle schedule; leaves the model in eval mode."""
    steps = EPOCHS * -(-len(data.train[0]) // BATCH)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        losses = []
        for images, labels in batches(*data.train, seed=epoch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"  epoch {epoch + 1}/{EPOCHS}: loss {statistics.mean(losses):.4f}", flush=True)
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of test images that are classified correctly."""
    return float((model(images).argmax(1) == labels).float().mean())


@torch.no_grad()
def latencies(models: Sequence[nn.Module], images: Tensor, rounds: int = 15) -> list[float]:
    """Median seconds of a forward pass, each model in turn in every round."""
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, times in zip(models, seconds, strict=True):
            model(images)  # wake the caches
            for _ in range(5):
                start = time.perf_counter()
                model(images)
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def show_results(model: nn.Module, quantized: qfx.QuantizedModel, data: Digits) -> None:
    """The table of the demo: accuracy, size, latency, before and after."""
    images, labels = data.test
    before, after = (accuracy(m, images, labels) for m in (model, quantized))
    size_before, size_after = quantized.report.size_bytes
    print(f"\n{'':34}{'float32':>12}{'qfx int8':>12}{'ratio':>9}")
    print(f"{f'accuracy on {len(images)} test images':34}{before:>12.2%}{after:>12.2%}")
    ratio = size_before / size_after
    kilobytes = f"{size_before / 1e3:>9.1f} kB{size_after / 1e3:>9.1f} kB"
    print(f"{'parameters, buffers, qparams':34}{kilobytes}{ratio:>8.2f}x")
    for batch in (1, 64):
        slow, fast = latencies((model, quantized), images[:batch])
        times = f"{1e3 * slow:>9.3f} ms{1e3 * fast:>9.3f} ms"
        print(f"{f'latency, batch {batch} (median)':34}{times}{slow / fast:>8.2f}x")


def show_stages(history: qfx.History) -> None:
    """A line a pass: how large the graph is after it, and what it changed."""
    print(f"\n{'stage':34}{'nodes':>8}{'added':>8}{'removed':>8}{'changed':>8}{'ms':>9}")
    for stage in history:
        counts = ["", "", ""]
        if stage.index:
            diff = history.diff(stage.index - 1, stage.index)
            counts = [str(len(part)) for part in (diff.added, diff.removed, diff.changed)]
        cells = "".join(f"{count:>8}" for count in (len(stage.snapshot.records), *counts))
        print(f"{f'{stage.index:2} {stage.name}':34}{cells}{1e3 * stage.seconds:>9.1f}")


def write(quantized: qfx.QuantizedModel, folder: Path) -> None:
    """Every stage and diff of the history, and the report."""
    folder.mkdir(parents=True, exist_ok=True)
    quantized.history.dump(folder / "stages")
    (folder / "report.txt").write_text(f"{quantized.report}\n")
    quantized.report.to_html(folder / "report.html")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder to write")
    folder = parser.parse_args(arguments).out
    torch.manual_seed(0)
    data, model = load(), DigitsNet()

    print("1. training a CNN (conv + batch-norm + relu, residual, depthwise) on 1400 digits")
    start = time.perf_counter()
    train(model, data)
    print(f"  took {time.perf_counter() - start:.1f} s")

    print("2. quantizing it: qfx.quantize(model, example, calibration_data=...)")
    calibration = [images for images, _ in batches(*data.train, seed=EPOCHS)][:CALIBRATION_BATCHES]
    start = time.perf_counter()
    quantized = qfx.quantize(model, calibration[0], calibration_data=calibration, progress=False)
    print(f"  took {time.perf_counter() - start:.1f} s")

    show_results(model, quantized, data)
    show_stages(quantized.history)
    print(f"\n{quantized.report}")
    write(quantized, folder)
    print(f"\nThe graph at every stage, and the diffs: {folder}/stages")
    print(f"What was quantized, what was not, and why: {folder}/report.html (and .txt)")


if __name__ == "__main__":
    main()
