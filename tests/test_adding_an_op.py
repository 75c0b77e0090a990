"""An operation is added in three places: what it computes, its row in the vocabulary, its kernels.

The program does what CONTRIBUTING says for ``hardswish6``, in a process of its own, since the
vocabulary is closed once passes are loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qfx

pytestmark = pytest.mark.slow  # a process of its own
ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import json, warnings
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

# 1. what it computes (qfx/semantics/activations.py)
from qfx.semantics.post import post_op

@post_op
def hardswish6(input: Tensor) -> Tensor:
    return F.hardswish(input).clamp(max=6.0)

# 2. its row (a file of qfx/vocab)
from qfx import vocab

fx.wrap("spelling")
def spelling(x):
    return hardswish6(x)

HARDSWISH6 = vocab.define(hardswish6, vocab.Kind.ACTIVATION, (), (spelling,), elementwise=True)

# 3. its kernels (qfx/backends): the reference form has it by its trait; here a table for x86
import qfx
from qfx.backends import resolve_backend
from qfx.backends.base import Emitter, KernelRule, LoweringSite
from qfx.backends.onednn.operands import known_input
from qfx.graph import meta

def look_up(codes: Tensor, table: Tensor) -> Tensor:
    return table[codes.long()]

def emit(em: Emitter, site: LoweringSite) -> fx.Node:
    qx, x = known_input(site)
    reals = x.dequantize(torch.arange(256, dtype=torch.uint8))
    key = ("hardswish6", site.node.name)
    table = em.packed(key, lambda: site.output.quantize(hardswish6(reals)))
    value = meta.TensorInfo(meta.tensor_info(site.node).shape, torch.uint8)
    return em.rw.call(look_up, qx, table, origins=(site.node,), value=value)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Linear(8, 4)
    def forward(self, x):
        y = spelling(self.conv(x))          # fused where a kernel takes it
        y = spelling(self.pool(y) - 1.0)    # an operation of its own
        return self.fc(y.mean((2, 3)))

warnings.simplefilter("error", qfx.QfxWarning)
torch.manual_seed(0)
model, x = Net().eval(), torch.randn(4, 3, 12, 12)
expected = model(x)
found = {}
x86 = resolve_backend("x86") if "x86" in qfx.backends.available() else None
backends = {"reference": resolve_backend("reference")}
if x86 is not None:
    row = KernelRule(HARDSWISH6, "uint8 table", emit=emit)
    backends |= {"none": x86, "table": replace(x86, rules=(*x86.rules, row))}
for name, backend in backends.items():
    made = qfx.quantize(model, x, backend=backend)
    with torch.no_grad():
        noise = made(x) - expected
        found[name] = {
            "sites": [[s.op, s.decision, s.kernel, s.reason] for s in made.report.sites],
            "fused": [n.kwargs["post"] for n in made.reference.graph.nodes if n.kwargs.get("post")],
            "sqnr": float(10 * torch.log10(expected.square().sum() / noise.square().sum())),
            "other": list(made(torch.randn(2, 3, 20, 16)).shape),
        }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, object]]:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'passes'}"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    loaded: dict[str, dict[str, object]] = json.loads(ran.stdout.splitlines()[-1])
    return loaded


def sites(found: dict[str, dict[str, object]], name: str) -> list[list[str]]:
    """Those of the operation, as the model calls it."""
    held: list[list[str]] = found[name]["sites"]  # type: ignore[assignment]
    return [site for site in held if site[0] == "spelling"]


def test_the_reference_form_has_it_by_its_trait(found: dict[str, dict[str, object]]) -> None:
    assert [site[1] for site in sites(found, "reference")] == ["quantized", "quantized"]
    assert found["reference"]["fused"] == [[["hardswish6"]]]  # the one behind the convolution
    assert found["reference"]["sqnr"] > 30  # type: ignore[operator]


@pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86")
def test_without_a_row_it_is_float_and_says_why(found: dict[str, dict[str, object]]) -> None:
    assert [site[1:] for site in sites(found, "none")] == [["float", "", "no-kernel"]] * 2


@pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86")
def test_a_row_is_all_that_a_kernel_takes(found: dict[str, dict[str, object]]) -> None:
    assert [site[1:] for site in sites(found, "table")] == [["quantized", "uint8 table", ""]] * 2
    assert found["table"]["sqnr"] > 24  # type: ignore[operator]
    assert found["table"]["other"] == [2, 4]
