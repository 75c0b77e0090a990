"""The benchmark of trained models: how it splits its data, what it prints, and its figures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.trained import __main__ as command
from benchmarks.trained import audio, digits, tune
from benchmarks.trained.figures import mean, measured
from benchmarks.trained.quantizers import QUANTIZERS, Ours, Quantizer
from benchmarks.trained.subjects import SUBJECTS, Entry, Subject
from qfx.quant.reference_form import codes_of
from qfx.vocab import QUANTIZE, is_op
from tools.demo_data import accuracy


def toy(each: int) -> Subject:
    torch.manual_seed(0)
    groups = [[(torch.full((1, 3), 10.0 * g + s),) for s in range(each)] for g in range(8)]
    return Subject("toy", nn.Linear(3, 4).eval(), groups, classifies=True, batch=3)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_group_is_in_both_sets(seed: int) -> None:
    batches, test, truths = toy(each=4).split(seed, calibration=7, test=100)
    assert [len(batch[0]) for batch in batches] == [3, 3, 1]
    of_calibration = {int(row[0]) // 10 for batch in batches for row in batch[0]}
    of_test = {int(x[0, 0]) // 10 for (x,) in test}
    assert (len(of_calibration), len(of_test)) == (2, 6)
    assert not of_calibration & of_test
    assert truths == [None] * 24


def test_draws_differ_by_seed_alone() -> None:
    subject = toy(each=4)
    draws = [subject.split(seed, 8, 8)[0][0][0] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_figures_of_the_same_outputs() -> None:
    outputs = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])]
    found = measured(toy(1), [None, None], outputs, [o + 1e-4 for o in outputs], seconds=1.0)
    assert found.agreement == 1.0
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.least_cosine == pytest.approx(1.0, abs=1e-6)
    assert found.sqnr > 80
    assert math.isnan(found.right)


def test_embeddings_have_no_top_1() -> None:
    subject = Subject("toy", nn.Identity(), [], classifies=False)
    found = measured(subject, [3], [torch.ones(1, 2)], [torch.ones(1, 2)], seconds=1.0)
    assert math.isnan(found.agreement)
    assert math.isnan(found.right)
    assert mean([found, found]).cosine == pytest.approx(1.0)


@pytest.mark.parametrize(("near", "right"), [(0, 0.5), (1, 1.0)])
def test_only_samples_with_a_truth_are_right_or_wrong(near: int, right: float) -> None:
    subject = Subject("toy", nn.Identity(), [], classifies=True, near=near, logits=False)
    expected, found = torch.eye(3), torch.eye(3)[[0, 2, 2]]
    figures = measured(subject, [0, 1, None], list(expected.split(1)), list(found.split(1)), 1.0)
    assert (figures.right, figures.right_in_float) == (right, 1.0)
    assert math.isnan(figures.kl)


def test_truths_stay_with_their_samples() -> None:
    groups = [[(torch.tensor([[10.0 * g + s]]),) for s in range(2)] for g in range(8)]
    truths = [[10 * g, None] for g in range(8)]
    subject = Subject("toy", nn.Identity(), groups, classifies=True, truths=truths)
    draw = subject.split(0, 8, 100)
    assert [int(x) if x % 10 == 0 else None for (x,) in draw.test] == draw.truths


def test_bins_of_tones_are_those_of_their_pitch() -> None:
    ((frame, bin_), *_), *_ = audio.tones(1, 2)
    spectrum = torch.fft.rfft(frame[0], 2**16).abs()
    pitch = 10 * 2 ** ((20 * bin_ + 1997.38) / 1200)
    near = slice(int(0.97 * pitch * 4.096), int(1.03 * pitch * 4.096) + 1)
    assert spectrum[near].max() > 3 * spectrum.median()


@torch.no_grad()
def test_networks_take_what_is_heard() -> None:
    (((frame, _),),), ((mels,),) = audio.tones(1, 1), audio.voices(1, 1)
    assert audio.Crepe().eval()(frame).shape == (1, 360)
    assert audio.VoiceEncoder().eval()(mels).norm().item() == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", digits.MODELS)
def test_digits_are_learned(name: str) -> None:
    model, data = digits.trained(name)
    assert accuracy(model, *data.test) > 0.9


def test_a_band_of_mels_hears_its_tone() -> None:
    seconds = torch.arange(8000) / audio.RATE
    loud = [
        int(audio.mel_spectrogram((2 * math.pi * f * seconds).sin())[10].argmax())
        for f in (200, 1000, 4000)
    ]
    assert loud == sorted(set(loud))


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


def test_tuning_is_judged_by_samples_that_it_does_not_see(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SUBJECTS, "toy", Entry(toy, ()))
    tune.main(["--models", "toy", "--least", "0.5", "--budget", "30", "--test", "8"])
    printed = capsys.readouterr().out
    assert "Goal: a score of 0.5 or more: met" in printed
    assert "toy: 1.000 of the bytes" in printed or "toy: 0." in printed
    assert "of 8 other samples" in printed
