"""Exporting models and running them with ONNX Runtime, in tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import qfx
from qfx.export.onnx.check import OnnxCheck
from qfx.export.onnx.export import OnnxFile

SEVEN_BITS = qfx.QConfig(
    activation=qfx.QuantSpec(torch.uint8, observer="histogram", quant_max=127),
    weight=qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127),
)
"""Codes whose products no kernel saturates, whatever the CPU."""

MEASURED = qfx.QConfig(
    activation=qfx.QuantSpec(torch.uint8, dynamic=True, quant_max=127), weight=SEVEN_BITS.weight
)
"""The same, measured at run time."""


@dataclass(frozen=True)
class Exported:
    """A model that went through a file, and how it came out."""

    qmodel: qfx.QuantizedModel
    file: OnnxFile
    check: OnnxCheck


def export(model: nn.Module, inputs: Any, **options: Any) -> Exported:
    """Quantize for the reference backend, write a file, and hold it against the model.

    Args:
        model: the float model.
        inputs: as ``qfx.quantize`` takes them.
        options: of ``qfx.quantize``; ``form``, ``opset`` and ``dynamic_shapes`` of the export.
    """
    names = ("form", "opset", "dynamic_shapes")
    of_export = {name: options.pop(name) for name in names if name in options}
    of_export.setdefault("form", "exact")  # what "auto" takes, the machine decides
    qmodel = quantized(model, inputs, **options)
    return written(qmodel, inputs, **of_export)


def quantized(model: nn.Module, inputs: Any, **options: Any) -> qfx.QuantizedModel:
    """``model`` for the reference backend, activations in 7 bits."""
    options.setdefault("backend", "reference")
    bits = {"static": SEVEN_BITS, "dynamic": MEASURED}.get(options.get("method", "static"))
    options.setdefault("qconfig", bits)
    return qfx.quantize(model.eval(), inputs, **options)


def written(qmodel: qfx.QuantizedModel, inputs: Any, **options: Any) -> Exported:
    """Write a file, and hold it against the model."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        file = qfx.export_onnx(qmodel, path, **options)
        return Exported(qmodel, file, qfx.check_onnx(qmodel, path, inputs))
