"""Padding of codes with the code of zero."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr
from tests.cases.flow import randn, seeded

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

X = randn(2, 3, 8, 8)


class Padded(nn.Module):
    """Values below and above zero, padded between two convolutions."""

    def __init__(self, pad: tuple[int, ...], value: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 2)
        self.pad, self.value = pad, value

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.first(x), self.pad, value=self.value).permute(0, 1, 3, 2)
        return self.second(y)  # type: ignore[no-any-return]


def exported(pad: tuple[int, ...], value: float, path: Path) -> qfx.QuantizedModel:
    qmodel = qfx.quantize(seeded(lambda: Padded(pad, value)), X, progress=False, check=False)
    qfx.export_onnx(qmodel, path, example_inputs=X, form="exact", dynamic_shapes={})
    assert isinstance(qmodel, qfx.QuantizedModel)
    return qmodel


def of_pads(path: Path) -> list[str]:
    """What pads read: "codes" or "floats"."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
    floats = onnx.TensorProto.FLOAT
    pads = [node for node in inferred.node if node.op_type == "Pad"]
    return ["floats" if kinds[node.input[0]] == floats else "codes" for node in pads]


@pytest.mark.parametrize("value", [0.0, 0.25])
@pytest.mark.parametrize("pad", [(1, 0), (0, 0, 0, 1), (1, 2, 0, 1)])
def test_zeros_are_a_code(pad: tuple[int, ...], value: float, tmp_path: Path) -> None:
    path = tmp_path / "padded.onnx"
    qmodel = exported(pad, value, path)
    assert of_pads(path) == ["floats" if value else "codes"]
    assert qfx.check_onnx(qmodel, path, X).sqnr > 40


def test_codes_of_16_bits_are_padded_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "padded.onnx"
    weight = qfx.QuantSpec(torch.int8, observer="minmax", symmetric=True)
    qconfig = qfx.QConfig(qfx.QuantSpec(torch.int16), weight)
    model = seeded(lambda: Padded((1, 0), 0.0))
    qmodel = qfx.quantize(model, X, qconfig=qconfig, backend="reference", progress=False)
    qfx.export_onnx(qmodel, path, example_inputs=X, form="exact")
    assert of_pads(path) == ["floats"]
    assert qfx.check_onnx(qmodel, path, X).sqnr > 40


@pytest.mark.slow
@pytest.mark.parametrize("pad", [(1, 0), (0, 0, 0, 1), (1, 2, 0, 1)])
def test_openvino_pads_them(pad: tuple[int, ...], tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "padded.onnx"
    qmodel = exported(pad, 0.0, path)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = qmodel.reference(X)
    assert sqnr(expected, torch.from_numpy(compiled(X.numpy())[0])) > 40
