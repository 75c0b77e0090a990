"""What the comparison of observers prints; qfx's histogram errs no more than torch.ao's."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from benchmarks import observers
from benchmarks.observers import Figures
from qfx.quant.spec import QuantSpec

THEIRS = "torch.ao HistogramObserver"
OURS = "qfx histogram (= mse)"


def test_report_has_a_row_for_each_observer() -> None:
    measured = {
        "normal": {"a": Figures(40.0, [0.001, 0.003, 0.009], [0.5])},
        "relu'd": {"a": Figures(45.0, [0.005], [0.1])},
    }
    lines = observers.report("8 bits", measured).splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert rows[0][1:-1] == ["8 bits", "normal dB", "relu'd dB", "observe ms", "choose ms"]
    assert rows[2][1:-1] == ["a", "40.00", "45.00", "4.00", "300.00"]


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    arguments = ["--bits", "4", "--values", "800", "--rows", "16", "--rounds", "1"]
    threads = ["--threads", str(torch.get_num_threads())]
    observers.main([*arguments, *threads, "--json", str(path)])
    printed = capsys.readouterr().out
    assert "| activations, 4 bits" in printed
    assert "| qfx per_channel_mse" in printed
    kept = json.loads(path.read_text())["weights, 4 bits"]["normal"]
    assert set(kept["qfx per_channel_mse"]) == {"sqnr", "observe", "choose"}


def test_without_torch_ao_ours_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    these = observers.contenders(("minmax",), ("MinMaxObserver",), QuantSpec(torch.uint8))
    assert list(these) == ["qfx minmax"]


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_more_error_than_torch_ao(bits: int, symmetric: bool) -> None:
    spec = QuantSpec(
        torch.int8 if symmetric else torch.uint8,
        symmetric=symmetric,
        quant_min=-(2 ** (bits - 1)) if symmetric else 0,
        quant_max=2 ** (bits - 1) - 1 if symmetric else 2**bits - 1,
    )
    these = observers.contenders(("histogram",), ("HistogramObserver",), spec)
    if THEIRS not in these:
        pytest.skip("this PyTorch has no torch.ao")
    for name, x in observers.distributions(40_000).items():
        figures = observers.measure(x, 4, these, 1)
        assert figures[OURS].sqnr > figures[THEIRS].sqnr - 0.01, name
