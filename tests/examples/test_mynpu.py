"""The simulated accelerator: its kernels compute the reference form; what it refuses is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from examples.mynpu.backend import SPEC, backend


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.right = nn.Conv2d(8, 8, 1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.relu(self.left(x) + self.right(x))
        return self.head(self.pool(x).flatten(1))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def quantized() -> qfx.QuantizedModel:
    return qfx.quantize(Net().eval(), X, backend=backend())


def test_every_product_runs_on_it(quantized: qfx.QuantizedModel) -> None:
    assert quantized.report.coverage == 1.0
    kernels = {site.node: site.kernel for site in quantized.report.sites}
    assert kernels["stem"] == kernels["left"] == kernels["right"] == "mynpu.conv2d"
    assert (kernels["head"], kernels["add"]) == ("mynpu.linear", "mynpu.add")
    assert kernels["pool"] == "mynpu.move"


def test_it_computes_the_reference_form(quantized: qfx.QuantizedModel) -> None:
    step = next(n for n in reversed(quantized.graph.nodes) if "dequantize" in str(n.target)).args[1]
    torch.testing.assert_close(quantized(X), quantized.reference(X), rtol=0, atol=1.01 * step)
    comparison = qfx.compare(Net().eval(), quantized, [X])
    assert comparison.output.sqnr > 20


def test_scales_are_powers_of_two_and_calls_hold_codes(quantized: qfx.QuantizedModel) -> None:
    view = quantized.history[-1].snapshot
    calls = [r for r in view if r.op == "call_function" and "mynpu" in r.target]
    assert len(calls) == 5
    assert all(r.type_text.startswith("i8[") and r.origins for r in calls)
    for node in quantized.reference.graph.nodes:
        if node.target is qfx.vocab.QUANTIZE:
            assert float(torch.frexp(torch.tensor(node.args[1])).mantissa) == 0.5


def test_cycles_are_a_column_of_the_report(quantized: qfx.QuantizedModel) -> None:
    sites = {site.node: site for site in quantized.report.sites}
    assert sites["stem"].findings["cycles"] == 3 * 9 * 8 * 128 // 256
    assert "cycles" in str(quantized.report)


def test_what_it_can_not_take_is_told() -> None:
    wide = qfx.QuantSpec(torch.uint8)
    mapping = qfx.QConfigMapping().set_global(qfx.QConfig(activation=SPEC, weight=SPEC))
    mapping.set_module_name("head", qfx.QConfig(activation=wide, weight=SPEC))
    with pytest.warns(qfx.QfxWarning, match="mynpu take other activations: codes are int8, not"):
        qmodel = qfx.quantize(Net().eval(), X, backend=backend(), qconfig=mapping)
    (head,) = (site for site in qmodel.report.sites if site.node == "head")
    assert (head.decision, head.reason) == ("float", "config-unfit")
    with pytest.raises(qfx.CoverageError, match="its input is no matrix"):
        qfx.quantize(nn.Linear(4, 4).eval(), torch.randn(2, 3, 4), backend=backend())
