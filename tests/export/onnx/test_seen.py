"""Ranges that are kept reach as far as the codes around them, whatever the examples are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.export.onnx.seen import run_seeing, see


class Gated(nn.Module):
    """A convolution that its own sigmoid gates, beside its result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(torch.cat([y * y.sigmoid(), y], 1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel(x: Tensor) -> qfx.QuantizedModel:
    return qfx.quantize(Gated().eval(), x, progress=False, check=False)


def test_small_examples_cut_no_larger_inputs_off(qmodel: qfx.QuantizedModel, x: Tensor) -> None:
    wanted, small = see(qmodel.reference, {"x": x}), see(qmodel.reference, {"x": x / 50})
    for needed, kept in ((wanted.results, small.results), (wanted.before_post, small.before_post)):
        assert needed.keys() == kept.keys()
        for name, (low, high) in needed.items():
            if "sigmoid" not in name:  # whose range is known
                assert kept[name][0] < 0.75 * min(low, 0)
                assert kept[name][1] > 0.75 * high


def test_examples_of_calibration_decide_by_themselves(
    qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    made, wide = run_seeing(qmodel.reference, {"x": x}, 1.5)
    exact = see(qmodel.reference, {"x": x})
    assert torch.equal(made, qmodel.reference(x))
    for name, (low, high) in exact.before_post.items():
        assert wide.before_post[name] == pytest.approx((1.5 * low, 1.5 * high), rel=0.1)


def test_what_was_seen_as_nothing_has_no_range(qmodel: qfx.QuantizedModel, x: Tensor) -> None:
    assert "first" not in str(see(qmodel.reference, {"x": torch.zeros_like(x)}).before_post)


def test_a_file_is_right_beyond_its_examples(
    qmodel: qfx.QuantizedModel, x: Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    for form, least in (("auto", 30.0), ("integer", 15.0)):
        qfx.export_onnx(qmodel, path, example_inputs=x / 50, form=form)
        assert qfx.check_onnx(qmodel, path, x).sqnr > least


def test_factors_are_left_out_where_no_form_rounds_them() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    qmodel = qfx.quantize(model, (x, x, x), progress=False, check=False)
    given = {"query": x, "key": x, "value": x}
    whole, part = (see(qmodel.reference, given, factors=kept) for kept in (True, False))
    assert whole.factors
    assert part == replace(whole, factors={})
