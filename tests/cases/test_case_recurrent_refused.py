"""Recurrent layers that stay float, and why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import qfx
from qfx import vocab
from qfx.backends.onednn import recurrent as x86_recurrent
from tests.cases.flow import randn, run, seeded, sqnr, targets, tensors
from tests.cases.recurrent import (
    LAYERS,
    Wrapped,
    check,
    dynamic,
    state_of,
)


def head_and(layer: nn.Module, width: int = 16) -> nn.Module:
    return seeded(lambda: Wrapped(layer, width))


def reason_of(qmodel: qfx.QuantizedModel) -> tuple[str, str]:
    (site,) = (s for s in qmodel.report.sites if s.module_path == "layer")
    return site.reason, site.message


@pytest.mark.parametrize("kind", LAYERS)
def test_static_leaves_it_float(kind: str) -> None:
    model, x = head_and(LAYERS[kind](8, 16)), randn(5, 2, 8)
    qmodel = qfx.quantize(model, x, backend="x86")
    (site,) = (s for s in qmodel.report.sites if s.module_path == "layer")
    assert (site.decision, site.reason) == ("float", "no-kernel")
    assert site.remedy == "nothing to do if float is fine; else try method='dynamic'"
    for ours, theirs in zip(tensors(run(qmodel, (x,))), tensors(run(model, (x,))), strict=True):
        assert sqnr(theirs, ours) > 30


def test_projected_states_stay_float() -> None:
    model = head_and(nn.LSTM(8, 16, proj_size=4), 4)
    qmodel = dynamic(model, randn(5, 2, 8))
    reason, message = reason_of(qmodel)
    assert reason == "opaque-module"
    assert "proj_size=4" in message


def test_dropout_in_training_stays_as_it_is() -> None:
    model = head_and(nn.LSTM(8, 16, 2, dropout=0.5))
    model.layer.train()
    reason, message = reason_of(dynamic(model, randn(5, 2, 8)))
    assert reason == "opaque-module"
    assert "drops out" in message


def test_packed_sequences_count_their_rows() -> None:
    model, x = seeded(lambda: nn.LSTM(8, 16)), pack_sequence([randn(4, 8), randn(2, 8)])
    qmodel = dynamic(model, x)
    (site,) = (s for s in qmodel.report.sites if s.macs)
    assert (site.decision, site.macs) == ("quantized", 6 * 4 * 16 * (8 + 16))


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
def test_plain_rnns_have_no_quantized_kernel(backend: str) -> None:
    qmodel = dynamic(head_and(nn.RNN(8, 16)), randn(5, 2, 8), backend=backend)
    assert reason_of(qmodel)[0] == "not-dynamic"


def test_computed_weights_stay_float() -> None:
    """What an op reads must be constant; a state may be anything."""

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.start = nn.GRU(8, 16), nn.Parameter(torch.zeros(1, 1, 16))

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.layer(x, torch.tanh(self.start).expand(1, x.shape[1], 16).contiguous())
            return F.relu(y)

    model = seeded(Learned)
    check(model, dynamic(model, randn(5, 2, 8)), randn(4, 3, 8))


def test_layers_that_drop_inside_stay_as_they_are_in_training() -> None:
    gm, _ = qfx.run_passes(
        seeded(lambda: nn.LSTM(8, 16, 2, dropout=0.1).eval()),
        [qfx.get_pass("canonicalize")(trainable=True)],
        (randn(5, 8),),
    )
    assert vocab.LSTM not in targets(gm)


@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_what_modules_refuse_is_refused(backend: str) -> None:
    layer = seeded(lambda: nn.GRU(8, 16, 2))
    state = state_of("gru", 2, 3, 16)
    qmodel = dynamic(layer, randn(5, 3, 8), state, backend=backend)
    with pytest.raises(qfx.ConfigError, match=r"\(2, 1, 16\) where it takes \(2, 3, 16\)"):
        qmodel(randn(5, 3, 8), state[:, :1])
    with pytest.raises(qfx.ConfigError, match="no steps"):
        qmodel(torch.zeros(0, 3, 8), state)


def test_a_batch_of_nothing() -> None:
    layer = seeded(lambda: nn.LSTM(8, 16, 2, bidirectional=True))
    y, (h, c) = run(dynamic(layer, randn(5, 3, 8)), (torch.zeros(5, 0, 8),))
    assert (y.shape, h.shape, c.shape) == ((5, 0, 32), (4, 0, 16), (4, 0, 16))


def test_codes_made_in_few_calls_are_within_a_thousandth_of_rounding() -> None:
    for seed, scale in enumerate((1e-30, 1e-3, 1.0, 50.0, 0.0)):
        for codes in ((0, 255, False), (0, 127, False), (0, 255, True)):
            x = randn(2, 3, 1000, seed=seed) * scale
            made, step, zero = x86_recurrent._measured(x, codes)
            error = (made.double() - (x.double() / step + zero)).abs().max()
            assert error <= 0.502
            assert int(made.max()) <= codes[1]
