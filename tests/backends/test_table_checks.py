"""Rows and tables that can't be meant are refused when they are made, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import fx, nn

import qfx
from qfx import BackendError, Mismatch, PassError, vocab
from qfx.backends import NAMES, available, resolve_backend
from qfx.backends.base import Backend, Emitter, KernelRule, LoweringSite, Output, WeightRule
from qfx.quant.qparams import QParams

UNIT = QParams(1 / 256, 0, torch.uint8, 0, 255)


def emit(em: Emitter, site: LoweringSite) -> fx.Node:
    raise NotImplementedError


def quantize(em: Emitter, value: fx.Node, qparams: Any) -> fx.Node:
    raise NotImplementedError


ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "op": ({"op": "conv2d"}, "op is 'conv2d', no operation"),
    "kernel": ({"kernel": ""}, "kernel must be the name"),
    "demand": ({"demand": "asks"}, "demand is 'asks'"),
    "output": ({"output": "integer"}, "output is 'integer'"),
    "operand": ({"operands": ("x",)}, "conv2d has no operand 'x'; it has: input, weight"),
    "operands": ({"operands": "input"}, "operands is 'input'; give a tuple"),
    "weight": ({"op": vocab.RELU, "weight": WeightRule()}, "relu has no weight"),
    "post-op": ({"post": (("relu7",),)}, "there is no post-op 'relu7'; choose of add, clamp"),
    "post": ({"post": ("relu",)}, "give chains, tuples of names"),
    "no post": ({"op": vocab.MAX_POOL2D, "post": (("relu",),)}, "takes no post-ops"),
    "method": ({"method": "statics"}, "there is no method 'statics'; choose of 'static', 'dyn"),
    "emit": ({"emit": "conv"}, "emit is 'conv'; give a function"),
    "supports": ({"supports": True}, "supports is True"),
    "fixed": ({"fixed": UNIT}, "fixed goes with output=Output.FIXED"),
    "not fixed": ({"output": Output.FIXED}, "fixed goes with output=Output.FIXED"),
    "requantizes": ({"requantizes": True}, "output=Output.SHARED only"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_cannot_be_meant(name: str) -> None:
    options, message = ROWS[name]
    with pytest.raises(BackendError, match=r"KernelRule\(") as raised:
        KernelRule(**{"op": vocab.CONV2D, "kernel": "mine.conv", **options})
    assert message in str(raised.value)
    assert "mine.conv" in str(raised.value) or name == "kernel"


ROW = KernelRule(vocab.CONV2D, "mine.conv", weight=WeightRule(), emit=emit)
FORM = KernelRule(vocab.CONV2D, "mine.conv", weight=WeightRule())
BOTH = {"quantize": quantize, "dequantize": quantize}

TABLES: dict[str, tuple[tuple[KernelRule, ...], dict[str, Any], str]] = {
    "twice": (
        (ROW, KernelRule(vocab.CONV2D, "mine.other", emit=emit)), BOTH,
        "two rows for conv2d, static: 'mine.conv' and 'mine.other'",
    ),
    "emit without quantize": ((ROW,), {}, "the row of conv2d has an emit, which needs quantize"),
    "half": ((ROW,), {"quantize": quantize}, "give both quantize and dequantize"),
    "no emit": ((FORM,), BOTH, "the row of conv2d has no emit for its method 'static'"),
    "defaults": ((FORM,), {"defaults": {"statics": None}}, "defaults for 'statics'"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_cannot_be_meant(name: str) -> None:
    rules, options, message = TABLES[name]
    with pytest.raises(BackendError, match=r"Backend\('mine'\)") as raised:
        Backend(**{"name": "mine", "rules": rules, "defaults": {}, **options})
    assert message in str(raised.value)


LINEAR = nn.Linear(8, 8).eval()
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def test_a_layer_is_not_quantized_by_a_row_that_leaves_its_weight_float() -> None:
    row = KernelRule(vocab.LINEAR, "mine.linear")  # fine for a pass that fuses, and nothing else
    mine = Backend("mine", (row,), resolve_backend("reference").defaults)
    with pytest.raises(BackendError, match=r"'mine\.linear' of linear has no weight=") as raised:
        qfx.quantize(LINEAR, X, backend=mine)
    assert raised.value.node == "linear"


def _looks(node: fx.Node) -> Mismatch:
    return Mismatch(node.kwargs["nosuch"])


@pytest.mark.parametrize(
    ("supports", "said"),
    [
        (lambda node: True, "gave True at linear.*; return None where the kernel takes"),
        (lambda node: "no", "gave 'no' at linear"),
        (_looks, "raised KeyError: 'nosuch', at linear"),
    ],
)
def test_what_supports_gets_wrong_names_row_and_node(supports: Any, said: str) -> None:
    row = KernelRule(vocab.LINEAR, "mine.linear", weight=WeightRule(), supports=supports)
    mine = Backend("mine", (row,), resolve_backend("reference").defaults)
    wanted = f"supports= of the row 'mine.linear' of linear {said}"
    with pytest.raises(BackendError, match=wanted) as raised:
        qfx.quantize(LINEAR, X, backend=mine)
    assert raised.value.node == "linear"


def _raising(em: Emitter, value: fx.Node, qparams: Any) -> fx.Node:
    raise KeyError("z")


@pytest.mark.parametrize("hook", ["quantize", "dequantize"])
def test_what_boundaries_get_wrong_names_hook_backend_and_node(hook: str) -> None:
    reads = KernelRule(vocab.RELU, "mine.relu", output=Output.SHARED)
    x86 = resolve_backend("x86")

    def run(write: Any) -> qfx.QuantizedModel:
        hooks = {"quantize": x86.quantize, "dequantize": x86.dequantize, hook: write}
        mine = Backend("mine", (reads,), x86.defaults, **hooks)
        return qfx.quantize(nn.ReLU().eval(), X, backend=mine)

    with pytest.raises(BackendError, match=rf"{hook}= of Backend\('mine'\) gave None") as given:
        run(lambda em, value, qparams: None)
    with pytest.raises(PassError, match=rf"mine.{hook} at %.*raised KeyError") as raised:
        run(_raising)
    assert given.value.node == raised.value.node is not None


def test_a_measure_that_gives_no_pair_is_named() -> None:
    mine = replace(resolve_backend("x86"), name="mine", measure=lambda em, value, node: None)
    with pytest.raises(BackendError, match=r"measure= of Backend\('mine'\) gave None") as raised:
        qfx.quantize(LINEAR, X, backend=mine, method="dynamic")
    assert raised.value.node is not None


def test_rows_that_are_meant() -> None:
    assert Backend("mine", (FORM,), {}).rule(vocab.CONV2D) is FORM
    assert Backend("mine", (ROW,), {}, **BOTH).rule(vocab.CONV2D) is ROW  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_our_tables_have_a_row_an_operation_and_method(name: str) -> None:
    if name not in available():
        pytest.skip(f"no {name} here")
    rows = [(rule.op, rule.method) for rule in resolve_backend(name).rules]
    assert len(set(rows)) == len(rows)
