"""A file: what it holds, what it is called, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.support.onnx import Exported, export, quantized, written


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel(x: Tensor) -> qfx.QuantizedModel:
    torch.manual_seed(0)
    return quantized(Residual(), x)


@pytest.fixture(scope="module")
def exported(qmodel: qfx.QuantizedModel, x: Tensor) -> Exported:
    return written(qmodel, x)


def test_agrees_with_the_reference(exported: Exported) -> None:
    assert exported.check.sqnr > 35
    assert "output" in str(exported.check)
    assert exported.check.integer_kernels > 0


def test_sizes_are_free(exported: Exported) -> None:
    (shape,) = exported.file.inputs.values()
    assert shape == ("batch", 3, "height", "width")
    assert list(exported.file.outputs.values()) == [("batch", 5)]
    assert (
        str(exported.file)
        .splitlines()[0]
        .endswith(
            f"opset 21, form {exported.file.form}: x[batch, 3, height, width] -> output[batch, 5]"
        )
    )


def test_other_sizes_run(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    qfx.export_onnx(qmodel, tmp_path / "m.onnx")
    check = qfx.check_onnx(qmodel, tmp_path / "m.onnx", (torch.randn(3, 3, 12, 10),))
    assert check.outputs[0].shape == (3, 5)
    assert check.sqnr > 35


def test_weights_are_stored_as_integers(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    qfx.export_onnx(qmodel, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    kinds = {tuple(t.dims): t.data_type for t in model.graph.initializer if len(t.dims) > 1}
    assert set(kinds.values()) == {onnx.TensorProto.INT8}
    assert (8, 3, 3, 3) in kinds
    scales = [t for t in model.graph.initializer if list(t.dims) == [8]]
    assert scales  # one for each channel


def test_nodes_say_where_they_come_from(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    qfx.export_onnx(qmodel, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    props = {p.key: p.value for p in convs[0].metadata_props}
    assert props["qfx.module"] == "first"
    assert "test_export.py" in props["qfx.source"]


def test_names_of_free_sizes(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", dynamic_shapes={"x": {0: "n", 2: "h"}})
    assert file.inputs["x"] == ("n", 3, "h", 8)
    fixed = qfx.export_onnx(qmodel, tmp_path / "m.onnx", dynamic_shapes={})
    assert fixed.inputs["x"] == (2, 3, 8, 8)


def test_sizes_are_named_by_the_inputs_as_the_model_calls_them(tmp_path: Path) -> None:
    """``input``, as in nn.Sequential, is a builtin, and the node has another name."""
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(8, 4)).eval(), torch.ones(2, 8), check=False)
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", dynamic_shapes={"input": {0: "n"}})
    assert file.inputs == {"input": ("n", 8)}
    with pytest.raises(qfx.ConfigError, match=r"the inputs are input$"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx", dynamic_shapes={"input_1": {0: "n"}})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": {0: "n"}}, "the inputs are x"),
        ({"x": {1: "channels"}}, "does not run with another size 'channels'"),
        ({"x": {7: "n"}}, "has none of that number"),
        ({"x": {0: "n", 2: "n"}}, "sizes that differ"),
    ],
)
def test_wrong_sizes(
    qmodel: qfx.QuantizedModel, tmp_path: Path, shapes: dict[str, dict[int, str]], message: str
) -> None:
    with pytest.raises(qfx.ConfigError, match=message):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx", dynamic_shapes=shapes)


def test_wrong_arguments(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    with pytest.raises(qfx.ConfigError, match="opset 9 can't be written"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx", opset=9)
    with pytest.raises(qfx.ConfigError, match="takes a quantized model, not Linear"):
        qfx.export_onnx(nn.Linear(2, 2), tmp_path / "m.onnx")  # type: ignore[arg-type]


def test_absent_packages(
    qmodel: qfx.QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(qfx.BackendError, match=r"pip install qfx\[onnx\]"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx")


class Unsayable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.pool = nn.AdaptiveAvgPool2d(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer(x)
        return self.pool(x), torch.linalg.det(x)


def test_every_site_that_onnx_cannot_say_is_named(tmp_path: Path) -> None:
    qmodel = quantized(Unsayable(), torch.randn(2, 3, 4, 4))
    with pytest.raises(qfx.ExportError, match="at 2 sites") as raised:
        qfx.export_onnx(qmodel, tmp_path / "m.onnx")
    pool, det = raised.value.problems
    assert pool.module_path == "pool"
    assert "from 4 to 3" in pool.message
    assert pool.remedy == "Pool to a size that divides the input's."
    assert det.message == "det, which can't be written to ONNX"
    assert all("test_export.py" in each.source and each.remedy for each in (pool, det))
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_opsets(opset: int, x: Tensor, qmodel: qfx.QuantizedModel) -> None:
    assert written(qmodel, x, opset=opset).check.sqnr > 35


class Adaptive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


def test_sizes_that_onnx_must_know_are_fixed(x: Tensor) -> None:
    exported = export(Adaptive(), x)
    assert exported.file.inputs["x"] == ("batch", 3, 8, 8)
    assert exported.check.sqnr > 35


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.output, self.logits = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.relu(self.logits(self.output(x)))}


class Output(Named):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.output(x)


class Input(Named):
    def forward(self, output: Tensor) -> Tensor:  # type: ignore[override]
        return self.output(output)


def test_outputs_are_called_as_the_model_calls_them(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    models = {"output": Output(), "output_1": Input(), "logits": Named()}  # the input has the first
    for name, model in models.items():
        file = qfx.export_onnx(quantized(model, x), tmp_path / "m.onnx")
        assert list(file.outputs) == [name]


def test_why_no_form_was_tried(
    qmodel: qfx.QuantizedModel, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamic = quantized(nn.Sequential(nn.Linear(4, 4)), torch.randn(3, 4), method="dynamic")
    file = qfx.export_onnx(dynamic, tmp_path / "m.onnx")
    assert file.form == "exact"
    assert str(file).endswith("exact: the integer forms are the same without example_inputs")
    assert len(qfx.export_onnx(qmodel, tmp_path / "m.onnx").trials) == 2  # with random numbers
    asked = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact")
    assert not asked.untried
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", example_inputs=x)
    assert "not tried, which takes ONNX Runtime (pip install qfx[onnx])" in str(file)
