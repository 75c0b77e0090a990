"""What ONNX can't say is an ExportError that names the site, whatever the model holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.support.onnx import quantized


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.rfft(self.layer(x)).abs())


class Rotated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("turn", torch.ones(8, dtype=torch.complex64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        return y, y * self.turn


def refused(model: nn.Module, folder: Path, **options: Any) -> qfx.ExportError:
    qmodel = quantized(model, torch.randn(4, 8))
    with pytest.raises(qfx.ExportError) as raised:
        qfx.export_onnx(qmodel, folder / "m.onnx", **options)
    assert "vocabulary" not in str(raised.value)
    assert not list(folder.iterdir())
    return raised.value


def test_complex_values(tmp_path: Path) -> None:
    (site,) = refused(Spectrum(), tmp_path).problems
    assert site.message == "fft_rfft, which can't be written to ONNX"
    assert "test_refusals.py" in site.source


def test_complex_constants(tmp_path: Path) -> None:
    (site,) = refused(Rotated(), tmp_path).problems
    assert site.message == "tensors of torch.complex64 can't be written to ONNX"
    assert "real and imaginary parts" in site.remedy


class Sliding(nn.Module):
    """Windows of as many rows as a batch has, over a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.rows = nn.Parameter(torch.ones(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((self.rows * 2).unfold(0, x.shape[0], 1).mT + x)


def test_sizes_that_are_computed(tmp_path: Path) -> None:
    (site, *_) = refused(Sliding(), tmp_path, dynamic_shapes={"x": {0: "batch"}}).problems
    assert site.message.startswith("windows with a size or number that is computed")
    assert site.remedy == "Fix that size."


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate, self.head = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(self.layer(x)))


def test_a_module_with_hooks(tmp_path: Path) -> None:
    model = Gated()
    model.gate.register_forward_hook(lambda module, args, made: made * 2)
    options: dict[str, Any]
    for options in ({}, {"dynamic_shapes": {"x": {0: "n"}}}):
        (site,) = refused(model, tmp_path, **options).problems
        assert site.module_path == "gate"
        assert "test_refusals.py" in site.source
        assert site.message.startswith("torch.nn.modules.activation.ReLU is a module")
        assert "has hooks" in site.message
        assert site.remedy == "Remove the hook, then quantize again."


def test_a_module_that_qfx_does_not_know(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Unflatten(1, (2, 2, 2)), nn.CrossMapLRN2d(2))
    (site,) = refused(model, tmp_path).problems
    assert "CrossMapLRN2d" in site.message


class Chosen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y[torch.nonzero(x[:, 0] > 0).flatten()]


def test_sizes_that_the_numbers_in_tensors_decide(tmp_path: Path) -> None:
    (site,) = refused(Chosen(), tmp_path).problems
    assert "test_refusals.py" in site.source
    assert site.message.startswith("sizes that the numbers in tensors decide")
