"""The training part of the demo: float, calibrated and trained, at fewer and fewer bits.

Weights of 4 and 2 bits are codes of a narrower range, for the same 8-bit kernels: they show what is
left of the accuracy, and would be as fast as others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import qfx
from qfx.table import table
from tools.demo_data import BATCH, Digits, accuracy, batches

EPOCHS = 3
BITS = (8, 4, 2)


@dataclass(frozen=True)
class Row:
    """Accuracies at one width of weights."""

    bits: int
    float32: float
    calibrated: float
    trained: float


def config(bits: int, observer: str) -> qfx.QConfig:
    """8-bit activations, and weights of ``bits``, per channel and symmetric."""
    most = 2 ** (bits - 1) - 1
    weight = qfx.QuantSpec(
        torch.int8, symmetric=True, per_channel=True, quant_min=-most, quant_max=most
    )
    return qfx.QConfig(activation=qfx.QuantSpec(torch.uint8, observer=observer), weight=weight)


def fine_tune(
    model: nn.Module, calibrated: qfx.QuantizedModel, bits: int, data: Digits, *, progress: bool
) -> qfx.QuantizedModel:
    """Quantization-aware training from where calibration ended; ``model`` stays as it is."""
    qconfig = config(bits, "moving_average_minmax")
    example = data.train[0][:BATCH]
    prepared = qfx.prepare(
        model, example, method="qat", qconfig=qconfig, backend=calibrated.backend,
        qparams_from=calibrated,
    ).train()  # fmt: skip
    steps = EPOCHS * -(-len(data.train[0]) // BATCH)
    optimizer = torch.optim.Adam(prepared.parameters(), 3e-4)
    freezing = qfx.QATSchedule(
        prepared, freeze_observers=2 * steps // 3, freeze_batchnorm=5 * steps // 6
    )
    bar = tqdm(total=steps, desc=f"training, {bits}-bit weights", disable=not progress)
    with bar:
        for epoch in range(EPOCHS):
            for images, labels in batches(*data.train, seed=100 + epoch):
                optimizer.zero_grad()
                loss = F.cross_entropy(prepared(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                freezing.step()
                bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                bar.update()
    return qfx.convert(prepared)


def compare(
    model: nn.Module, calibration: list[Tensor], data: Digits, bits: int, *, progress: bool = False
) -> Row:
    """Accuracies of ``model``, calibrated, and trained, with weights of ``bits``."""
    calibrated = qfx.quantize(
        model, calibration[0], calibration_data=calibration, qconfig=config(bits, "histogram"),
        progress=False,
    )  # fmt: skip
    trained = fine_tune(model, calibrated, bits, data, progress=progress)
    found = (accuracy(m, *data.test) for m in (model, calibrated, trained))
    return Row(bits, *found)


def show(model: nn.Module, calibration: list[Tensor], data: Digits) -> None:
    """A row for each width."""
    print("\n5. quantization-aware training of the CNN, from where calibration ended")
    progress = sys.stderr.isatty()
    rows = [compare(model, calibration, data, bits, progress=progress) for bits in BITS]
    header = ["weights", "float32", "calibrated", "trained"]
    cells = [
        [f"{row.bits} bits", *(f"{a:.2%}" for a in (row.float32, row.calibrated, row.trained))]
        for row in rows
    ]
    print(f"\n{table(header, cells, right=header[1:])}")
