"""The form that engines run in integers: what it rounds, in which range, and when it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.export.onnx import forms, trials
from qfx.export.onnx.check import open_session
from qfx.export.onnx.seen import see
from tests.support.onnx import Exported, quantized, written
from tools.networks import classifier


class Residuals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + x)
        x = nn.functional.hardswish(self.third(x))
        return nn.functional.relu6(self.head(x)).mean((2, 3))


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel(x: Tensor) -> qfx.QuantizedModel:
    return quantized(Residuals(), x)


@pytest.fixture(scope="module")
def chosen(qmodel: qfx.QuantizedModel, x: Tensor) -> Exported:
    return written(qmodel, x)


def test_more_runs_in_integers(chosen: Exported) -> None:
    exact, integer, *_ = chosen.file.trials
    assert chosen.file.form != "exact"  # which of the two is faster, the machine decides
    assert integer.integer_kernels > exact.integer_kernels
    assert integer.sqnr > 35
    assert chosen.check.integers["QLinearConv"] == 4
    assert chosen.check.integers["QLinearAdd"] == 1
    assert "integer kernels" in str(chosen.file)


def test_exact_rounds_where_the_model_does(qmodel: qfx.QuantizedModel, x: Tensor) -> None:
    exact = written(qmodel, x, form="exact")
    rounded = written(qmodel, x, form="integer")
    nodes = qmodel.reference.graph.nodes
    there = sum(node.target is qfx.vocab.QUANTIZE for node in nodes)
    assert exact.file.operators["QuantizeLinear"] == there
    assert rounded.file.operators["QuantizeLinear"] == there + 2


def test_examples_narrow_the_ranges(qmodel: qfx.QuantizedModel, x: Tensor) -> None:
    ranges = see(qmodel.reference, {"x": x})
    (name,) = [each for each in ranges.before_post if "second" in each]
    (node,) = [n for n in qmodel.reference.graph.nodes if n.name == name]
    post = node.kwargs["post"]
    (wide,), (narrow,) = (
        [forms.layer_range(post, forms.rounded_to(node), seen)]  # type: ignore[arg-type]
        for seen in (None, ranges.before_post[name])
    )
    assert wide is not None
    assert narrow is not None
    assert wide[0] <= narrow[0] < narrow[1] <= wide[1]


@pytest.mark.parametrize(
    ("name", "operands", "high", "expected"),
    [
        ("relu", [], 5.0, (0, 5)),
        ("relu", [], 500.0, (0, 500)),
        ("hardswish", [], 5.0, (-3, 5)),
        ("hardswish", [], 90.0, (-3, 90)),
        ("silu", [], 5.0, (-6.5, 5)),
        ("sigmoid", [], 1.0, (-4.6, 4.6)),
        ("clamp", [0.0, 6.0], 6.0, (0, 6)),
        ("leaky_relu", [0.01], 5.0, (-100, 5)),
    ],
)
def test_where_an_activation_depends_on_its_input(
    name: str, operands: list[float], high: float, expected: tuple[float, float]
) -> None:
    low = -1.0 if name == "leaky_relu" else -0.4
    found = forms._before_activation(name, operands, low, high, 0.01)
    assert found == pytest.approx(expected, abs=0.2)


def test_clamps_that_saturation_does_anyway_are_left_out(
    qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    """relu6 ends at the largest code, relu at the zero point; hardswish is no clamp."""
    operators = written(qmodel, x, form="integer").file.operators
    assert "Relu" not in operators
    assert operators["HardSwish"] == 1


@pytest.mark.slow
def test_resnet18_runs_in_integers(tmp_path: Path) -> None:
    """All convolutions; sums but the last, whose result the model does not round; the head."""
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    resnet = quantized(classifier("resnet18"), images)
    file = qfx.export_onnx(resnet, tmp_path / "m.onnx", form="integer", example_inputs=images)
    check = qfx.check_onnx(resnet, file, images, by_site=True)
    assert check.integers["QLinearConv"] == 20
    assert check.integers["QLinearAdd"] >= 7
    assert check.integers["QGemm"] == 1
    assert all(site.steps <= 1 and site.share < 0.2 for site in check.sites)
    assert check.own is not None
    assert check.sqnr > check.own - 6  # of images this small the model makes 32 dB itself
    assert file.inputs["x"] == ("batch", 3, "height", "width")


class Pyramid(nn.Module):
    """What a feature pyramid does: features twice as small are enlarged, and added."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.down, self.inner = nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 1)
        self.top, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.body(x)
        coarse = self.top(torch.relu(self.down(fine)))
        fine = self.inner(fine)
        enlarged = nn.functional.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
        made: Tensor = self.head(fine + enlarged)
        return made


def test_enlarging_to_sizes_that_are_free_runs_in_integers(x: Tensor) -> None:
    """ONNX Runtime refused the sizes of a Resize that told those of some dims."""
    pyramid = written(quantized(Pyramid(), x), x, form="integer")
    assert pyramid.file.inputs["x"] == ("batch", 3, "height", "width")
    assert pyramid.check.integers["QLinearConv"] == 5
    assert pyramid.check.sqnr > 35


def test_a_form_that_does_not_load_is_left_out(
    qmodel: qfx.QuantizedModel, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: str) -> tuple[Any, dict[str, int]]:
        session, kernels = open_session(path)
        if kernels.get("QLinearAdd"):
            raise qfx.FormatError("ONNX Runtime can't load it")
        return session, kernels

    monkeypatch.setattr(trials, "open_session", refuses)
    exported = written(qmodel, x)
    assert exported.file.form == "exact"
    assert "integer: ONNX Runtime can't load it" in str(exported.file)


def test_unknown_form(qmodel: qfx.QuantizedModel, x: Tensor) -> None:
    known = "'auto', 'exact', 'scores', 'attention', 'bfloat16', 'integer', 'full_integer'"
    with pytest.raises(qfx.ConfigError, match=known):
        written(qmodel, x, form="fast")
