"""Sizes are computed from those of the inputs, so that no engine keeps a tensor for its shape."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.export.onnx.export import OnnxFile
from qfx.numerics.measures import sqnr
from tests.support.onnx import quantized


class Shuffled(nn.Module):
    """Two branches, joined and shuffled by sizes that are read from the tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.left = nn.Conv2d(8, 8, 1)
        self.right = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.head = nn.Conv2d(16, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem(x)))
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return self.head(x.view(batch, channels, height, width))


class Ceil(nn.Module):
    """A pool that rounds sizes up: what is reshaped behind it asks for the shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2, ceil_mode=True)
        return x.view(x.size(0), 2, 4, x.size(2), x.size(3))


X = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(3, 3, 45, 39, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def qmodel() -> qfx.QuantizedModel:
    return quantized(Shuffled(), X)


@pytest.fixture(scope="module")
def file(qmodel: qfx.QuantizedModel, tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    path = tmp_path_factory.mktemp("windows") / "m.onnx"
    return qfx.export_onnx(qmodel, path, form="integer", example_inputs=X)


def _asked(path: Path | OnnxFile) -> set[str]:
    """Of which tensors the shape is asked."""
    return {node.input[0] for node in onnx.load(path).graph.node if node.op_type == "Shape"}


def test_only_inputs_are_asked_for_their_shape(qmodel: qfx.QuantizedModel, file: OnnxFile) -> None:
    assert file.inputs["x"] == ("batch", 3, "height", "width")
    assert _asked(file) == {"x"}
    assert not file.asked
    for images in (X, OTHER):
        assert qfx.check_onnx(qmodel, file, images).sqnr > 35


def test_sizes_that_are_rounded_up_are_asked_for(tmp_path: Path) -> None:
    qmodel = quantized(Ceil(), X)
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact")
    (tensor,) = _asked(file) - {"x"}
    assert file.asked == (tensor,)
    assert f"asked for free sizes: {tensor}; OpenVINO" in str(file)
    for images in (X, OTHER):
        assert qfx.check_onnx(qmodel, file, images).sqnr > 35


class Merged(nn.Module):
    """The batch is multiplied, and counted up to: a value, not only a size that stays."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x)))
        batch = x.shape[0]
        x = x + torch.arange(batch).reshape(-1, 1, 1, 1)
        return x.reshape(batch * 4, 2, -1)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[qfx.QuantizedModel, OnnxFile]:
    qmodel = quantized(Merged(), X)
    path = tmp_path_factory.mktemp("windows") / "merged.onnx"
    return qmodel, qfx.export_onnx(qmodel, path, form="exact")


def test_a_batch_is_the_elements_by_those_of_an_image(
    merged: tuple[qfx.QuantizedModel, OnnxFile],
) -> None:
    qmodel, file = merged
    asking = [n for n in onnx.load(file.path).graph.node if n.op_type == "Shape"]
    assert [onnx.helper.get_node_attr_value(node, "start") for node in asking] == [1]
    for images in (X, OTHER):
        assert qfx.check_onnx(qmodel, file, images).sqnr > 35


@pytest.mark.slow
def test_openvino_keeps_biases_where_the_batch_is_a_value(
    merged: tuple[qfx.QuantizedModel, OnnxFile],
) -> None:
    """It lost those of convolutions from whose results it took the batch: 11 dB."""
    assert_right_in_openvino(*merged)


@pytest.mark.slow
def test_openvino_keeps_biases(qmodel: qfx.QuantizedModel, file: OnnxFile) -> None:
    """It lost those of convolutions whose shape was asked for: 8 dB."""
    assert_right_in_openvino(qmodel, file)


def assert_right_in_openvino(qmodel: qfx.QuantizedModel, file: OnnxFile) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(file.path), "CPU", hints)
    for images in (X, OTHER):
        made = torch.from_numpy(compiled([images.numpy()])[0].copy())
        with torch.no_grad():
            assert sqnr(qmodel.reference(images), made) > 35
