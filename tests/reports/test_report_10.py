"""``nn.LSTM`` fed by ``pack_padded_sequence`` was opaque, and its work was not counted.

So the report said "100 % of MACs quantized", and ``min_coverage=0.9`` passed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)
from torch.utils import _pytree as pytree

import qfx
from qfx.backends.onednn import recurrent_emitters as x86_recurrent_emit
from tests.cases.flow import randn, seeded, sqnr

BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")
KINDS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@pytest.fixture(autouse=True)
def _kernels_for_small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x86_recurrent_emit, "FEWEST_UNITS", 0)


class Tagger(nn.Module):
    """Packs, runs, pads, and hands out all that there is."""

    def __init__(self, kind: str, ordered: bool, **options: Any) -> None:
        super().__init__()
        self.rnn = KINDS[kind](16, 24, batch_first=True, **options)
        self.head = nn.Linear(24 * (2 if self.rnn.bidirectional else 1), 4)
        self.ordered = ordered

    def forward(self, x: Tensor, lengths: Tensor, state: Any = None) -> Any:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=self.ordered)
        y, last = self.rnn(packed, state)
        y, lengths = pad_packed_sequence(y, batch_first=True)
        return self.head(y), last, lengths


class Taggers(nn.Module):
    def __init__(self, taggers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.taggers = nn.ModuleList(taggers)

    def forward(self, x: Tensor, lengths: Tensor) -> list[Any]:
        return [tagger(x, lengths) for tagger in self.taggers]


def batch(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    return randn(len(lengths), max(lengths), 16, seed=seed), torch.tensor(lengths)


SORTED, MIXED = [[6, 4, 4, 1], [9, 9]], [[1, 6, 4, 4], [3, 5, 5, 9, 1]]


def assert_close(model: nn.Module, qmodel: qfx.QuantizedModel, *args: Any) -> None:
    with torch.no_grad():
        expected, actual = model(*args), qmodel(*args)
        meant = qmodel.reference(*args)
    assert pytree.tree_structure(expected) == pytree.tree_structure(actual)
    leaves = (pytree.tree_leaves(each) for each in (expected, actual, meant))
    for wanted, got, of_reference in zip(*leaves, strict=True):
        if wanted is None:  # an order that is left out
            assert got is None
            continue
        assert got.shape == wanted.shape
        if not wanted.is_floating_point():
            assert torch.equal(got, wanted)
            continue
        assert sqnr(wanted, got) > 25
        assert sqnr(of_reference, got) > 30


CASES = [(k, b) for k in KINDS for b in BACKENDS if k != "rnn" or b in ("x86", "reference")]


@pytest.mark.sweep
@pytest.mark.parametrize("ordered", [True, False], ids=["sorted", "any order"])
@pytest.mark.parametrize(("kind", "backend"), CASES)
def test_packed_sequences_are_quantized(kind: str, backend: str, ordered: bool) -> None:
    first, second = SORTED if ordered else MIXED
    example = batch(first)
    deep = {"bidirectional": True, "num_layers": 2, "dropout": 0.3}
    model = Taggers(seeded(lambda o=o: Tagger(kind, ordered, **o)) for o in ({}, deep)).eval()
    options = {"method": "dynamic", "backend": backend, "min_coverage": 1.0}
    qmodel = qfx.quantize(model, example, **options)
    assert_close(model, qmodel, *example)
    assert_close(model, qmodel, *batch(second, seed=1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_initial_states_are_put_in_order(backend: str) -> None:
    model = seeded(lambda: Tagger("lstm", False, bidirectional=True)).eval()
    state = randn(2, 4, 24, seed=2).tanh(), randn(2, 4, 24, seed=3)
    args = (*batch(MIXED[0]), state)
    assert_close(model, qfx.quantize(model, args, method="dynamic", backend=backend), *args)


HALF = qfx.QConfig(activation=None, weight=qfx.QuantSpec(torch.float16))


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
@pytest.mark.parametrize("qconfig", [None, HALF], ids=["int8", "float16"])
def test_weights_alone_are_kept_in_few_bits(qconfig: qfx.QConfig | None, backend: str) -> None:
    model = seeded(lambda: Tagger("gru", False, bidirectional=True)).eval()
    example = batch(MIXED[0])
    options = {"method": "weight_only", "backend": backend, "qconfig": qconfig}
    qmodel = qfx.quantize(model, example, **options)
    assert all(s.decision == "quantized" for s in qmodel.report.sites if s.macs)
    assert_close(model, qmodel, *example)
    assert_close(model, qmodel, *batch(MIXED[1], seed=1))


class OnPacked(nn.Module):
    """Takes a PackedSequence, and returns one."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(16, 24), nn.Linear(24, 4)

    def forward(self, x: PackedSequence) -> Any:
        y, h = self.rnn(x)
        return y, self.head(y.data), h


def test_packed_sequences_may_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(OnPacked).eval()
    packed = pack_sequence([randn(2, 16), randn(5, 16)], enforce_sorted=False)
    other = pack_sequence([randn(n, 16, seed=n) for n in (4, 3, 3)])
    for fewest in (0, 1000):  # in integers, and in float over int8 weights
        monkeypatch.setattr(x86_recurrent_emit, "FEWEST_UNITS", fewest)
        qmodel = qfx.quantize(model, packed, method="dynamic", backend="x86")
        assert isinstance(qmodel(packed)[0], PackedSequence)
        assert_close(model, qmodel, packed)
    assert_close(model, qfx.quantize(model, other, method="dynamic", backend="x86"), other)


class Padded(nn.Module):
    """Takes a PackedSequence, and asks how it is sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(16, 24)

    def forward(self, x: PackedSequence) -> Tensor:
        return pad_packed_sequence(self.rnn(x)[0])[0]


def test_a_packed_sequence_of_another_order_is_refused() -> None:
    sequences = [randn(n, 16, seed=n) for n in (4, 3, 3)]
    model = seeded(Padded).eval()
    qmodel = qfx.quantize(model, pack_sequence(sequences), method="dynamic", backend="x86")
    assert_close(model, qmodel, pack_sequence([*sequences, randn(1, 16)]))
    with pytest.raises(qfx.ConfigError, match=r"argument x\[2\] = None"):
        qmodel(pack_sequence(sequences[::-1], enforce_sorted=False))


@pytest.mark.parametrize(
    ("options", "backend", "reason"),
    [
        ({"proj_size": 8}, "x86", "it projects its hidden state"),
        ({"nonlinearity": "relu"}, "fbgemm", "has no kernel for rnn"),
    ],
    ids=["proj_size", "rnn"],
)
def test_what_stays_float_counts(options: dict[str, Any], backend: str, reason: str) -> None:
    kind = "lstm" if "proj_size" in options else "rnn"
    model = seeded(lambda: Tagger(kind, True, **options)).eval()
    model.head = nn.Linear(options.get("proj_size", 24), 4)
    example = batch(SORTED[0])
    with pytest.raises(qfx.CoverageError, match=reason):
        qfx.quantize(model, example, method="dynamic", backend=backend, min_coverage=0.9)
    report = qfx.quantize(model, example, method="dynamic", backend=backend).report
    site = next(s for s in report.sites if s.module_path == "rnn")
    matrices = sum(p.numel() for p in model.rnn.parameters() if p.dim() == 2)
    assert (site.decision, site.macs) == ("float", 15 * matrices)
    assert not report.unknown
