"""Rows and tables that can't be meant are refused when they are made, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from qfx import BackendError, vocab
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


def test_rows_that_are_meant() -> None:
    assert Backend("mine", (FORM,), {}).rule(vocab.CONV2D) is FORM
    assert Backend("mine", (ROW,), {}, **BOTH).rule(vocab.CONV2D) is ROW  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_our_tables_have_a_row_an_operation_and_method(name: str) -> None:
    if name not in available():
        pytest.skip(f"no {name} here")
    rows = [(rule.op, rule.method) for rule in resolve_backend(name).rules]
    assert len(set(rows)) == len(rows)
