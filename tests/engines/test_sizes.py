"""Programs for all sizes, programs for one, and eager for what is beyond them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.engines import BuildSettings, Built, Piece, agreement, registry
from qfx.engines.assembly import MOST_BUILDS, plan_for
from qfx.engines.base import CannotRun
from qfx.export.onnx.forms import OnnxForm
from tests.support.engines import Fake


class WrongWhenFree(Fake):
    """Right for sizes that it was built for, and for the examples'."""

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        self.built.append(settings)

        def program(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            own = settings.shapes is not None or len(inputs[0]) == 2
            return [made if own else -made for made in piece.graph_module(*inputs)]

        return Built(program, lambda shapes: settings.shapes in (None, shapes))


class FailsLater(Fake):
    """Raises for batches of 5."""

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        self.built.append(settings)

        def program(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            if len(inputs[0]) == 5:
                raise RuntimeError("out of luck")
            return list(piece.graph_module(*inputs))

        return Built(program, lambda shapes: True)


class FasterWhenFixed(Fake):
    """Its integer form is slower than the exact one in a program for all sizes, else faster."""

    def forms(self, piece: Piece) -> Sequence[OnnxForm]:
        return (OnnxForm.INTEGER, OnnxForm.EXACT)

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        exact, free = settings.form is OnnxForm.EXACT, settings.shapes is None
        seconds = 0.01 if exact else 0.02 if free else 0.002

        def program(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            time.sleep(seconds)
            return list(piece.graph_module(*inputs))

        return Built(program, lambda shapes: settings.shapes in (None, shapes))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def noise(rows: int) -> Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))


@pytest.fixture(scope="module")
def qmodel() -> qfx.QuantizedModel:
    return qfx.quantize(model(), noise(2), progress=False)


def compiled(
    fake: Fake, qmodel: qfx.QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> qfx.CompiledModel:
    monkeypatch.setattr(registry, "engines", lambda: {"fake": fake})
    return qfx.compile(qmodel, noise(2), engine="fake")


def test_a_program_that_is_wrong_for_others_is_given_up(
    qmodel: qfx.QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = WrongWhenFree()
    fast = compiled(fake, qmodel, monkeypatch)
    for rows in range(1, 2 + MOST_BUILDS):
        assert torch.equal(fast(noise(rows)), qmodel.reference(noise(rows)))
    own = [settings.shapes for settings in fake.built if settings.shapes is not None]
    assert ((3, 8),) in own
    assert fast.report.eager == []
    with pytest.warns(qfx.QfxWarning, match="other sizes have builds of their own"):
        made = fast(noise(40))
    torch.testing.assert_close(made, qmodel(noise(40)))
    assert len(fast.report.eager) == 1
    assert "calls in eager" in str(fast.report)


def test_one_program_serves_all_sizes_where_it_is_right(
    qmodel: qfx.QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    fast = compiled(fake, qmodel, monkeypatch)
    before = len(fake.built)
    for rows in range(1, 30):
        assert torch.equal(fast(noise(rows)), qmodel.reference(noise(rows)))
    assert len(fake.built) == before


def test_a_call_that_fails_runs_in_eager(
    qmodel: qfx.QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = compiled(FailsLater(), qmodel, monkeypatch)
    for rows in (3, 4, 6, 7):
        assert torch.equal(fast(noise(rows)), qmodel.reference(noise(rows)))
    with pytest.warns(qfx.QfxWarning, match=r"fake can't run \(float32\[5, 8\]\): out of luck"):
        assert torch.equal(fast(noise(5)), qmodel(noise(5)))
    assert torch.equal(fast(noise(5)), qmodel(noise(5)))  # and is not asked again


class Halves(nn.Module):
    """Takes even numbers of rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] % 2:
            raise ValueError("an odd number of rows")
        return self.layer(x) * (x.shape[0] // 2)  # type: ignore[no-any-return]


def test_guards_of_the_model_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = qfx.quantize(Halves().eval(), noise(2), progress=False)
    fast = compiled(Fake(), halves, monkeypatch)
    assert torch.equal(fast(noise(6)), halves.reference(noise(6)))
    with pytest.raises(type(_raised(halves, noise(3)))):
        fast(noise(3))


def _raised(module: nn.Module, x: Tensor) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the model raises
        module(x)
    return caught.value


def test_the_form_is_chosen_by_the_program_that_will_run(
    qmodel: qfx.QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = compiled(FasterWhenFixed(), qmodel, monkeypatch)
    (trial,) = fast.trials
    assert trial.form == "integer"
    assert trial.median_ms < 15  # that of its program for all sizes takes 20
    assert torch.equal(fast(noise(5)), qmodel.reference(noise(5)))


def test_programs_are_built_for_the_sizes_of_the_examples(
    qmodel: qfx.QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setattr(registry, "engines", lambda: {"fake": fake})
    fast = qfx.compile(qmodel, noise(3), engine="fake", dynamic=False)  # captured with two rows
    assert [settings.shapes for settings in fake.built] == [((3, 8),)]
    assert torch.equal(fast(noise(3)), qmodel.reference(noise(3)))


@pytest.mark.parametrize("floor", [25.0, 45.0])
def test_other_sizes_have_a_floor_of_their_own(
    qmodel: qfx.QuantizedModel, monkeypatch: pytest.MonkeyPatch, floor: float
) -> None:
    (piece,) = plan_for(Fake(), qmodel.reference).pieces
    (wanted,) = piece.graph_module(noise(9))
    off = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0)) * wanted.std()

    def moved(decibels: float) -> Tensor:
        return wanted + off * 10 ** (-decibels / 20)

    monkeypatch.setattr(agreement, "run_moved", lambda *args: (moved(floor),))
    refused = nullcontext() if floor < 30 else pytest.raises(CannotRun, match="other sizes")
    with refused:  # as far as float arithmetic takes it, or further
        agreement.HoldsAgainst(agreement.AGREES)(piece, lambda _: (moved(23),), (noise(9),))
