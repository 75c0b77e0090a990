"""Partition: what engines can't take stays in eager, in its order, and the pieces are few."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import qfx
from qfx.engines import writing
from qfx.engines.agreement import compare
from qfx.engines.base import CannotRun
from qfx.engines.pieces import partition
from qfx.export.onnx.forms import OnnxForm
from qfx.export.problems import Problem, opaque_modules


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Opaque(nn.Softplus):
    """Has a hook, which decides by values: nothing looks into it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(_bend)


def _bend(module: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> Tensor:
    return made * 1.5 if bool(made.sum() > 0) else made - 0.5


class Around(nn.Module):
    """Layers, what nothing looks into, layers."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.beside = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.middle, self.after = middle, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.middle(torch.relu(self.before(x)))
        return self.after(y * self.beside(x)), y


def compiled(model: nn.Module, *inputs: Any, engine: str = "openvino") -> qfx.CompiledModel:
    qmodel = qfx.quantize(model.eval(), inputs, progress=False)
    fast = qfx.compile(qmodel, inputs, engine=engine, threads=1)
    assert fast.engine == engine
    return fast


@pytest.fixture(scope="module")
def around() -> qfx.CompiledModel:
    return compiled(Around(Opaque()), noise(2, 3, 8, 8))


def test_an_opaque_module_stays_between_two_pieces(around: qfx.CompiledModel) -> None:
    for seed, batch in ((1, 2), (2, 3), (3, 2)):
        x = noise(batch, 3, 8, 8, seed=seed)
        found = compare(around.source.reference(x), around(x))
        assert found.wrong == ""
        assert found.sqnr > 30
    assert len(around.report.pieces) == 2
    (opaque,) = around.report.outside
    assert (opaque.node, opaque.module_path) == ("middle", "middle")
    assert "not looked into" in str(around.report)
    assert around.trials[0].macs_inside == 1.0


def test_what_does_not_wait_is_in_the_first_piece(around: qfx.CompiledModel) -> None:
    plan = around.choice.assembly.plan
    assert plan is not None
    first = [node.name for node in plan.pieces[0].graph_module.graph.nodes]
    assert any(name.startswith("beside") for name in first)


def test_pieces_that_are_too_small_are_not_made() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.opaque, self.last = nn.Conv2d(3, 8, 3), Opaque(), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.opaque(self.conv(x).mean((2, 3))))  # type: ignore[no-any-return]

    fast = compiled(Small(), noise(2, 3, 24, 24), engine="onnxruntime")
    assert len(fast.report.pieces) == 1
    assert any("too small to pay" in each.message for each in fast.report.outside)
    x = noise(2, 3, 24, 24, seed=4)
    assert compare(fast.source.reference(x), fast(x)).sqnr > 30


class Counting(nn.Module):
    """Counts its calls, in a buffer."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.count.add_(1)
        return self.conv(x), self.count * 2


def test_models_with_state_run_in_eager_and_keep_their_own() -> None:
    x = noise(1, 3, 8, 8)
    qmodel = qfx.quantize(Counting().eval(), x, progress=False)
    with pytest.raises(qfx.BackendError, match="the model writes to count; only eager keeps state"):
        qfx.compile(qmodel, x, engine="onnxruntime")
    fast = qfx.compile(qmodel, x)
    assert fast.engine == "eager"
    assert [float(fast(x)[1]) for _ in range(3)] == [2, 4, 6]
    assert float(qmodel(x)[1]) == 2


def test_order_is_kept_around_what_is_written_to() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            before = self.last(y)
            y[:, 0] = 3.0
            return before + self.last(y)  # type: ignore[no-any-return]

    x = noise(1, 3, 8, 8)
    qmodel = qfx.quantize(Overwrites().eval(), x, progress=False)
    fast = qfx.compile(qmodel, x, engine=["onnxruntime"])
    assert compare(qmodel.reference(x), fast(x)).sqnr > 30


def test_nothing_inside_is_a_reason() -> None:
    x = noise(2, 3, 8, 8)
    qmodel = qfx.quantize(Around(Opaque()).eval(), x, progress=False)
    reference = qmodel.reference
    refused = {problem.node: problem for problem in opaque_modules(reference)}
    assert len(partition(reference, refused).pieces) == 2
    whole = {node.name: refused["middle"] for node in reference.graph.nodes}
    assert partition(reference, whole).pieces == ()
    assert issubclass(CannotRun, Exception)


class States(nn.Module):
    """Hands out the states of a recurrent layer, taken apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, (h, c) = self.lstm(x)
        return self.head(y), (h, c)


def test_results_in_containers_are_taken_apart_inside() -> None:
    x = noise(3, 2, 4)
    qmodel = qfx.quantize(States().eval(), x, method="weight_only", check=False, progress=False)
    plan = partition(qmodel.reference, {})
    assert plan.is_plain
    lstm = next(node.name for node in qmodel.reference.graph.nodes if node.name == "lstm")
    refused = {lstm: Problem(lstm, "", "", "not today", "")}
    outside = partition(qmodel.reference, refused)
    assert len(outside.pieces) == 1


class Whole(nn.Module):
    """Hands out what recurrent layers yield, as they do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.gru = nn.LSTM(4, 4), nn.GRU(4, 4)

    def forward(self, x: Tensor) -> tuple[Any, Any]:
        y, state = self.lstm(x)
        return state, self.gru(y)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_states_that_are_returned_whole_are_inside(engine: str) -> None:
    fast = qfx.compile(Whole().eval(), noise(3, 2, 4), engine=engine, threads=1)
    assert fast.choice.assembly.is_plain
    for x in (noise(3, 2, 4), noise(5, 3, 4, seed=1)):
        found = compare(fast.source.reference(x), fast(x))
        assert found.wrong == ""  # tuples within tuples, as the reference yields
        assert found.sqnr > 35


class Filled(nn.Module):
    """Is filled up to windows by numbers out of a part of its shape, as swin's patches are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        h, w = y.shape[-2:]
        made: Tensor = self.second(nn.functional.pad(y, (0, -w % 4, 0, -h % 4)).tanh())
        return made


class Packs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.rnn = nn.Linear(8, 8), nn.GRU(8, 16, batch_first=True)
        self.after = nn.Linear(16, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y = torch.relu(self.before(x))
        packed = pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.after(y)


@pytest.fixture(scope="module")
def filled() -> qfx.QuantizedModel:
    return qfx.quantize(Filled().eval(), noise(2, 3, 9, 10), check=False, progress=False)


def test_numbers_out_of_a_part_of_a_shape_split_no_piece(filled: qfx.QuantizedModel) -> None:
    assert partition(filled.reference, {}).is_plain


def test_sizes_that_a_piece_can_not_have_leave_it_to_others(filled: qfx.QuantizedModel) -> None:
    (piece,) = partition(filled.reference, {}).pieces
    with pytest.raises(CannotRun, match="sizes"):
        writing.onnx_model(piece, OnnxForm.EXACT, ((2, 5, 9, 10),))


def test_packed_sequences_are_left_to_eager() -> None:
    """What packs them may be inside, memory that nothing was written to may not be handed out."""
    model, example = Packs(), (noise(3, 7, 8), torch.tensor([5, 7, 2]))
    fast = compiled(model, *example, engine="onnxruntime")
    other = noise(4, 9, 8), torch.tensor([1, 6, 4, 9])
    for inputs in (example, other):
        assert compare(model(*inputs), fast(*inputs)).sqnr > 25
    assert not fast.report.eager


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_where_sizes_are_filled_up_openvino_has_a_program_for_each(
    filled: qfx.QuantizedModel, engine: str
) -> None:
    fast = qfx.compile(filled, noise(2, 3, 9, 10), engine=engine, threads=1)
    (runner,) = fast.choice.assembly.runners
    assert runner.is_free == (engine == "onnxruntime")
    for shape in ((2, 3, 9, 10), (1, 3, 14, 10), (3, 3, 12, 17)):
        x = noise(*shape, seed=1)
        found = compare(filled.reference(x), fast(x))
        assert found.wrong == ""
        assert found.sqnr > 35
    assert fast.report.eager == []
