"""The benchmark of trained models: how it splits its data, what it prints, and its figures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.trained import __main__ as command
from benchmarks.trained.figures import mean, measured
from benchmarks.trained.quantizers import QUANTIZERS, Ours, Quantizer
from benchmarks.trained.subjects import SUBJECTS, Entry, Subject
from qfx.quant.reference_form import codes_of
from qfx.vocab import QUANTIZE, is_op


def toy(each: int) -> Subject:
    torch.manual_seed(0)
    groups = [[(torch.full((1, 3), 10.0 * g + s),) for s in range(each)] for g in range(8)]
    return Subject("toy", nn.Linear(3, 4).eval(), groups, classifies=True, batch=3)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_group_is_in_both_sets(seed: int) -> None:
    batches, test = toy(each=4).split(seed, calibration=7, test=100)
    assert [len(batch[0]) for batch in batches] == [3, 3, 1]
    of_calibration = {int(row[0]) // 10 for batch in batches for row in batch[0]}
    of_test = {int(x[0, 0]) // 10 for (x,) in test}
    assert (len(of_calibration), len(of_test)) == (2, 6)
    assert not of_calibration & of_test


def test_draws_differ_by_seed_alone() -> None:
    subject = toy(each=4)
    draws = [subject.split(seed, 8, 8)[0][0][0] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_figures_of_the_same_outputs() -> None:
    outputs = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])]
    found = measured(outputs, [o + 1e-4 for o in outputs], classifies=True, seconds=1.0)
    assert found.agreement == 1.0
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.least_cosine == pytest.approx(1.0, abs=1e-6)
    assert found.sqnr > 80


def test_embeddings_have_no_top_1() -> None:
    found = measured([torch.ones(1, 2)], [torch.ones(1, 2)], classifies=False, seconds=1.0)
    assert math.isnan(found.agreement)
    assert mean([found, found]).cosine == pytest.approx(1.0)


def test_the_table_has_a_line_for_what_is_missing_or_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(model: nn.Module, batches: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setitem(SUBJECTS, "toy", Entry(toy, ()))
    monkeypatch.setitem(SUBJECTS, "absent", Entry(toy, ("no_such_package",)))
    monkeypatch.setitem(QUANTIZERS, "fails", Quantizer("A failure", fails))  # type: ignore[arg-type]
    same = Quantizer("The same", lambda model, batches: lambda sample: model(*sample))
    monkeypatch.setitem(QUANTIZERS, "same", same)
    quantizers = ["--quantizers", "same", "fails", "--json", str(tmp_path / "kept.json")]
    command.main(["--models", "toy", "absent", "--seeds", "2", *quantizers])
    printed = capsys.readouterr().out
    assert "failed: ValueError: no such layer" in printed
    assert "not installed: no_such_package" in printed
    assert '"agreement": 1.0' in (tmp_path / "kept.json").read_text()


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_activations_have_eight_bits_whatever_the_cpu(method: str) -> None:
    batches = [(torch.randn(2, 3),)]
    made = Ours(options={"method": method}).quantized(nn.Linear(3, 4).eval(), batches)
    codes = [codes_of(n) for n in made.reference.graph.nodes if is_op(n, QUANTIZE)]
    assert codes == [(torch.uint8, 0, 255)]
