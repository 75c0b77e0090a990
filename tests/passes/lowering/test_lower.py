"""lower: float operations between dequantize and quantize become the backend's kernels."""

from __future__ import annotations

import pytest

import qfx
from tests.passes.stages import quantized, text

KERNELS = {
    "x86": (
        "quantize_rgbx",
        "onednn.qconv2d_pointwise.default",
        "mean",
        "kernels.quantize",
        "calls.linear",
    ),
    "fbgemm": (
        "torch.quantize_per_tensor",
        "quantized.conv2d_relu.new",
        "layouts.in_order",
        "mean",
        "linear.linear",
        ".dequantize",
    ),
}
"""In the order of the graph; where kernels saturate, codes are clamped behind some of them."""


@pytest.mark.parametrize("backend", KERNELS)
def test_the_graph_after(backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    lines = text(quantized(backend=backend).history, "lower").splitlines()
    calls = [line for line in lines[1:-1] if "clamp" not in line]
    assert len(calls) == len(KERNELS[backend]), "\n".join(lines)
    for line, kernel in zip(calls, KERNELS[backend], strict=True):
        assert f"{kernel}(" in line


def test_the_reference_form_is_its_own_kernel() -> None:
    history = quantized().history
    assert text(history, "lower") == text(history, "reference")


@pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86")
def test_what_has_no_kernel_stays_float_and_says_why() -> None:
    report = quantized(backend="x86").report
    assert [(s.op, s.kernel, s.reason) for s in report.sites] == [
        ("Conv2d", "onednn.qconv2d", ""),
        ("relu", "onednn.qconv2d", ""),
        ("mean", "", "no-kernel"),
        ("Linear", "onednn.qlinear", ""),
    ]
