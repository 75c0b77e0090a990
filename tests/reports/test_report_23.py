"""Told to use less than the CPU has (``ONEDNN_MAX_CPU_ISA``), oneDNN saturated: 7 to 26 dB."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.backends import fbgemm, resolve_backend, saturation, x86
from qfx.backends.onednn import saturation as onednn_saturation
from qfx.backends.quantized import saturation as quantized_saturation
from qfx.backends.quantized.saturation import Layers
from tests.backends.quantized.test_quantized_convs import bright, loud

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(64, 64), (16, 64)),
    "one row": (lambda: nn.Linear(256, 16), (1, 256)),
    "image": (lambda: nn.Conv2d(3, 16, 7, 2, 3), (2, 3, 32, 32)),
    "dense": (lambda: nn.Conv2d(64, 64, 3), (1, 64, 9, 9)),
    "1x1": (lambda: nn.Conv2d(64, 64, 1), (1, 64, 7, 7)),
    "groups": (lambda: nn.Conv2d(16, 32, 3, groups=4), (1, 16, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(32, 32, 3, groups=32), (1, 32, 9, 9)),
    "sequence": (lambda: nn.Conv1d(16, 16, 3), (1, 16, 20)),
    "volume": (lambda: nn.Conv3d(8, 8, 3), (1, 8, 6, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(16, 16, 4, 2, 1), (1, 16, 8, 8)),
}


def off(model: nn.Module, qmodel: nn.Module, x: Tensor) -> float:
    """Largest error, as a fraction of the largest result."""
    with torch.no_grad():
        y = model(x)
        return float((qmodel(x) - y).abs().max() / y.abs().max())


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_no_layer_saturates(backend: str, method: str) -> None:
    for name, (make, shape) in NETS.items():
        model, x = loud(make()), bright(*shape)
        if resolve_backend(backend).rule(qfx.vocab.lookup(_op(model))) is None:
            continue
        try:
            qmodel = qfx.quantize(model, x, backend=backend, method=method)
        except qfx.CoverageError:
            continue  # no kernel of that method
        assert off(model, qmodel, x) < 0.03, name


def _op(model: nn.Module) -> str:
    return {"Linear": "linear", "ConvTranspose2d": "conv_transpose2d"}.get(
        type(model).__name__, type(model).__name__.lower()
    )


RUN = """
import torch, qfx
from qfx.backends import saturation, x86, fbgemm
from tests.reports.test_report_23 import NETS, off
from tests.backends.quantized.test_quantized_convs import bright, loud
assert not saturation._verdicts  # importing measures nothing
for name, (make, shape) in NETS.items():
    model, x = loud(make()), bright(*shape)
    assert off(model, qfx.quantize(model, x, backend="x86"), x) < 0.03, name
"""


@pytest.mark.slow
def test_no_layer_saturates_with_less_than_the_cpu_has() -> None:
    environment = {
        **os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def exact_linear(rows: int, inputs: int, outputs: int) -> Tensor:
    return torch.full((rows, outputs), saturation.LARGEST * inputs)


def exact_conv(dims: int, inputs: int, outputs: int, size: int, groups: int) -> Tensor:
    terms = saturation.products(dims, inputs, outputs, size, groups)
    return torch.full((1, outputs), saturation.LARGEST * terms)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing measured yet, and kernels that do not saturate."""
    monkeypatch.setattr(saturation, "_verdicts", {})
    monkeypatch.setattr(onednn_saturation, "_linear", exact_linear)
    monkeypatch.setattr(onednn_saturation, "_conv", exact_conv)
    return monkeypatch


def test_all_eight_bits_where_nothing_saturates(unmeasured: pytest.MonkeyPatch) -> None:
    assert not onednn_saturation.saturates()
    backend = x86.backend()
    bounds = [backend.defaults[m].activation.bounds for m in ("static", "dynamic", "qat")]  # type: ignore[union-attr]
    assert bounds == [(0, 255)] * 3
    assert not backend.saturates


@pytest.mark.parametrize("shape", saturation.LINEARS, ids=str)
def test_one_linear_that_saturates_decides(
    shape: tuple[int, int, int], unmeasured: pytest.MonkeyPatch
) -> None:
    def half(*sizes: int) -> Tensor:
        return exact_linear(*sizes) / (2 if sizes == shape else 1)  # type: ignore[call-arg]

    unmeasured.setattr(onednn_saturation, "_linear", half)
    assert onednn_saturation.saturates()
    assert x86.backend().defaults["static"].activation.bounds == (0, 127)  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [*saturation.CONVOLUTIONS, *saturation.DEPTHWISE], ids=str)
def test_one_convolution_that_saturates_decides(
    shape: tuple[int, ...], unmeasured: pytest.MonkeyPatch
) -> None:
    def half(*sizes: int) -> Tensor:
        return exact_conv(*sizes) / (2 if sizes == shape else 1)  # type: ignore[call-arg]

    unmeasured.setattr(onednn_saturation, "_conv", half)
    assert onednn_saturation.saturates()


def test_it_is_measured_once(unmeasured: pytest.MonkeyPatch) -> None:
    runs: list[tuple[int, ...]] = []

    def counted(*sizes: int) -> Tensor:
        runs.append(sizes)
        return exact_linear(*sizes)  # type: ignore[call-arg]

    unmeasured.setattr(onednn_saturation, "_linear", counted)
    assert [onednn_saturation.saturates() for _ in range(3)] == [False] * 3
    assert runs == list(saturation.LINEARS)


def test_a_kernel_that_is_absent_decides_nothing(unmeasured: pytest.MonkeyPatch) -> None:
    def absent(*sizes: int) -> Tensor:
        raise NotImplementedError

    unmeasured.setattr(onednn_saturation, "_linear", absent)
    assert not onednn_saturation.saturates()


@pytest.mark.parametrize(
    ("saturating", "reduces"),
    [
        ({}, False),
        ({("x86", Layers.LINEAR)}, True),
        ({("x86", Layers.CONVOLUTION)}, True),
        ({("x86", Layers.DEPTHWISE)}, False),  # these are packed for oneDNN
        ({("onednn", Layers.DEPTHWISE)}, True),
        ({("fbgemm", Layers.LINEAR)}, False),  # nothing is packed so
    ],
)
def test_each_engine_answers_for_the_layers_that_it_packs(
    saturating: set[tuple[str, Layers]], reduces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(name: str, layers: Layers) -> bool:
        return (name, layers) in saturating

    monkeypatch.setattr(quantized_saturation, "saturates", planted)
    assert quantized_saturation.reduces("x86") is reduces


FIXED: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "tanh": nn.Tanh,
    "softmax": partial(nn.Softmax, -1),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_results_with_fixed_ranges_do_not_saturate_what_reads_them(name: str, backend: str) -> None:
    model = nn.Sequential(nn.Linear(8, 64), FIXED[name](), nn.Linear(64, 4)).eval()
    with torch.no_grad():
        model[0].bias.fill_(9.0)
        model[2].weight.fill_(1.0)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    if name == "softmax":
        x = x.clamp(-1e-3, 1e-3)
    qmodel = qfx.quantize(model, x, backend=backend)
    assert off(model, qmodel, x) < 0.03 if name != "softmax" else off(model, qmodel, x) < 0.6


EIGHT = qfx.QuantSpec(torch.uint8)
WEIGHT = qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["x86", "fbgemm"])
def test_eight_bits_that_are_asked_for_become_seven(
    name: str, dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_saturation, "saturates", lambda engine, layers: True)
    monkeypatch.setattr(x86, "saturates", lambda: True)
    backend = {"x86": x86, "fbgemm": fbgemm}[name].backend()
    activation = qfx.QuantSpec(torch.uint8, dynamic=dynamic)
    model, x = loud(nn.Linear(64, 64)), bright(16, 64)
    with pytest.warns(qfx.QfxWarning, match="saturate in the kernels"):
        qmodel = qfx.quantize(
            model, x, backend=backend, qconfig=qfx.QConfig(activation, WEIGHT),
            method="dynamic" if dynamic else "static",
        )  # fmt: skip
    assert off(model, qmodel, x) < 0.03
    assert any("saturate in the kernels" in warning for warning in qmodel.report.warnings)


@pytest.mark.parametrize(
    ("activation", "weight"),
    [
        (replace(EIGHT, quant_max=127), WEIGHT),
        (EIGHT, replace(WEIGHT, quant_min=-64, quant_max=63)),
    ],
)
def test_codes_that_cannot_saturate_stay(activation: qfx.QuantSpec, weight: qfx.QuantSpec) -> None:
    backend = replace(resolve_backend("x86"), saturates=True)
    model, x = loud(nn.Linear(64, 64)), bright(16, 64)
    qmodel = qfx.quantize(model, x, backend=backend, qconfig=qfx.QConfig(activation, weight))
    assert off(model, qmodel, x) < 0.03
