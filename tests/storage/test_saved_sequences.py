"""Models that pack sequences, or are given and return packed ones, come back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    unpack_sequence,
)
from torch.utils import _pytree as pytree

import qfx
from tests.cases.flow import seeded
from tests.export.onnx.test_packed import CASES, Given, Tagger, batch


def assert_same(model: Any, again: Any, *args: Any) -> None:
    with torch.no_grad():
        expected, found = map(pytree.tree_leaves, (model(*args), again(*args)))
    for theirs, mine in zip(expected, found, strict=True):
        assert mine is theirs is None or torch.equal(mine, theirs)


@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
@pytest.mark.parametrize("name", CASES)
def test_packing(name: str, method: str, tmp_path: Path) -> None:
    model = seeded(lambda: Tagger(**CASES[name])).eval()
    x, lengths = batch([7, 5, 2] if model.ordered else [5, 7, 2])
    example = (x if model.first else x.transpose(0, 1), lengths)
    qmodel = qfx.quantize(model, example, method=method)
    again = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    assert_same(qmodel, again, *example)
    assert_same(qmodel, again, example[0] * 2, torch.tensor([6, 4, 4]))


class Rows(Given):
    def forward(self, x: PackedSequence) -> Any:
        y, h = self.rnn(x)
        return y, self.head(y.data), h


def test_packed_sequences_come_and_go(tmp_path: Path) -> None:
    packed = pack_padded_sequence(*batch([3, 7]), batch_first=True, enforce_sorted=False)
    qmodel = qfx.quantize(seeded(Rows).eval(), packed, method="weight_only")
    again = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    assert isinstance(again(packed)[0], PackedSequence)
    assert_same(qmodel, again, packed)


@pytest.mark.parametrize("method", ["static", "qat"])
def test_prepared_ones(method: str, tmp_path: Path) -> None:
    model = seeded(lambda: Tagger(batch_first=True)).eval()
    example = batch([5, 7, 2])
    prepared = qfx.prepare(model, example, method=method)
    if method == "qat":
        prepared.train()(*example)
    else:
        qfx.calibrate(prepared, [example])
    again = qfx.load(qfx.save(prepared, tmp_path / "m.qfx"))
    assert_same(qfx.convert(prepared), qfx.convert(again), *example)


class Apart(nn.Module):
    """Takes sequences one by one, and returns them so: how many there are is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 12), nn.Linear(12, 4)

    def forward(self, *sequences: Tensor, scale: float = 1.0) -> list[Tensor]:
        y, _ = self.rnn(pack_sequence(list(sequences), enforce_sorted=False))
        return [self.head(each) * scale for each in unpack_sequence(y)]


def test_sequences_apart(tmp_path: Path) -> None:
    sequences = tuple(torch.randn(n, 8) for n in (3, 5, 2))
    qmodel = qfx.quantize(seeded(Apart).eval(), sequences, method="weight_only")
    again = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    assert_same(qmodel, again, *sequences)
    fast = qfx.compile(qmodel, {"sequences": sequences, "scale": 1.0}, engine="eager")
    assert_same(fast, qfx.load(qfx.save(fast, tmp_path / "fast.qfx")), *sequences)
    with pytest.raises(qfx.ExportError, match="numbers in tensors decide"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx")
