"""What quantizing costs: seconds by step and pass, and memory, against the size of the graph.

    python -m benchmarks.cost [--sizes 1000 10000 100000] [--peer-limit 1000] [--json FILE]
    python -m benchmarks.cost --graphs --models resnet50 vit_b_16 --engines qfx-fast qfx
    python -m benchmarks.cost --graphs --models resnet50 --engines qfx-unchecked qfx

Subjects are generated chains of ``--sizes`` operations (residual Linears, conv + batch-norm +
relu) and torchvision models; each is quantized in a fresh process. Memory is the peak of resident
memory less what the process held with the model loaded. torch.ao's convert is more than quadratic
in the graph (minutes at 4,000 nodes), so it is run up to ``--peer-limit`` operations only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import graphs
from benchmarks.coordinator import Worker, WorkerError, say
from benchmarks.cost_worker import COSTS
from qfx.table import markdown

STEPS = ("prepare", "calibrate", "convert")
Costs = dict[str, dict[str, Any]]


def measure(
    engine: str, subject: str, *, backend: str, threads: int, repeats: int
) -> dict[str, Any]:
    """The cost in a fresh process; of several, the one with the median total."""
    command = [sys.executable, "-m", "benchmarks.cost_worker", "--engine", engine]
    command += ["--subject", subject, "--backend", backend]
    command += ["--threads", str(threads)]
    try:
        runs = [_run(command) for _ in range(repeats)]
    except WorkerError as error:
        return {"error": str(error)}
    middle = median(total(run) for run in runs)
    return min(runs, key=lambda run: abs(total(run) - middle))


def total(cost: dict[str, Any]) -> float:
    """Seconds of all steps."""
    return float(sum(cost["steps"].values()))


def plan(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(subject, engine) in the order they are run."""
    sized = [(f"{kind}:{size}", size) for kind in options.graphs for size in options.sizes]
    subjects = [*sized, *((model, 0) for model in options.models)]
    return [
        (subject, engine)
        for subject, size in subjects
        for engine in options.engines
        if engine != "torch.ao" or size <= options.peer_limit
    ]


def steps_report(costs: Costs) -> str:
    """A row a (subject, engine): seconds by step, memory, microseconds a captured node."""
    header = ["seconds", *STEPS, "total", "of CPU", "peak MB", "us/node"]
    return markdown(header, [_row(name, cost) for name, cost in costs.items()])


def passes_report(costs: Costs) -> str:
    """A row a pass, a column a subject: seconds in qfx's passes."""
    ours = {n.removesuffix(" qfx"): c["passes"] for n, c in costs.items() if "passes" in c}
    names = list(dict.fromkeys(name for passes in ours.values() for name in passes))
    rows = [[name, *(_seconds(passes.get(name)) for passes in ours.values())] for name in names]
    return markdown(["seconds by pass", *ours], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    costs: Costs = {}
    for subject, engine in plan(options):
        repeats = 1 if ":" in subject else options.repeats
        backend = "x86" if engine == "torch.ao" else options.backend
        say(f"{subject}: quantizing with {engine}" + (f", {repeats} times" if repeats > 1 else ""))
        cost = measure(engine, subject, backend=backend, threads=options.threads, repeats=repeats)
        costs[f"{subject} {engine}"] = cost
        outcome = cost.get("error") or f"{total(cost):.2f} s"
        print(f"{subject:14} {engine:10} {outcome}", flush=True)
    print("\n" + steps_report(costs) + "\n\n" + passes_report(costs))
    if options.json:
        options.json.write_text(json.dumps(costs, indent=1) + "\n")


def _run(command: Sequence[str]) -> dict[str, Any]:
    with Worker(command) as worker:
        return worker.ready


def _row(name: str, cost: dict[str, Any]) -> list[str]:
    if "error" in cost:
        return [name, "failed", *[""] * 6]
    steps = [_seconds(cost["steps"][step]) for step in STEPS]
    megabytes = (cost["peak_bytes"] - cost["base_bytes"]) / 1e6
    nodes = cost.get("nodes")
    each = f"{1e6 * total(cost) / nodes:.0f}" if nodes else ""
    cpu = _seconds(cost["cpu_seconds"])
    return [name, *steps, _seconds(total(cost)), cpu, f"{megabytes:.0f}", each]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = list(graphs.GENERATORS)
    parser.add_argument("--graphs", nargs="*", default=kinds, choices=kinds)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--models", nargs="*", default=["resnet50"], metavar="MODEL")
    parser.add_argument("--engines", nargs="+", default=["qfx", "torch.ao"], choices=list(COSTS))
    parser.add_argument(
        "--peer-limit", type=int, default=1_000, help="most operations for torch.ao"
    )
    parser.add_argument("--backend", default="x86", help="qfx's")
    parser.add_argument("--repeats", type=int, default=3, help="runs of a torchvision model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write everything here")
    return parser


if __name__ == "__main__":
    main()
