"""The commands: what they plan, reuse and print; nothing is timed here."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import (
    accuracy,
    cost,
    latency,
    overhead,
    parts,
    recurrent,
    throughput,
    training,
    weights,
)
from benchmarks.accuracy import Result
from benchmarks.coordinator import Timing
from benchmarks.engines import ENGINES, Engine
from qfx.numerics.measures import sqnr
from qfx.table import markdown


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("absent", "eager", "", "An absent peer", ("no_such_package",))
    monkeypatch.setitem(ENGINES, "absent", engine)


def test_sqnr_of_a_tenth_is_20_db() -> None:
    signal = torch.tensor([3.0, -4.0])
    assert sqnr(signal, 0.9 * signal) == pytest.approx(20.0, abs=1e-4)


def test_table_is_aligned_markdown() -> None:
    assert markdown(["what", "ms"], [["conv", "1.25"], ["relu", "10.50"]]) == (
        "| what |    ms |\n"
        "| ---- | ----: |\n"
        "| conv |  1.25 |\n"
        "| relu | 10.50 |"
    )  # fmt: skip


def test_every_engine_has_its_adapter() -> None:
    folder = Path(accuracy.__file__).parent / "engines"
    adapters = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {engine.module for engine in ENGINES.values()} == adapters


def test_latency_lists_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    absent(monkeypatch)
    monkeypatch.setattr(latency, "Worker", lambda command: pytest.fail(f"started {command}"))
    latency.main(["--models", "toy", "--engines", "absent", "--json", str(tmp_path / "l.json")])
    assert "| An absent peer | not installed |" in capsys.readouterr().out
    assert '"error": "not installed"' in (tmp_path / "l.json").read_text()


def test_latency_table_has_medians_minima_and_ratios() -> None:
    timings = {"eager": Timing([[0.004, 0.006]]), "qfx-x86": Timing([[0.001, 0.0015]])}
    rows = latency.report("toy", timings, {}).splitlines()
    assert [cell.strip() for cell in rows[2].split("|")[2:5]] == ["5.00", "4.00", "1.00"]
    assert [cell.strip() for cell in rows[3].split("|")[2:5]] == ["1.25", "1.00", "4.00"]


def test_accuracy_lists_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch)
    assert accuracy.measure("absent", "toy", threads=1) == Result(error="not installed")


def test_accuracy_reuses_peers_and_measures_the_rest() -> None:
    asked: list[tuple[str, str]] = []

    def measure(engine: str, model: str) -> Result:
        asked.append((engine, model))
        return Result(40.0, 0.99, 1.0)

    known = {"toy": {"torch.ao": Result(30.0, 1.0, 2.0)}}
    results = accuracy.run(["toy"], ["qfx-x86", "torch.ao"], known, measure)
    assert asked == [("qfx-x86", "toy")]
    row = accuracy.report(results, ["qfx-x86", "torch.ao"]).splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")[1:4]] == ["toy", "40.0 (99%)", "30.0 (100%)"]


def test_accuracy_tries_failures_again(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    good = Result(30.0, None, 2.0)
    accuracy.save(path, {"toy": {"torch.ao": good, "openvino": Result(error="exit code 1")}})
    assert accuracy.load(path) == {"toy": {"torch.ao": good}}
    assert accuracy.load(tmp_path / "nothing.json") == {}


def test_accuracy_never_reuses_qfx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    accuracy.save(path, {"toy": {"qfx-x86": Result(1.0), "torch.ao": Result(30.0)}})
    measured = Result(40.0, 1.0, 1.0)
    monkeypatch.setattr(accuracy, "measure", lambda engine, model, threads: measured)
    engines = ["--engines", "qfx-x86", "torch.ao"]
    accuracy.main(["--models", "toy", *engines, "--reuse", str(path)])
    assert accuracy.load(path) == {"toy": {"qfx-x86": measured, "torch.ao": Result(30.0)}}


def test_cost_plan_runs_the_peer_only_where_feasible() -> None:
    arguments = ["--graphs", "conv", "--sizes", "100", "200", "--peer-limit", "100"]
    options = cost._parser().parse_args([*arguments, "--models", "toy"])
    assert cost.plan(options) == [
        ("conv:100", "qfx"),
        ("conv:100", "torch.ao"),
        ("conv:200", "qfx"),
        ("toy", "qfx"),
        ("toy", "torch.ao"),
    ]


def test_cost_of_efforts_beside_each_other() -> None:
    options = cost._parser().parse_args(
        ["--graphs", "--models", "toy", "--engines", "qfx-fast", "qfx"]
    )
    assert cost.plan(options) == [("toy", "qfx-fast"), ("toy", "qfx")]


def test_cost_tables() -> None:
    steps = {"prepare": 1.0, "calibrate": 0.5, "convert": 0.5}
    memory = {"base_bytes": 1e6, "peak_bytes": 3e6, "cpu_seconds": 3.5}
    ours = {"steps": steps, "passes": {"fuse": 0.25}, "nodes": 1000, **memory}
    costs = {"conv:1000 qfx": ours, "conv:1000 torch.ao": {"steps": steps, **memory}}
    rows = [[c.strip() for c in r.split("|")] for r in cost.steps_report(costs).splitlines()]
    assert rows[2][1:-1] == ["conv:1000 qfx", "1.00", "0.500", "0.500", "2.00", "3.50", "2", "2000"]
    assert rows[3][-2] == ""
    assert cost.passes_report(costs).splitlines()[-1].split() == ["|", "fuse", "|", "0.250", "|"]


def test_cost_reports_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    failed = cost.measure("qfx", "conv:9", backend="x86", threads=1, repeats=3)
    assert failed["error"].startswith("exit code 1")
    assert "failed" in cost.steps_report({"conv:9 qfx": failed})


def test_weights_lists_every_way_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    weights.main(["--shapes", "2x32x64", "2x8x24", "--rounds", "1"])
    wide, narrow = capsys.readouterr().out.split("\n\n")[:2]
    assert "| _weight_int4pack_mm_for_cpu " in wide
    assert "| 4-bit, widened in blocks " in wide
    assert "int4" not in narrow
    assert "| _weight_int8pack_mm " in narrow


def test_recurrent_times_in_turns_and_prints_ratios_and_decibels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def form(name: str, factor: float) -> object:
        def run(x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
            calls.append(name)
            return factor * x, (factor * x,)

        return run

    made = {recurrent.FLOAT: form("float", 1.0), "other": form("other", 0.9)}
    monkeypatch.setattr(recurrent, "forms", lambda model, x: made)
    results = recurrent.compare("gru", 4, 1, 3, rounds=2)
    assert calls[:8] == ["float", "float", "other", "other"] * 2
    assert results["other"].output_db == pytest.approx(20.0, abs=1e-3)
    assert "| other " in recurrent.report("gru 4", results)


def test_parts_run_the_layers_of_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    parts.main(["--tokens", "4", "--layers", "1", "--rounds", "1", "--threads", "1"])
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["float", "kernels", "+ measured", "+ quantized"]
    block = parts.Block(4)
    with torch.no_grad():
        x = torch.randn(1, 4, 768)
        assert sqnr(block.in_float(x), block.in_integers(x, parts.quantize_dynamic)) > 25


def test_training_steps_of_all_engines_learn() -> None:
    engines = [training.Trainer(e, "toy", batch=4, size=16) for e in training.ENGINES]
    with torch.no_grad():
        before = [float(engine.model(engine.images).sum()) for engine in engines]
    assert all(engine.step() > 0 for engine in engines)
    with torch.no_grad():
        after = [float(engine.model(engine.images).sum()) for engine in engines]
    assert all(a != b for a, b in zip(before, after, strict=True))
    times = {engine: [0.1, 0.2, 0.3] for engine in training.ENGINES}
    rows = training.report("toy", times, dict.fromkeys(training.ENGINES, 10.0)).splitlines()
    assert [cell.strip() for cell in rows[2].split("|")[2:5]] == ["200.0", "100.0", "1.00"]


def test_throughput_counts_calls_of_all_callers() -> None:
    calls: list[int] = []
    assert throughput.rate(lambda: lambda: calls.append(1), callers=2, seconds=0.01) > 0
    assert len(calls) > 2


def test_throughput_tells_of_a_caller_that_fails() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        assert len(calls) < 3, "another result than alone"

    with pytest.raises(AssertionError, match="a caller failed: another result"):
        throughput.rate(lambda: call, callers=1, seconds=0.05)


def test_overhead_is_beyond_the_engine() -> None:
    seconds = {"fast": [12e-6, 15e-6, 14e-6], "by hand": [5e-6, 6e-6, 8e-6]}
    cells = ["12.0", "14.0", "5.0", "6.0", "7.0", "8.0"]
    assert overhead.row("acme", 1, seconds) == ["acme, 1 x 16", *cells]


def test_overhead_counts_as_many_calls_of_each() -> None:
    calls: list[str] = []
    made = {name: partial(calls.append, name) for name in ("fast", "by hand")}
    assert [len(each) for each in overhead.measure(made, overhead.TURN + 1).values()] == [200, 200]
    assert calls.count("fast") == calls.count("by hand") == 220


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_overhead_runs_the_engine_on_the_same_memory(engine: str) -> None:
    fast, x = overhead.compiled(engine, 2, 1)
    made = fast(x)
    wanted = made.clone()
    call = overhead.by_hand(fast, x, made.zero_())
    call()
    assert torch.equal(made, wanted)
