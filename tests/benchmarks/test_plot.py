"""Pictures show the figures of the files that benchmarks wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import plot

LATENCY = {
    "machine": {"cores": 2},
    "resnet18": {
        "eager": {"median_seconds": 0.04},
        "qfx-x86": {"median_seconds": 0.01},
        "openvino": {"error": "not installed"},
    },
}
TRAINED = {"minilm": {"qfx": [{"sqnr": 20.0}, {"sqnr": 24.0}]}}


def test_speeds_are_ratios_to_float() -> None:
    assert plot.speeds(LATENCY) == {"qfx, x86 form": {"resnet18": pytest.approx(4.0)}}


def test_seeds_are_averaged() -> None:
    assert list(plot.ratios(TRAINED).values()) == [{"minilm": pytest.approx(22.0)}]


def test_files_are_drawn_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = {"resnet18": {"qfx-x86": {"median_seconds": 0.02}}, "vgg": LATENCY["resnet18"]}
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, results in zip(files, (LATENCY, newer), strict=True):
        file.write_text(json.dumps(results))
    drawn: list[plot.Bars] = []
    monkeypatch.setattr(plot, "draw", lambda bars, axis, path: drawn.append(bars))
    plot.main(["latency", *map(str, files), "--out", str(tmp_path / "out.svg")])
    ratios = {"resnet18": pytest.approx(2.0), "vgg": pytest.approx(4.0)}
    assert drawn == [{"qfx, x86 form": ratios}]
