"""Recurrent layers whose hidden states are rounded at each step are written as a Scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded
from tests.export.onnx.test_packed import KINDS, Tagger, batch

AGREES = 90.0


class Whole(nn.Module):
    """A sequence and all that is left of it."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.rnn = KINDS[kind](8, 12, **options)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return self.rnn(x, state)


def agrees(model: nn.Module, folder: Path, *calls: tuple[Any, ...], **options: Any) -> bool:
    qmodel = qfx.quantize(model.eval(), calls[0], method="dynamic", backend="reference", **options)
    file = qfx.export_onnx(qmodel, folder / "m.onnx", form="exact")
    return all(qfx.check_onnx(qmodel, file, call).sqnr > AGREES for call in calls)


DEEP = {"bidirectional": True, "num_layers": 2, "batch_first": True}


@pytest.mark.parametrize("options", [{}, DEEP, {"bias": False}], ids=["plain", "deep", "no bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_layers(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = seeded(lambda: Whole(kind, **options))
    assert agrees(model, tmp_path, (randn(3, 7, 8),), (randn(5, 4, 8, seed=1),))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_initial_states(kind: str, tmp_path: Path) -> None:
    states = randn(2, 3, 12, seed=2).tanh(), randn(2, 3, 12, seed=3)
    model = seeded(lambda: Whole(kind, bidirectional=True))
    given = (randn(7, 3, 8), states if kind == "lstm" else states[0])
    assert agrees(model, tmp_path, given)


@pytest.mark.parametrize("options", [{"batch_first": True}, DEEP], ids=["plain", "deep"])
@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_several_lengths(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """What a sequence that has ended still holds is no part of the range."""
    model = seeded(lambda: Tagger(kind, **options))
    assert agrees(model, tmp_path, batch([2, 7, 5]), batch([6, 1], steps=9, seed=1))


@pytest.mark.parametrize("symmetric", [True, False])
def test_other_codes(symmetric: bool, tmp_path: Path) -> None:
    qconfig = qfx.QConfig(
        activation=qfx.QuantSpec(torch.int8, dynamic=True, symmetric=symmetric, quant_min=-127),
        weight=qfx.QuantSpec(torch.int8, symmetric=True),
    )
    model = seeded(lambda: Whole("lstm", bidirectional=True))
    assert agrees(model, tmp_path, (randn(7, 3, 8),), qconfig=qconfig)


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(8, 12), nn.GRUCell(12, 12), nn.RNNCell(12, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, c = self.lstm(x[0])
        h, c = self.lstm(x[1], (h, c))
        y = self.gru(h)
        return self.rnn(self.gru(c, y)), c


def test_cells(tmp_path: Path) -> None:
    assert agrees(seeded(Cells), tmp_path, (randn(2, 3, 8),), (randn(2, 5, 8, seed=1),))
