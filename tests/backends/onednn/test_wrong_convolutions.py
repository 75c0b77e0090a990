"""Convolutions that oneDNN's AMX kernels get wrong: refused, or run by another engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import qfx
from qfx.backends.onednn.conv_calls import ConvCall
from qfx.backends.onednn.overhang import outer_padding
from qfx.backends.onednn.verified_convs import is_suspect
from tests.cases.flow import randn, seeded, sqnr

CASES = {
    "2 groups": (lambda: nn.Conv2d(2, 96, 3, padding=1, groups=2), (1, 2, 8, 8)),
    "larger than the example": (lambda: nn.Conv2d(4, 48, 3, padding=1, groups=2), (1, 4, 5, 5)),
    "16 channels, 5x5": (lambda: nn.Conv2d(32, 128, 5, padding=2, groups=2), (1, 32, 8, 8)),
    "transposed": (
        lambda: nn.ConvTranspose2d(2, 32, 4, (1, 3), 2, groups=2),
        (1, 2, 8, 8),
    ),
    "one channel a group": (lambda: nn.Conv2d(2, 80, 3, groups=2), (1, 2, 8, 8)),
    "wide": (lambda: nn.Conv1d(32, 32, 16, groups=4), (1, 32, 40)),
    "wide, fewer out": (lambda: nn.Conv1d(64, 32, 8, groups=4), (1, 64, 40)),
    "wide, 2d": (lambda: nn.Conv2d(16, 16, (1, 16), groups=2), (1, 16, 6, 30)),
    "wide, 3d": (lambda: nn.Conv3d(32, 32, (1, 1, 8), groups=2), (1, 32, 3, 3, 12)),
    "wide, transposed": (lambda: nn.ConvTranspose1d(64, 64, 8, groups=4), (1, 64, 20)),
    "wide, no groups": (lambda: nn.Conv1d(16, 16, 8), (1, 16, 40)),
    "wide, no groups, 2d": (lambda: nn.Conv2d(16, 16, (3, 16)), (1, 16, 8, 40)),
    "wide, no groups, transposed": (lambda: nn.ConvTranspose1d(16, 16, 8), (1, 16, 20)),
}
LAST = {1: nn.LazyConv1d, 2: nn.LazyConv2d, 3: nn.LazyConv3d}  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("name", CASES)
def test_groups_are_right_or_float(name: str, backend: str) -> None:
    make, shape = CASES[name]
    channels = shape[1]
    dims = len(shape) - 2
    model = seeded(lambda: nn.Sequential(make(), nn.ReLU(), LAST[dims](4, 1)))
    model(randn(*shape))
    example, large = randn(*shape), randn(1, channels, *(28,) * dims)
    qmodel = qfx.quantize(model.eval(), example, backend=backend, calibration_data=[example, large])
    for x in (example, large):
        assert sqnr(qmodel.reference(x), qmodel(x)) > 30
    site = qmodel.report.sites[0]
    assert site.decision == "quantized" or "groups" in site.message


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_wide_kernels_are_right_when_measured(backend: str) -> None:
    model, x = seeded(lambda: nn.Conv1d(32, 32, 16, groups=4)), randn(2, 32, 40)
    linear = nn.Sequential(model, nn.Flatten(), nn.Linear(32 * 25, 4)).eval()
    qmodel = qfx.quantize(linear, x, backend=backend, method="dynamic")
    assert sqnr(qmodel.reference(x), qmodel(x)) > 30


def suspect(weight: tuple[int, ...], groups: int) -> bool:
    ones, none = (1,) * len(weight[2:]), (0,) * len(weight[2:])
    return is_suspect(ConvCall(weight, ones, none, ones, groups))


def test_usual_kernels_are_not_tried() -> None:
    assert suspect((96, 1, 3, 3), 2)
    assert suspect((16, 16, 8), 1)
    assert suspect((64, 4, 3, 3), 32)
    assert not suspect((96, 16, 3, 3), 1)
    assert not suspect((96, 1, 7, 7), 96)  # depthwise
    assert not suspect((96, 48, 1, 1), 2)
    assert not suspect((96, 48, 8, 1), 2)
    assert not suspect((128, 64, 3, 3), 2)


def test_dilated_kernels_are_padded_before() -> None:
    """With padding of its own, the kernel writes past its buffer, and a later free kills us."""
    assert outer_padding((9, 3), (8, 1), (2, 1)) == ([0, 1], [0, 0, 8, 8])
    assert outer_padding((2, 4, 9), (1, 2, 8), (2, 2, 2)) == ([1, 0, 8], [0, 0, 2, 2, 0, 0])
    assert outer_padding((3, 3), (4, 4), (4, 4)) == ([0, 4], [0, 0, 4, 4])
    assert outer_padding((3, 3), (1, 2), (2, 2)) == ([1, 2], [])
    assert outer_padding((3,), (4,), (4,)) == ([4], [])
    assert outer_padding((7, 7), (3, 3), (1, 1)) == ([3, 3], [])


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
@pytest.mark.parametrize("groups", [1, 2])
def test_dilated_kernels_of_many_rows_keep_to_their_memory(groups: int, backend: str) -> None:
    def convolution() -> nn.Module:
        return nn.Conv2d(16, 16, (9, 3), dilation=(2, 1), padding=(8, 1), groups=groups)

    model, x = seeded(convolution), randn(1, 16, 40, 40)
    qmodel = qfx.quantize(model, x, backend=backend)
    for _ in range(3):
        assert sqnr(qmodel.reference(x), qmodel(x)) > 40


DILATED = """
import torch, qfx
from torch import nn
torch.manual_seed(0)
for model, x in (
    (nn.Conv2d(16, 16, 3, padding=2, dilation=2), torch.randn(1, 16, 12, 10)),
    (nn.Conv3d(16, 16, 3, padding=2, dilation=2), torch.randn(1, 16, 10, 12, 10)),
):
    qmodel = qfx.quantize(model.eval(), x, backend="x86", effort="fast")
    torch.testing.assert_close(qmodel(x), qmodel.reference(x), rtol=1e-3, atol=1e-3)
"""


@pytest.mark.slow
def test_dilated_kernels_keep_to_their_memory() -> None:
    """In a process of its own, which dies of it, on as many threads as show it."""
    checking = Path("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")
    found = {"LD_PRELOAD": str(checking), "MALLOC_CHECK_": "3"} if checking.exists() else {}
    environment = {**os.environ, **found, "OMP_NUM_THREADS": "4"}
    run = subprocess.run([sys.executable, "-c", DILATED], env=environment, check=False)
    assert run.returncode == 0
