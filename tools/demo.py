"""Train a small CNN on scikit-learn's digits, quantize it with qfx, and show what changed.

    python tools/demo.py [--out demo-output]        (or: make demo)

Prints accuracy, size and latency before and after, what every pass did to the graph, and the
report; the folder gets the graph at every stage as text, DOT and JSON, the diffs between them, and
the report. The latency here is of one process on the machine as it is;
``python -m benchmarks.latency`` is the careful measurement.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "passes")]  # so that it runs from a checkout

import qfx  # noqa: E402
from qfx.table import table  # noqa: E402
from tools import demo_dynamic, demo_qat  # noqa: E402
from tools.demo_data import (  # noqa: E402
    BATCH,
    Digits,
    batches,
    load,
    row_accuracy,
    row_latency,
    row_size,
    table_head,
)

EPOCHS = 4
CALIBRATION_BATCHES = 8


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
        return self.relu(self.bn2(self.conv2(y)) + x)  # type: ignore[no-any-return]


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
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"  epoch {epoch + 1}/{EPOCHS}: loss {statistics.mean(losses):.4f}", flush=True)
    model.eval()


def show_results(model: nn.Module, quantized: qfx.QuantizedModel, data: Digits) -> None:
    """The table of the demo: accuracy, size, latency, before and after."""
    table_head()
    row_accuracy(model, quantized, data)
    row_size(*quantized.report.size_bytes)
    for batch in (1, 64):
        row_latency(f"batch {batch}", (model, quantized), data.test[0][:batch])


def show_stages(history: qfx.History) -> None:
    """A line a pass: how large the graph is after it, and what it changed."""
    header = ["stage", "nodes", "added", "removed", "changed", "ms"]
    rows = []
    for stage in history:
        counts = ["", "", ""]
        if stage.index:
            diff = history.diff(stage.index - 1, stage.index)
            counts = [str(len(part)) for part in (diff.added, diff.removed, diff.changed)]
        nodes, took = str(len(stage.snapshot.records)), f"{1e3 * stage.seconds:.1f}"
        rows.append([f"{stage.index:2} {stage.name}", nodes, *counts, took])
    print(f"\n{table(header, rows, right=header[1:])}")


def write(quantized: qfx.QuantizedModel, folder: Path) -> None:
    """Every stage and diff of the history, and the report."""
    folder.mkdir(parents=True, exist_ok=True)
    quantized.history.dump(folder / "stages")
    (folder / "report.txt").write_text(f"{quantized.report}\n")
    quantized.report.to_html(folder / "report.html")


def keep(quantized: qfx.QuantizedModel, example: torch.Tensor, folder: Path) -> None:
    """A file to load again, an ONNX file, and what checking both says."""
    kept = qfx.save(quantized, folder / "digits.qfx")
    same = torch.equal(qfx.load(kept)(example), quantized(example))
    size, verdict = kept.stat().st_size / 1e3, "the same" if same else "NOT the same"
    print(f"\n{kept}: {size:.1f} kB; loaded again, its outputs are {verdict}")
    if importlib.util.find_spec("onnxruntime") is None:
        print("no ONNX file: pip install qfx[onnx]")
        return
    exported = folder / "digits.onnx"
    print(qfx.export_onnx(quantized, exported, example_inputs=example))
    print(qfx.check_onnx(quantized, exported, example))


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
    demo_dynamic.show_row_reader(data)
    demo_dynamic.show_sentence_encoder()
    demo_qat.show(model, calibration, data)
    keep(quantized, data.test[0][:8], folder)
    print(f"\nThe graph at every stage, and the diffs: {folder}/stages")
    print(f"What was quantized, what was not, and why: {folder}/report.html (and .txt)")


if __name__ == "__main__":
    main()
