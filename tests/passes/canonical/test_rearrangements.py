"""Names for what only moves or joins values, with their dims counted otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.vocab import OpDef
from qfx_passes import Canonicalize
from tests.cases.flow import randn, sqnr
from tests.passes.canonical.canonical_forms import (
    Lambda,
    calls,
    canonical,
    check_family,
    image,
    notes,
)

X = (2, 4, 6, 6)
_Spelling = Callable[[object, Tensor], object]

MOVES: list[tuple[OpDef, _Spelling]] = [
    (vocab.PERMUTE, lambda m, x: x.movedim(1, -1)),
    (vocab.PERMUTE, lambda m, x: torch.moveaxis(x, (0, 1), (-1, 0))),
    (vocab.PERMUTE, lambda m, x: torch.movedim(x, source=[2, 0], destination=[0, 3])),
    (vocab.CAT, lambda m, x: torch.hstack([x, x])),
    (vocab.CAT, lambda m, x: torch.vstack((x, x))),
    (vocab.CAT, lambda m, x: torch.row_stack((x, x))),
    (vocab.CAT, lambda m, x: torch.dstack([x, x])),
    (vocab.CAT, lambda m, x: torch.column_stack([x, x])),
    (vocab.REPEAT, lambda m, x: x.tile(2, 1)),
    (vocab.REPEAT, lambda m, x: torch.tile(x, (1, 1, 2, 1, 1))),
    (vocab.RESHAPE, lambda m, x: x.flatten(1).view_as(x)),
    (vocab.RESHAPE, lambda m, x: x.transpose(2, 3).reshape_as(x)),
    (vocab.EXPAND, lambda m, x: x[:1].expand_as(x)),
    (vocab.EXPAND, lambda m, x: torch.broadcast_to(x[:1], X)),
    (vocab.EXPAND, lambda m, x: x[:1].broadcast_to(X)),
    (vocab.FLATTEN, lambda m, x: torch.ravel(x)),
    (vocab.FLIP, lambda m, x: x.fliplr()),
    (vocab.FLIP, lambda m, x: torch.flipud(x)),
    (vocab.CHUNK, lambda m, x: torch.hsplit(x, 2)),
    (vocab.CHUNK, lambda m, x: x.vsplit(2)),
    (vocab.TENSOR_SPLIT, lambda m, x: x.hsplit((1, 3))),
    (vocab.CHUNK, lambda m, x: x.unsafe_chunk(2, 1)),
    (vocab.TRANSPOSE, lambda m, x: x.adjoint()),
    (vocab.SOFTMAX, lambda m, x: nn.Softmax2d()(x)),
]
ITSELF: list[_Spelling] = [
    lambda m, x: torch.atleast_3d(x * 2),
    lambda m, x: torch.positive(x * 2),
    lambda m, x: +(x * 2),
    lambda m, x: (x * 2).detach(),
    lambda m, x: (x * 2).data,
]
_LEFT: list[tuple[_Spelling, str]] = [
    (lambda m, x: torch.hstack([x[0, 0, 0], x[0, 0, 1]]), "tensors of fewer than 2 dims"),
    (lambda m, x: torch.dstack([x[0, 0], x[0, 1]]), "tensors of fewer than 3 dims"),
    (lambda m, x: torch.atleast_3d(x[0, 0]), "a tensor of fewer than 3 dims"),
    (lambda m, x: x[0, 0, 0].hsplit(2), "of a tensor of one dim"),
]


@pytest.mark.parametrize(("op", "spelling"), MOVES)
def test_moves(op: OpDef, spelling: _Spelling) -> None:
    result = canonical(spelling, image(*X))
    assert op in calls(result)
    assert all(isinstance(target, OpDef) for target in calls(result))
    assert not notes(result)


@pytest.mark.parametrize("spelling", ITSELF)
def test_what_hands_its_operand_through_is_gone(spelling: _Spelling) -> None:
    assert calls(canonical(spelling, image(*X))) == [vocab.MUL]


@pytest.mark.parametrize(("spelling", "reason"), _LEFT)
def test_what_is_left(spelling: _Spelling, reason: str) -> None:
    (note,) = notes(canonical(spelling, image(*X)))
    assert reason in note


def test_the_data_of_a_packed_sequence_is_left() -> None:
    def tagged(m: Any, x: Tensor) -> Any:
        lengths = torch.full((x.shape[0],), 4)
        return m.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[0].data

    result = canonical(tagged, image(2, 4, 6), rnn=nn.RNN(6, 3, batch_first=True))
    assert getattr in calls(result)
    assert any("it is no tensor" in note for note in notes(result))


class Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).detach())


def test_gradients_are_held_back_where_the_graph_is_trained() -> None:
    graph_module, _ = qfx.run_passes(Held().eval(), [Canonicalize(trainable=True)], randn(2, 4))
    assert len(graph_module.graph.find_nodes(op="call_function", target=vocab.DETACH)) == 1


class Moved(nn.Module):
    """Layers with nothing but moves in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x)).movedim(1, -1).movedim(-1, 1).fliplr()
        return self.second(torch.hstack([y, y.tile(1, 1).reshape_as(x)]))


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "reference"])
def test_what_moves_is_moved_in_integers(backend: str) -> None:
    torch.manual_seed(0)
    model, x, other = Moved().eval(), randn(2, 4, 6, 6), randn(3, 4, 8, 8)
    qmodel = qfx.quantize(model, x, backend=backend)
    assert {s.decision for s in qmodel.report.sites if s.reason != "removed"} == {"quantized"}
    assert sqnr(model(x), qmodel(x)) > 25
    assert qmodel(other).shape == other.shape


BEFORE = """\
%x       : f32[2,3] = input
%movedim : f32[3,2] = .movedim(%x, 0, 1)
return %movedim
"""

AFTER = """\
%x       : f32[2,3] = input
%movedim : f32[3,2] = permute(%x, dims=(1, 0))
return %movedim
"""

LEFT_OUT = """\
%x       : f32[2,3] = input
%movedim : f32[3,2] = .movedim(%x, 0, 1)
return %movedim
"""


def test_before_and_after() -> None:
    model = Lambda(lambda m, x: x.movedim(0, 1))
    check_family("rearrangements", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)
