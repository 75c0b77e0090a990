"""The reference form is held to numbers that codes can have: graphs that are, and each fault."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.errors import VerifyError
from qfx.graph import meta
from qfx.graph.clone import clone_graph_module
from qfx.quant.code_checks import check_codes
from qfx.vocab import is_op


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


X = torch.randn(1, 2, 6, 6)


def quantized(method: str, **options: Any) -> fx.GraphModule:
    torch.manual_seed(0)
    made = qfx.quantize(Net().eval(), X, method=method, backend="reference", check=False, **options)
    return made.reference


STATIC = quantized("static")
FOUR_BITS = qfx.QConfig(
    weight=qfx.QuantSpec(
        torch.int8, symmetric=True, per_channel=True, quant_min=-8, quant_max=7, group_size=2
    )
)


def node(graph_module: fx.GraphModule, op: vocab.OpDef, reads: str = "") -> fx.Node:
    """The first call of ``op``; with ``reads`` the first that reads a node of such a name."""
    found = (n for n in graph_module.graph.nodes if is_op(n, op))
    return next(n for n in found if reads in str(n.args[0]))


def fault(changes: Any, method: str = "static", **options: Any) -> str:
    """What is said of a graph in which ``changes`` were made."""
    made = quantized(method, **options) if method != "static" else STATIC
    changed = clone_graph_module(made, deep=True)
    check_codes(changed)
    changes(changed)
    with pytest.raises(VerifyError) as caught:
        check_codes(changed)
    return str(caught.value)


def with_args(op: vocab.OpDef, at: int, value: object, reads: str = "") -> Any:
    def change(graph_module: fx.GraphModule) -> None:
        changed = node(graph_module, op, reads)
        changed.args = (*changed.args[:at], value, *changed.args[at + 1 :])

    return change


def with_option(op: vocab.OpDef, name: str, value: object, reads: str = "") -> Any:
    def change(graph_module: fx.GraphModule) -> None:
        changed = node(graph_module, op, reads)
        changed.kwargs = {**changed.kwargs, name: value}

    return change


def with_buffer(name: str, value: Tensor) -> Any:
    def change(graph_module: fx.GraphModule) -> None:
        path, _, last = name.rpartition(".")
        setattr(graph_module.get_submodule(path), last, value)
        for read in graph_module.graph.nodes:
            if read.op == "get_attr" and read.target == name:
                meta.set_value(read, meta.describe(value))

    return change


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 1e-60])
def test_scales_of_activations(scale: float) -> None:
    assert "positive finite" in fault(with_args(vocab.QUANTIZE, 1, scale))


def test_numbers_of_activations() -> None:
    assert "no number" in fault(with_args(vocab.QUANTIZE, 1, True))
    assert "no number" in fault(with_args(vocab.QUANTIZE, 2, 0.5))
    assert "outside the bounds" in fault(with_args(vocab.QUANTIZE, 2, 300))
    assert "outside the bounds" in fault(with_args(vocab.DEQUANTIZE, 2, -1))
    assert "no range of" in fault(with_option(vocab.QUANTIZE, "quant_min", 255))
    assert "no range of" in fault(with_option(vocab.QUANTIZE, "quant_max", 256))
    assert "no integers" in fault(with_option(vocab.QUANTIZE, "quant_max", 12.0))
    assert "no dtype of codes" in fault(with_option(vocab.QUANTIZE, "dtype", torch.float32))
    assert "no dtype of floats" in fault(with_option(vocab.DEQUANTIZE, "dtype", torch.int8))
    assert "need tensors" in fault(with_option(vocab.QUANTIZE, "axis", 0))


def test_scales_that_are_computed() -> None:
    def change(graph_module: fx.GraphModule) -> None:
        changed = node(graph_module, vocab.QUANTIZE)
        changed.args = (changed.args[0], changed.args[0], changed.args[2])

    assert "is computed" in fault(change)


def test_scales_of_weights() -> None:
    weight = {"op": vocab.DEQUANTIZE, "reads": "fc_weight"}
    option = lambda name, value: with_option(name=name, value=value, **weight)  # noqa: E731
    assert "has axis=2" in fault(option("axis", 2))
    assert "has axis=True" in fault(option("axis", True))
    assert re.search(r"scales of shape \[3\] where \[4\]", fault(option("axis", 1)))
    assert "do not fit" in fault(option("group_size", 10**9))
    scales = torch.ones(2), torch.tensor([1.0, math.nan, 1.0]), torch.tensor([1.0, 0.0, 1.0])
    for value, match in zip(scales, ("do not fit", "positive and", "positive and"), strict=True):
        assert match in fault(with_buffer("fc.weight_scale", value))
    assert "float32" in fault(with_buffer("fc.weight_scale", torch.ones(3).double()))


def test_zero_points_that_kernels_take_for_zero() -> None:
    zero = torch.tensor([0, 5, 0], dtype=torch.int8)
    assert "whose zero points are not 0" in fault(with_buffer("fc.weight_zero_point", zero))


def test_weights_of_another_dtype_than_the_layer_was_told() -> None:
    codes = torch.zeros(3, 4, dtype=torch.int16)
    assert "not torch.int8" in fault(with_buffer("fc.weight_q", codes))


def test_biases_of_another_length() -> None:
    assert "for 3 outputs" in fault(with_buffer("fc.bias_1", torch.zeros(7)))


def test_shapes_that_are_told_of_restored_weights() -> None:
    def change(graph_module: fx.GraphModule) -> None:
        told = meta.TensorInfo((3, 1 << 30), torch.float32)
        meta.set_value(node(graph_module, vocab.DEQUANTIZE, "fc_weight"), told)

    assert "is told to be [3, 1073741824]" in fault(change)


def test_four_bits_in_groups() -> None:
    def said(changes: Any) -> str:
        return fault(changes, "weight_only", qconfig=FOUR_BITS)

    unpack = vocab.UNPACK
    assert "unpacks 10 columns" in said(with_option(unpack, "columns", 10))
    assert "of torch.float32" in said(with_option(unpack, "dtype", torch.float32))
    weight = {"op": vocab.DEQUANTIZE, "reads": "fc_weight"}
    assert "groups of 3" in said(with_option(name="group_size", value=3, **weight))
    assert "groups of -2" in said(with_option(name="group_size", value=-2, **weight))
    assert "where [3, 1] are read" in said(with_option(name="group_size", value=4, **weight))


def test_columns_that_are_computed() -> None:
    def change(graph_module: fx.GraphModule) -> None:
        unpack = node(graph_module, vocab.UNPACK)
        with graph_module.graph.inserting_before(unpack):
            grown = graph_module.graph.call_function(
                vocab.REPEAT, (unpack.args[0],), {"repeats": (1 << 40,)}
            )
        unpack.kwargs = {**unpack.kwargs, "columns": grown}

    assert "unpacks" in fault(change, "weight_only", qconfig=FOUR_BITS)


def test_measured_numbers() -> None:
    def change(graph_module: fx.GraphModule) -> None:
        changed = node(graph_module, vocab.QUANTIZE)
        _, scale, zero = changed.args[:3]
        changed.args = (changed.args[0], zero, scale)

    assert "is computed" in fault(change, "dynamic")
    assert "no range" in fault(with_option(vocab.DYNAMIC_QPARAMS, "quant_min", 255), "dynamic")
