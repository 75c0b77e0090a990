"""Output SQNR and coverage of quantizers on the same models and the same calibration data.

    python -m benchmarks.accuracy [--models ...] [--engines ...] [--reuse FILE] [--json FILE]

Every (model, engine) pair is built in a process of its own by ``benchmarks.worker``. Weights are
random with randomised batch-norm statistics (``benchmarks.models``), calibration is 4 batches of
4, and SQNR is of the output for a batch of 4 that was not among them, against the float model:
10 log10(sum r^2 / sum (r - o)^2) dB. Coverage is the fraction of multiply-accumulates in integers.
Peers are slow and do not change: ``--reuse FILE`` takes from FILE what it holds for them, and adds
to it what it lacks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import models
from benchmarks.coordinator import Worker, WorkerError, engine_command, say
from benchmarks.engines import ENGINES
from qfx.table import markdown

QUANTIZERS = ("qfx-x86", "qfx-fbgemm", "torch.ao", "openvino")
_BATCH = 4
_EVALUATION = {"batch": _BATCH, "seed": 7}


@dataclass(frozen=True)
class Result:
    """One cell of the table: ``error`` is set where there is no number."""

    sqnr: float | None = None
    coverage: float | None = None
    build_seconds: float | None = None
    error: str | None = None

    def __str__(self) -> str:
        """SQNR in dB and coverage in percent, or why there is none."""
        if self.error is not None:
            return self.error if len(self.error) <= 24 else "failed"
        coverage = "" if self.coverage is None else f" ({self.coverage:.0%})"
        return f"{self.sqnr:.1f}{coverage}"


Results = dict[str, dict[str, Result]]


def measure(engine: str, model: str, threads: int) -> Result:
    """Build one engine for one model in a worker and ask for the SQNR."""
    missing = ENGINES[engine].missing()
    if missing:
        return Result(error="not installed")
    try:
        with Worker(engine_command(engine, model, batch=_BATCH, threads=threads)) as worker:
            sqnr = worker.request({"sqnr": _EVALUATION})["sqnr"]
            return Result(sqnr, worker.ready["coverage"], worker.ready["build_seconds"])
    except WorkerError as error:
        return Result(error=str(error))


def run(
    names: Sequence[str],
    engines: Sequence[str],
    known: Results,
    measure: Callable[[str, str], Result],
) -> Results:
    """Measure what ``known`` lacks, model by model; prints a line for each."""
    results: Results = {}
    for name in names:
        results[name] = {}
        for engine in engines:
            result = known.get(name, {}).get(engine)
            if result is None:
                say(f"{name}: building and comparing {engine}")
                result = measure(engine, name)
            results[name][engine] = result
            reason = f"  {result.error}" if result.error else ""
            print(f"{name:20} {engine:12} {result}{reason}", flush=True)
    return results


def report(results: Results, engines: Sequence[str]) -> str:
    """The table: a row a model, a column an engine, SQNR in dB (coverage of MACs)."""
    header = ["SQNR dB (MACs in integers)", *(ENGINES[engine].title for engine in engines)]
    rows = [[name, *(str(row[engine]) for engine in engines)] for name, row in results.items()]
    return markdown(header, rows)


def load(path: Path) -> Results:
    """Results written by :func:`save`, without failures (those are tried again); {} if none."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text())
    results = {
        name: {engine: Result(**fields) for engine, fields in row.items()}
        for name, row in stored.items()
    }
    return {
        name: {engine: result for engine, result in row.items() if result.error is None}
        for name, row in results.items()
    }


def save(path: Path, results: Results) -> None:
    """Write results as JSON."""
    stored = {
        name: {engine: asdict(result) for engine, result in row.items()}
        for name, row in results.items()
    }
    path.write_text(json.dumps(stored, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    known: Results = load(options.reuse) if options.reuse else {}
    peers = {
        name: {engine: cell for engine, cell in row.items() if not engine.startswith("qfx")}
        for name, row in known.items()
    }
    results = run(
        options.models,
        options.engines,
        peers,
        lambda engine, model: measure(engine, model, options.threads),
    )
    print("\n" + report(results, options.engines))
    if options.reuse:
        merged = {n: {**peers.get(n, {}), **results.get(n, {})} for n in {**peers, **results}}
        save(options.reuse, merged)
    if options.json:
        save(options.json, results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=list(models.CLASSIFIERS), metavar="MODEL")
    parser.add_argument(
        "--engines", nargs="+", default=list(QUANTIZERS), choices=list(ENGINES), metavar="ENGINE"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reuse", type=Path, help="cache of the peers' figures (JSON)")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
