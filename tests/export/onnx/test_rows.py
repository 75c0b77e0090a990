"""Layers on images whose channels come last, on rows: for engines, and for every size."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.engines import writing
from qfx.engines.agreement import compare
from qfx.engines.pieces import partition
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.rows import on_rows
from qfx.export.onnx.sizes import Shapes


class Block(nn.Module):
    """As those of ConvNeXt, with a residual beside the norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = y + self.down(nn.functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class NormAlone(nn.Module):
    """A norm that no layer follows, then layers of which one is taken apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1)).roll((1, 1), (1, 2))
        a, b = self.second(self.first(y).relu()).chunk(2, dim=-1)
        return a * b


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def quantized(model: nn.Module, x: Tensor) -> qfx.QuantizedModel:
    return qfx.quantize(model.eval(), x, backend="x86", progress=False)


def kinds_on_rows(qmodel: qfx.QuantizedModel) -> Counter[str]:
    nodes = on_rows(qmodel.reference.graph, Shapes(qmodel.reference))
    return Counter(str(node.target) for node in nodes)


def test_from_the_norm_to_the_last_layer() -> None:
    qmodel = quantized(Block(), noise(2, 8, 6, 5))
    expected = {"layer_norm": 1, "linear": 2, "quantize": 2, "dequantize": 2}
    assert kinds_on_rows(qmodel) == expected
    (piece,) = partition(qmodel.reference, {}).pieces
    written = onnx.load_from_string(writing.onnx_model(piece, OnnxForm.EXACT, piece.shapes).data)
    made = onnx.shape_inference.infer_shapes(written).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in made.value_info}
    kinds = ("LayerNormalization", "MatMul", "Gelu", "QuantizeLinear")
    ranks = {n.op_type: {len(shapes[n.output[0]])} for n in made.node[3:] if n.op_type in kinds}
    assert ranks == {kind: {3} for kind in kinds}
    assert sum(node.op_type == "Reshape" for node in made.node) == 2


def test_what_is_read_in_parts_or_follows_no_layer_stays() -> None:
    qmodel = quantized(NormAlone(), noise(2, 3, 6, 5))
    assert kinds_on_rows(qmodel) == {"linear": 1, "quantize": 2, "dequantize": 2}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_runs_with_every_size(engine: str) -> None:
    qmodel = quantized(Block(), noise(2, 8, 6, 5))
    fast = qfx.compile(qmodel, noise(2, 8, 6, 5), engine=engine, progress=False)
    for shape in ((2, 8, 6, 5), (3, 8, 9, 4), (1, 8, 1, 7)):
        x = noise(*shape)
        assert compare(qmodel.reference(x), fast(x)).sqnr > 35
    assert not fast.report.eager
