"""Sequences of several lengths stay padded in files, beside their lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import qfx
from tests.cases.flow import randn, seeded, sqnr

AGREES = 90.0
KINDS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Tagger(nn.Module):
    """Packs, recurs, and hands out all that there is."""

    def __init__(self, kind: str = "lstm", ordered: bool = False, **options: Any) -> None:
        super().__init__()
        self.rnn = KINDS[kind](8, 12, **options)
        self.head = nn.Linear(12 * (2 if self.rnn.bidirectional else 1), 4)
        self.ordered, self.first = ordered, self.rnn.batch_first

    def forward(self, x: Tensor, lengths: Tensor, state: Any = None) -> Any:
        packed = pack_padded_sequence(x, lengths, self.first, enforce_sorted=self.ordered)
        y, last = self.rnn(packed, state)
        y, lengths = pad_packed_sequence(y, self.first)
        return self.head(y), last, lengths


def batch(lengths: list[int], steps: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    return randn(len(lengths), steps, 8, seed=seed), torch.tensor(lengths)


CASES: dict[str, dict[str, Any]] = {
    "plain": {"ordered": True, "batch_first": True},
    "any order": {"batch_first": True},
    "steps first": {},
    "gru": {"kind": "gru", "bidirectional": True, "num_layers": 2, "batch_first": True},
    "rnn": {"kind": "rnn", "nonlinearity": "relu", "bidirectional": True, "batch_first": True},
    "deep": {"bidirectional": True, "num_layers": 2, "batch_first": True},
}


@pytest.mark.parametrize("name", CASES)
def test_other_lengths_and_sizes(name: str, tmp_path: Path) -> None:
    model = seeded(lambda: Tagger(**CASES[name])).eval()
    example = batch([7, 5, 5, 2] if model.ordered else [5, 7, 2, 5])
    other = batch([6, 4] if model.ordered else [1, 6], steps=9, seed=1)
    if not model.first:
        example, other = ((x.transpose(0, 1), lengths) for x, lengths in (example, other))
    qmodel = qfx.quantize(model, example, method="static", backend="reference")
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact")
    for inputs in (example, other):  # the longest is shorter than there are steps
        assert qfx.check_onnx(qmodel, file, inputs).sqnr > AGREES


def test_fixed_sizes_leave_lengths_free(tmp_path: Path) -> None:
    model = seeded(lambda: Tagger(batch_first=True)).eval()
    example = batch([5, 7, 2])
    qmodel = qfx.quantize(model, example, method="static", backend="reference")
    path = tmp_path / "m.onnx"
    file = qfx.export_onnx(qmodel, path, form="exact", dynamic_shapes={})
    assert file.outputs["output_0"] == (3, "?", 4)
    assert qfx.check_onnx(qmodel, path, batch([4, 1, 3])).sqnr > AGREES


@pytest.mark.parametrize("name", ["gru", "rnn", "deep"])
def test_openvino_reads_the_same(name: str, tmp_path: Path) -> None:
    """It begins reversed sequences elsewhere, and ends short ones late: neither is left to it."""
    openvino = pytest.importorskip("openvino")
    model = seeded(lambda: Tagger(**CASES[name])).eval()
    example = batch([5, 7, 2])
    qmodel = qfx.quantize(model, example, method="static", backend="reference")
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    made = openvino.Core().compile_model(str(file.path), "CPU", options)(
        [t.numpy() for t in example]
    )
    y, last, lengths = qmodel.reference(*example)
    hidden = last[0] if isinstance(last, tuple) else last
    assert sqnr(y, torch.from_numpy(made[0])) > AGREES
    assert sqnr(hidden, torch.from_numpy(made[1])) > AGREES
    assert torch.from_numpy(made[len(made) - 1]).tolist() == lengths.tolist()


def test_initial_states_are_in_the_order_of_the_batch(tmp_path: Path) -> None:
    model = seeded(lambda: Tagger(bidirectional=True, batch_first=True)).eval()
    state = randn(2, 3, 12, seed=2).tanh(), randn(2, 3, 12, seed=3)
    inputs = (*batch([2, 7, 5]), state)
    qmodel = qfx.quantize(model, inputs, method="static", backend="reference")
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact")
    assert qfx.check_onnx(qmodel, file, inputs).sqnr > AGREES


class Between(nn.Module):
    """Computes with the rows of packed sequences between two layers; lengths are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(8, 12, batch_first=True), nn.LSTM(12, 6, batch_first=True)
        self.middle = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Any:
        lengths = (x.abs().sum(-1) != 0).sum(1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = self.first(packed)
        again = PackedSequence(torch.relu(self.middle(y.data)), *y[1:])
        y, (h, _) = self.second(again)
        padded, _ = pad_packed_sequence(
            y, batch_first=True, padding_value=-1.5, total_length=x.size(1)
        )
        return {"padded": padded, "rows": y.data, "sizes": y.batch_sizes, "last": h[-1]}


def test_rows_are_computed_with(tmp_path: Path) -> None:
    x, lengths = batch([3, 6, 1, 6])
    x = x * (torch.arange(7) < lengths.unsqueeze(1)).unsqueeze(2)
    qmodel = qfx.quantize(seeded(Between).eval(), x, method="static", backend="reference")
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", form="exact")
    check = qfx.check_onnx(qmodel, file, x)
    assert check.sqnr > AGREES
    assert {row.name: row.shape for row in check.outputs} == {
        "padded": (4, 7, 6),
        "rows": (16, 6),
        "sizes": (6,),
        "last": (4, 6),
    }


class Given(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 12), nn.Linear(12, 4)

    def forward(self, x: PackedSequence) -> Tensor:
        return self.head(self.rnn(x)[1][-1])


def test_what_is_given_packed_is_refused(tmp_path: Path) -> None:
    packed = pack_padded_sequence(*batch([7, 3]), batch_first=True)
    qmodel = qfx.quantize(seeded(Given).eval(), packed, backend="reference")
    with pytest.raises(qfx.ExportError, match="padded sequences and their lengths"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx")


def test_another_length_than_before_is_refused(tmp_path: Path) -> None:
    class Longer(Tagger):
        def forward(self, x: Tensor, lengths: Tensor, state: Any = None) -> Any:
            packed = pack_padded_sequence(x, lengths, True, enforce_sorted=False)
            y, _ = pad_packed_sequence(self.rnn(packed)[0], True, total_length=20)
            return self.head(y)

    model = seeded(lambda: Longer(batch_first=True)).eval()
    qmodel = qfx.quantize(model, batch([5, 7]), method="static", backend="reference")
    with pytest.raises(qfx.ExportError, match="total_length"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx")


def test_programs_have_none() -> None:
    example = batch([5, 7])
    qmodel = qfx.quantize(seeded(lambda: Tagger(batch_first=True)).eval(), example)
    with pytest.raises(qfx.ExportError, match="sequences of several lengths") as raised:
        qfx.export_pt2e(qmodel, example)
    assert all("test_packed.py" in problem.source for problem in raised.value.problems)
