"""Attention in integers: its factors through codes, in the forms that have that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.export.onnx.seen import see
from qfx.numerics.measures import sqnr
from tests.cases.flow import randn, seeded

onnx = pytest.importorskip("onnx")

X = randn(2, 6, 16)
MASKS = {
    "none": None,
    "bool": torch.ones(6, 6, dtype=torch.bool).tril(),
    "added": torch.zeros(6, 6).masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), -1e4),
}


class Heads(nn.Module):
    """Attention of two heads, by PyTorch's function or written by hand."""

    def __init__(self, mask: Tensor | None, *, causal: bool = False, by_hand: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 4)
        self.register_buffer("mask", mask)
        self.causal, self.by_hand = causal, by_hand

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (2, 8)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        if self.by_hand:
            mixed = (q * 8**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def quantized(mask: Tensor | None = None, **options: bool) -> qfx.QuantizedModel:
    model = seeded(lambda: Heads(mask, **options))
    made = qfx.quantize(model, X, calibration_data=[X], progress=False, check=False)
    assert isinstance(made, qfx.QuantizedModel)
    return made


def products(path: Path) -> list[list[str]]:
    """Of each product of activations, the dtypes of the codes that are multiplied; "" of floats."""
    graph = onnx.load(path).graph
    stored = {each.name: each for each in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    dtypes = {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "uint8"}

    def codes(name: str) -> str | None:
        """None of a weight."""
        node = makers.get(name)
        while node is not None and node.op_type in ("Transpose", "Reshape"):
            node = makers.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return None if node is None else ""
        return None if node.input[0] in stored else dtypes[stored[node.input[2]].data_type]

    pairs = [[codes(name) for name in n.input] for n in graph.node if n.op_type == "MatMul"]
    return [[each or "" for each in pair] for pair in pairs if None not in pair]


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("exact", [["", ""], ["", ""]]),
        ("integer", [["", ""], ["", ""]]),
        ("scores", [["int8", "int8"], ["", ""]]),
        ("attention", [["int8", "int8"], ["uint8", "int8"]]),
        ("full_integer", [["", ""], ["", ""]]),
    ],
)
def test_factors_are_codes(
    form: str, expected: list[list[str]], by_hand: bool, tmp_path: Path
) -> None:
    qmodel = quantized(by_hand=by_hand)
    path = tmp_path / "heads.onnx"
    qfx.export_onnx(qmodel, path, form=form, example_inputs=X)
    assert products(path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("form", ["scores", "attention"])
@pytest.mark.parametrize("mask", [*MASKS, "causal"])
def test_means_nearly_the_same(form: str, mask: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    qmodel = quantized(MASKS.get(mask), causal=mask == "causal")
    path = tmp_path / "heads.onnx"
    qfx.export_onnx(qmodel, path, form=form, example_inputs=X)
    with torch.no_grad():
        expected = qmodel(X)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert sqnr(expected, torch.from_numpy(compiled(X.numpy())[0])) > 30


@pytest.mark.parametrize("mask", [*MASKS, "causal"])
def test_what_is_seen_of_them(mask: str) -> None:
    qmodel = quantized(MASKS.get(mask), causal=mask == "causal")
    seen = see(qmodel.reference, {"x": X})
    ((query, key, value, weights),) = seen.factors.values()
    for low, high in (query, key, value):
        assert low < 0 < high
    assert 0 <= weights[0] <= weights[1]
    assert (weights[1] >= 1) == (mask != "none")  # the first row sees one token alone


def test_without_examples_there_is_nothing_to_round_by(tmp_path: Path) -> None:
    path = tmp_path / "heads.onnx"
    qfx.export_onnx(quantized(), path, form="attention")
    assert products(path) == [["", ""], ["", ""]]
