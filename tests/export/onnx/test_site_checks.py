"""What a file does otherwise is told from what the depth of the model makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import qfx
from tests.support.onnx import quantized

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def qmodel() -> qfx.QuantizedModel:
    return quantized(Net(), X)


def test_each_site_by_itself(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact")
    check = qfx.check_onnx(qmodel, file, X, by_site=True)
    quantizes = [n for n in qmodel.reference.graph.nodes if n.target is qfx.vocab.QUANTIZE]
    assert {site.site for site in check.sites} == {node.name for node in quantizes}
    assert all(site.steps <= 1 and site.share < 0.01 for site in check.sites)
    assert check.own is not None
    assert check.own > 30
    assert "given the model's codes" in str(check)
    assert not qfx.check_onnx(qmodel, file, X).sites


def test_a_fault_is_found_where_it_is(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    """The bias of the second convolution is lost; what is behind it is right by itself."""
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact")
    model = onnx.load(file)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    (bias,) = [i for i in model.graph.initializer if i.name == convs[1].input[2]]
    bias.CopyFrom(numpy_helper.from_array(np.ones_like(numpy_helper.to_array(bias)), bias.name))
    onnx.save(model, file.path)
    worst, *others = qfx.check_onnx(qmodel, file, X, by_site=True).sites
    assert worst.module == "second"
    assert worst.steps > 1
    assert all(site.steps <= 1 for site in others)


def test_measured_codes_are_no_sites(tmp_path: Path) -> None:
    dynamic = quantized(Net(), X, method="dynamic")
    file = qfx.export_onnx(dynamic, tmp_path / "m.onnx")
    check = qfx.check_onnx(dynamic, file, X, by_site=True)
    assert check.own is not None
    assert check.own > 30
