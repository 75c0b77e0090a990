"""Quantizing what passes left keeps the names, module paths and source lines of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.point = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.point(x * torch.sigmoid(x))


@qfx.rewrite(qfx.Op(vocab.MUL, qfx.Any("x"), qfx.Op(vocab.SIGMOID, qfx.Any("x"), users=1)))
def silu(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return rw.call(vocab.SILU, match["x"])


class FuseSilu(qfx.PatternPass):
    name = "fuse-silu"
    patterns = (silu,)


@pytest.fixture(scope="module")
def resumed() -> tuple[fx.GraphModule, qfx.QuantizedModel]:
    gm, _ = qfx.run_passes(Net().eval(), [FuseSilu()], X)
    return gm, qfx.quantize(gm, X, backend="reference")


def test_names_paths_and_lines_are_kept(
    resumed: tuple[fx.GraphModule, qfx.QuantizedModel],
) -> None:
    _, qmodel = resumed
    sites = {site.node: site for site in qmodel.report.sites}
    assert list(sites) == ["conv", "sigmoid_mul", "point"]
    assert sites["point"].module_path == "point"
    assert sites["conv"].source.startswith("test_resumed.py:")
    assert qmodel.report.coverage == 1.0
    assert "silu(%conv)" in str(qmodel.history["capture"])
    assert qmodel.report.checked is not None
    assert qmodel.report.checked.float_graph > 100


def test_it_is_compared_by_these_names(
    resumed: tuple[fx.GraphModule, qfx.QuantizedModel],
) -> None:
    gm, qmodel = resumed
    comparison = qfx.compare(gm, qmodel, [X])
    assert {site.node for site in comparison} == {"sigmoid_mul", "point"}
    assert comparison.output.sqnr > 25
    before = gm(X)
    torch.testing.assert_close(qmodel(X), before, rtol=0.2, atol=0.1)
    assert torch.equal(gm(X), before)


def test_a_configuration_finds_modules_and_types(
    resumed: tuple[fx.GraphModule, qfx.QuantizedModel],
) -> None:
    gm, _ = resumed
    mapping = qfx.get_default_qconfig_mapping("reference", "static")
    mapping.set_module_name("point", None)
    qmodel = qfx.quantize(gm, X, backend="reference", qconfig=mapping)
    decisions = {site.node: site.decision for site in qmodel.report.sites}
    assert decisions["conv"] == "quantized"
    assert decisions["point"] == "float"
    only = qfx.quantize(gm, X, backend="reference", types={nn.Conv2d})
    assert only.report.coverage == 1.0
