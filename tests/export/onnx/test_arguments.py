"""Wrong arguments of export_onnx and check_onnx are refused with what is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import qfx
from qfx.export.onnx.export import OnnxFile
from tests.support.onnx import quantized

X = torch.linspace(-1, 1, 32).reshape(4, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


class Several(Net):
    def forward(self, *given: Tensor) -> Tensor:
        return self.layer(given[0]) + self.layer(given[1])


@pytest.fixture(scope="module")
def qmodel() -> qfx.QuantizedModel:
    return quantized(Net(), X)


@pytest.fixture(scope="module")
def file(qmodel: qfx.QuantizedModel, tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    return qfx.export_onnx(qmodel, tmp_path_factory.mktemp("onnx") / "m.onnx")


def test_the_file_that_was_written_is_its_path(qmodel: qfx.QuantizedModel, file: OnnxFile) -> None:
    assert qfx.check_onnx(qmodel, file, X).sqnr > 35
    assert onnx.load(file).graph.input[0].name == "x"


def test_arguments_that_the_model_takes_as_many_as_come(tmp_path: Path) -> None:
    qmodel = quantized(Several(), (X, X))
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", example_inputs=(X, X))
    assert qfx.check_onnx(qmodel, file, (X, X)).sqnr > 35


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input": X}, "missing a required argument: 'x'"),
        ((), "missing a required argument: 'x'"),
        ((X, X), "too many positional arguments"),
        (X.double(), "x is double instead of float"),
        (X[0], "x has 1 dims instead of 2"),
        (X[:, :7], "dim 1 of x is 7 instead of 8"),
        ({"x": X.numpy()}, "1 tensors are needed, not 0"),
    ],
)
def test_wrong_inputs(
    qmodel: qfx.QuantizedModel, file: OnnxFile, inputs: Any, message: str
) -> None:
    with pytest.raises(qfx.ConfigError, match=message) as raised:
        qfx.check_onnx(qmodel, file, inputs)
    assert "It takes x float[batch, 8]; given: " in str(raised.value)


def test_wrong_files(qmodel: qfx.QuantizedModel, file: OnnxFile, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no ONNX file")
    for path, error, message in (
        (tmp_path / "absent.onnx", qfx.ConfigError, "absent.onnx does not exist"),
        (tmp_path, qfx.ConfigError, "is a directory"),
        (X, qfx.ConfigError, "path is Tensor"),
        (tmp_path / "text.onnx", qfx.FormatError, r"can't load .*text\.onnx"),
    ):
        with pytest.raises(error, match=message):
            qfx.check_onnx(qmodel, path, X)  # type: ignore[arg-type]
    with pytest.raises(qfx.ConfigError, match="inputs is str"):
        qfx.check_onnx(qmodel, file, "m.onnx")


def test_what_is_not_quantized(qmodel: qfx.QuantizedModel, file: OnnxFile, tmp_path: Path) -> None:
    trainable = qfx.prepare(Net().train(), X, method="qat")
    takers: dict[str, Any] = {
        "check_onnx": lambda model: qfx.check_onnx(model, file, X),
        "export_onnx": lambda model: qfx.export_onnx(model, tmp_path / "m.onnx"),
        "export_pt2e": lambda model: qfx.export_pt2e(model, X),
    }
    for name, taker in takers.items():
        with pytest.raises(qfx.ConfigError, match=f"{name} takes a quantized model, not Net"):
            taker(Net())
        with pytest.raises(qfx.ConfigError, match=r"call qfx.convert\(prepared\) first"):
            taker(trainable)
    with pytest.raises(qfx.ConfigError, match="example_inputs is int; give a tensor"):
        qfx.export_pt2e(qmodel, 3)
    with pytest.raises(qfx.ConfigError, match="check_onnx takes a quantized model, not OnnxFile"):
        qfx.check_onnx(file, qmodel, X)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example_inputs": {"input": X}}, r"It takes x float\[4, 8\]; given: input float"),
        ({"example_inputs": 3}, "example_inputs is int; give a tensor"),
        ({"dynamic_shapes": ({0: "batch"},)}, r"as in \{'x': \{0: 'batch'\}\}"),
        ({"dynamic_shapes": "batch"}, "it takes a mapping from inputs"),
        ({"dynamic_shapes": {"x": "batch"}}, "it takes a mapping from inputs"),
        ({"dynamic_shapes": {"x": {0: 5}}}, "gives 5 for dim 0 of 'x'; it takes a name"),
        ({"dynamic_shapes": {"x": {0: True}}}, "gives True for dim 0 of 'x'; it takes a name"),
        ({"dynamic_shapes": {"x": [""]}}, "or None for the size of the examples, 4"),
        ({"dynamic_shapes": {"x": {0: 2 * Dim("n")}}}, r"gives 2\*n for dim 0 of 'x'"),
        ({"opset": 21.0}, "opset 21.0 can't be written; it can be a whole number from 18"),
    ],
)
def test_wrong_options(
    qmodel: qfx.QuantizedModel, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(qfx.ConfigError, match=message):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx", **options)


@pytest.mark.parametrize(
    ("given", "size"),
    [("n", "n"), (Dim("n"), "n"), (Dim.AUTO, "x_0"), (Dim.STATIC, 4), (4, 4), (None, 4)],
)
def test_sizes_as_torch_export_takes_them(
    qmodel: qfx.QuantizedModel, tmp_path: Path, given: object, size: int | str
) -> None:
    for dims in ({0: given}, [given, None]):
        file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", dynamic_shapes={"x": dims})
        assert file.inputs["x"] == (size, 8)
