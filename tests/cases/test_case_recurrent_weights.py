"""Recurrent layers over weights in few bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import qfx
from tests.cases.flow import Branches, randn, run, seeded, sqnr, tensors
from tests.cases.recurrent import (
    BACKENDS,
    has_kernel,
)

HALF = qfx.QuantSpec(torch.float16)


KEPT: dict[str, tuple[qfx.QConfig, str, float]] = {
    "float16": (qfx.QConfig(weight=HALF), "float16", 60),
    "float16 dynamic": (
        qfx.QConfig(qfx.QuantSpec(torch.float16, dynamic=True), HALF),
        "float16",
        60,
    ),
    "int8": (qfx.get_default_qconfig("x86", "weight_only"), "int8", 35),
    "4 bits": (
        qfx.QConfig(
            weight=qfx.QuantSpec(torch.uint8, per_channel=True, group_size=8, quant_max=15)
        ),
        "4-bit",
        15,
    ),
}


IN_FEW_BITS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(8, 16, 2, bidirectional=True),
    "gru": lambda: nn.GRU(8, 16),
    "rnn": lambda: nn.RNN(8, 16, nonlinearity="relu"),
    "lstm cell": lambda: nn.LSTMCell(8, 16),
    "gru cell": lambda: nn.GRUCell(8, 16, bias=False),
    "rnn cell": lambda: nn.RNNCell(8, 16),
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", KEPT)
def test_weights_in_few_bits(config: str, backend: str) -> None:
    qconfig, kept, bound = KEPT[config]
    measures = config.endswith("dynamic")  # which fbgemm and qnnpack can't of plain RNNs
    names = [n for n in IN_FEW_BITS if not measures or has_kernel(n.split()[0], backend)]
    model = Branches(seeded(IN_FEW_BITS[name]) for name in names)
    x = [randn(3, 8) if "cell" in name else randn(5, 2, 8) for name in names]
    qmodel = qfx.quantize(model, (x,), method="weight_only", qconfig=qconfig, backend=backend)
    sites = [s for s in qmodel.report.sites if s.macs]
    assert len(sites) == len(names)
    for site in sites:
        if backend == "reference":
            assert (site.decision, site.kernel) == ("quantized", "reference")
        else:
            assert (site.kernel, site.reason) == (f"dequantized {kept} weights", "unfit-kernel")
    before, after = qmodel.report.size_bytes
    assert after < 0.6 * before
    for inputs in (x, [2 * i for i in x], [i[:1] for i in x], [i[0] for i in x]):
        results = (run(m, (inputs,)) for m in (model, qmodel, qmodel.reference))
        for name, *each in zip(names, *results, strict=True):
            for e, a, r in zip(*map(tensors, each), strict=True):
                assert sqnr(e, a) > bound, name
                assert torch.equal(a, r), name


@pytest.mark.slow
def test_compiled_over_weights_in_few_bits() -> None:
    torch._dynamo.reset()
    x = randn(5, 2, 8)
    qmodel = qfx.quantize(
        seeded(lambda: nn.GRU(8, 16)), x, method="weight_only", qconfig=KEPT["4 bits"][0]
    )
    compiled = torch.compile(qmodel, backend="aot_eager", fullgraph=True)
    for a, e in zip(tensors(compiled(x)), tensors(qmodel(x)), strict=True):
        assert torch.allclose(a, e, atol=1e-6)
