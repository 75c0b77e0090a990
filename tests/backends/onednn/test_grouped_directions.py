"""Both directions of a recurrent layer as one convolution of two groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import qfx
from qfx.backends.onednn import as_convolutions, recurrent, recurrent_calls, recurrent_emitters
from qfx.backends.onednn.as_convolutions import is_convolution
from tests.cases.flow import randn, seeded, tensors
from tests.cases.recurrent import LAYERS, dynamic, state_of


@pytest.fixture(autouse=True)
def _kernels_that_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent_emitters, "FEWEST_UNITS", 0)
    monkeypatch.setattr(recurrent_emitters, "saturates", lambda: True)


def _grouped(qmodel: Any) -> list[bool]:
    """Of each layer, whether its directions are one convolution."""
    (call,) = (n for n in qmodel.graph.nodes if n.target is recurrent_calls.sequence)
    weights = [
        qmodel.get_buffer(part.target)
        for part in call.args[3][3 :: 2 * recurrent.PARTS]  # of one direction
    ]
    gates = [qmodel.get_buffer(p.target).numel() for p in call.args[3][2 :: 2 * recurrent.PARTS]]
    return [is_convolution(w) and w.shape[0] == 2 * n for w, n in zip(weights, gates, strict=True)]


@pytest.mark.parametrize(
    ("kind", "given"), [("lstm", False), ("lstm", True), ("gru", True), ("rnn", False)]
)
def test_the_numbers_are_those_of_a_product_a_direction(
    kind: str, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = seeded(lambda: LAYERS[kind](8, 16, 2, bidirectional=True))
    calls = [
        (randn(3, batch, 8), *([state_of(kind, 4, batch, 16)] if given else [])) for batch in (1, 3)
    ]
    grouped = dynamic(layer, *calls[0])
    monkeypatch.setattr(recurrent_emitters, "GROUPED_PRODUCTS", 0)
    apart = dynamic(layer, *calls[0])
    assert (_grouped(grouped), _grouped(apart)) == ([True, True], [False, False])
    for args in calls:
        pairs = zip(tensors(grouped(*args)), tensors(apart(*args)), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_one_direction_is_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(as_convolutions, "saturates", lambda: True)
    layer = seeded(lambda: nn.LSTM(8, 192))  # large enough for a convolution
    qmodel = dynamic(layer, randn(3, 1, 8))
    grouped = [tensors(qmodel(randn(3, batch, 8))) for batch in (1, 3)]
    monkeypatch.setattr(recurrent, "_FEW_GATES", 0)
    for batch, made in zip((1, 3), grouped, strict=True):
        pairs = zip(made, tensors(qmodel(randn(3, batch, 8))), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_packed_sequences_and_states_of_those_that_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = seeded(lambda: nn.GRU(8, 16, bidirectional=True))
    x = pack_sequence([randn(n, 8, seed=n) for n in (4, 3, 1)])
    grouped = dynamic(layer, x)
    monkeypatch.setattr(recurrent_emitters, "GROUPED_PRODUCTS", 0)
    (made, last), (expected, ended) = grouped(x), dynamic(layer, x)(x)
    assert _grouped(grouped) == [True]
    assert torch.equal(made.data, expected.data)
    assert torch.equal(last, ended)


@pytest.mark.parametrize(
    ("units", "batch", "most"),
    [(12, 1, 1 << 22), (16, 3, 2 * 4 * 16 * 16)],  # what kernels take in eights; a large batch
)
def test_directions_stay_apart_where_it_does_not_pay(
    units: int, batch: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent_emitters, "GROUPED_PRODUCTS", most)
    layer = seeded(lambda: nn.LSTM(8, units, bidirectional=True))
    assert _grouped(dynamic(layer, randn(2, batch, 8))) == [False]


def test_gates_that_do_not_fit_each_other_are_refused() -> None:
    """The kernel looks at no shape, and would write beyond."""
    layer = seeded(lambda: nn.GRU(8, 16, bidirectional=True))
    qmodel = dynamic(layer, randn(2, 1, 8))
    (call,) = (n for n in qmodel.graph.nodes if n.target is recurrent_calls.sequence)
    parts = [qmodel.get_buffer(part.target) for part in call.args[3]]
    other = dynamic(seeded(lambda: nn.GRU(8, 24, bidirectional=True)), randn(2, 1, 8))
    (call,) = (n for n in other.graph.nodes if n.target is recurrent_calls.sequence)
    larger = [other.get_buffer(part.target) for part in call.args[3]]
    forged = [*parts[:3], *larger[3:5], *parts[5:]]
    x = torch.zeros(2, 1, 8, dtype=torch.uint8)
    with pytest.raises(qfx.ConfigError, match="gates"):
        recurrent.run_layers(x, 0.1, 0, forged, [], "gru", 1, 0, 127, False)
