"""What the nodes of a reference graph hold: qparams, bounds of codes, quantized weights."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import qfx
from qfx.errors import VerifyError
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Codes, Measured, codes_of, qparams_of, quantized_weight
from qfx.vocab import DEQUANTIZE, DYNAMIC_QPARAMS, LINEAR, QUANTIZE, OpDef, bound


def reference(method: str, weight: qfx.QuantSpec | None = None) -> fx.GraphModule:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU()).eval()
    qconfig = qfx.get_default_qconfig("reference", method)
    if weight is not None:
        qconfig = qfx.QConfig(activation=qconfig.activation, weight=weight)
    made = qfx.quantize(
        net, torch.randn(4, 64), method=method, backend="reference", qconfig=qconfig
    )
    assert isinstance(made, qfx.QuantizedModel)
    return made


def weight_of(owner: fx.GraphModule) -> fx.Node:
    (layer,) = of(owner, LINEAR)
    node: fx.Node = bound(layer)["weight"]
    return node


def of(owner: fx.GraphModule, op: OpDef) -> list[fx.Node]:
    return owner.graph.find_nodes(op="call_function", target=op)


@pytest.fixture(scope="module")
def static() -> fx.GraphModule:
    return reference("static")


def test_a_dequantize_holds_what_its_quantize_does(static: fx.GraphModule) -> None:
    quantize = of(static, QUANTIZE)[0]
    found = qparams_of(quantize, static)
    assert isinstance(found, QParams)
    assert (found.dtype, found.quant_min, found.quant_max) == codes_of(quantize)
    (reader,) = quantize.users
    assert qparams_of(reader, static) == found


def test_a_weight_is_its_codes_and_their_scales(static: fx.GraphModule) -> None:
    weight = weight_of(static)
    found = quantized_weight(weight, static)
    assert found is not None
    assert found.qparams == qparams_of(weight, static)
    assert found.qparams.axis == 0
    assert found.name == weight.all_input_nodes[0].target
    assert found.qparams.dequantize(found.integers).shape == (16, 64)


def test_4_bit_codes_come_unpacked() -> None:
    spec = qfx.QuantSpec(torch.uint8, quant_max=15, per_channel=True, group_size=32)
    owner = reference("weight_only", spec)
    found = quantized_weight(weight_of(owner), owner)
    assert found is not None
    assert found.qparams.group_size == 32
    assert found.integers.shape == (16, 64)
    assert int(found.integers.max()) <= 15


def test_halves_are_no_quantized_weight() -> None:
    owner = reference("weight_only", qfx.QuantSpec(torch.float16))
    assert quantized_weight(weight_of(owner), owner) is None


def test_what_is_measured_at_run_time_names_the_nodes_that_measure() -> None:
    owner = reference("dynamic")
    (quantize,), (measuring,) = of(owner, QUANTIZE), of(owner, DYNAMIC_QPARAMS)
    found = qparams_of(quantize, owner)
    assert isinstance(found, Measured)
    assert {found.scale, found.zero_point} == set(measuring.users)
    assert codes_of(measuring) == codes_of(quantize)


def test_codes_without_a_dtype_are_an_error() -> None:
    graph = fx.Graph()
    codes = graph.placeholder("codes")
    restored = graph.call_function(DEQUANTIZE, (codes, 0.5, 0))
    graph.output(restored)
    owner = fx.GraphModule(nn.Module(), graph)
    with pytest.raises(VerifyError, match=r"%codes.* of what dtype is not recorded"):
        qparams_of(restored, owner)
    meta.set_value(codes, meta.TensorInfo((2,), torch.int8))
    assert qparams_of(restored, owner) == QParams(0.5, 0, torch.int8, -128, 127)


def test_bounds_default_to_those_of_the_dtype() -> None:
    graph = fx.Graph()
    value = graph.placeholder("value")
    narrow = graph.call_function(QUANTIZE, (value, 0.5, 0), {"quant_max": 127})
    assert codes_of(narrow) == Codes(torch.uint8, 0, 127)
