"""PyTorch drops its quantized dtypes and ``torch.ops.quantized``: the default backend goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # a process of its own
ROOT = Path(__file__).parents[1]
PROGRAM = """
import json
import torch
from torch import nn
from tools.networks import classifier

resnet = classifier("resnet18")  # torchvision itself names what is taken away

from without_quantized_dtypes import take_away  # not by way of tests.support, which imports qfx
take_away()

import qfx
from qfx.numerics.measures import sqnr

found = {"available": qfx.backends.available(), "errors": {}}
for name in ("fbgemm", "qnnpack"):
    try:
        qfx.backends.resolve_backend(name)
    except qfx.BackendError as error:
        found["errors"][name] = str(error)

def check(name, model, x, method):
    quantized = qfx.quantize(model.eval(), x, method=method)
    kernels = [site.kernel for site in quantized.report.sites if site.kernel]
    with torch.no_grad():
        found[name] = sqnr(model(x), quantized(x)), sorted(set(kernels))

torch.manual_seed(0)
check("resnet18", resnet, torch.randn(2, 3, 64, 64), "static")
layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
check("layers", layers, torch.randn(8, 64), "dynamic")
check("weights", layers, torch.randn(8, 64), "weight_only")
check("bag", nn.EmbeddingBag(50, 32, mode="mean"), torch.randint(0, 50, (6, 4)), "weight_only")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What a process finds that runs after these names are gone."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "passes", ROOT / "tests" / "support")))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("resnet18", ["onednn.qconv2d", "onednn.qlinear", "uint8 flatten", "uint8 max_pool2d"]),
        ("layers", ["onednn.qlinear"]),
        ("weights", None),  # which kernel pays is a matter of the machine
        ("bag", ["int8 rows, float pool"]),  # the kernel of packed rows is among what is gone
    ],
)
def test_models_are_quantized(found: dict[str, Any], name: str, kernels: list[str] | None) -> None:
    ratio, used = found[name]
    assert ratio > 28
    assert kernels is None or used == kernels


def test_only_what_needs_those_dtypes_is_unavailable(found: dict[str, Any]) -> None:
    assert found["available"] == ["x86", "reference"]


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
def test_other_backends_say_what_is_missing(found: dict[str, Any], backend: str) -> None:
    error = found["errors"][backend]
    assert f"backend {backend!r} needs a PyTorch with quantized dtypes" in error
    assert "torch.quint8, torch.qint8" in error
    assert "torch.ops.quantized.linear" in error
