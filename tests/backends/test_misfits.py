"""Why specs do not fit a kernel, in words: every reason of :mod:`qfx.backends.fitting`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qfx import vocab
from qfx.backends import available, resolve_backend
from qfx.backends.base import Backend
from qfx.backends.fitting import not_in, too_flat, unfit
from qfx.quant.spec import QConfig, QuantSpec
from qfx.vocab import OpDef
from tests.support.called import called

UINT8 = QuantSpec(torch.uint8)
PER_CHANNEL = QuantSpec(torch.uint8, per_channel=True, observer="per_channel_minmax")
DYNAMIC = QuantSpec(torch.uint8, dynamic=True)
INT8 = QuantSpec(torch.int8, symmetric=True, per_channel=True)
SHAPES = {vocab.LINEAR: ((2, 8), (4, 8)), vocab.CONV2D: ((2, 8, 5, 5), (4, 8, 3, 3))}


def reason(backend: Backend, op: OpDef, method: str, qconfig: QConfig) -> str:
    row = backend.rule(op, method)
    assert row is not None
    found = unfit(called(op, *SHAPES.get(op, ())), qconfig, row, backend)
    return "" if found is None else found.reason


CASES = {
    "activations": (
        *("reference", vocab.LINEAR, "static", QConfig(PER_CHANNEL, INT8)),
        "activations are quantized per tensor",
    ),
    "states": (
        *("reference", vocab.LSTM, "dynamic", QConfig(replace(DYNAMIC, power_of_two=True), INT8)),
        "hidden states are not measured in powers of two",
    ),
    "weight": (
        *("reference", vocab.LINEAR, "static", QConfig(UINT8)),
        "its QConfig has no weight spec",
    ),
    "halves": (
        *("fbgemm", vocab.CONV2D, "static", QConfig(weight=QuantSpec(torch.float16))),
        "its weight can't be kept in float16, only in integers",
    ),
    "alone": (
        *("fbgemm", vocab.CONV2D, "static", QConfig(weight=INT8)),
        "its weight can't be quantized alone, only with what it reads",
    ),
    "measured": (
        *("fbgemm", vocab.LINEAR, "dynamic", QConfig(replace(DYNAMIC, power_of_two=True), INT8)),
        "kernels of fbgemm measure activations themselves, as",
    ),
    "stored": (
        *("fbgemm", vocab.LINEAR, "weight_only", QConfig(weight=replace(INT8, dtype=torch.int16))),
        "weights are kept as int8 or uint8, not torch.int16",
    ),
    "axis": (
        *("fbgemm", vocab.LINEAR, "static", QConfig(UINT8, replace(INT8, axis=1))),
        "its kernel takes a weight scale per output channel (axis 0), not axis 1",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_says_why(name: str) -> None:
    backend, op, method, qconfig, words = CASES[name]
    if backend not in (*available(), "reference"):
        pytest.skip(f"no {backend}")
    assert reason(resolve_backend(backend), op, method, qconfig).startswith(words)


def test_what_fits_has_no_reason() -> None:
    reference = resolve_backend("reference")
    assert reason(reference, vocab.LINEAR, "static", QConfig(UINT8, INT8)) == ""


def test_a_method_that_has_no_row() -> None:
    rows = resolve_backend("reference").rows(vocab.EMBEDDING)
    said = not_in("static", rows).reason
    assert said.startswith("reference is not quantized in the way that its QConfig asks for")
    assert "(static), only: " in said


def test_an_input_without_a_batch() -> None:
    flat = too_flat(called(vocab.LINEAR, (8,), (4, 8)))
    assert flat is not None
    assert flat.reason == "its input has no batch dimension: [8]"
    assert too_flat(called(vocab.LINEAR, (1, 8), (4, 8))) is None
