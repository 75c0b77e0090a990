r"""Latency of qfx and its peers, interleaved: medians, minima and ratios.

    python -m benchmarks.latency --models resnet50 mobilenet_v2 --batch 1 --threads 2
    python -m benchmarks.latency --models bert_base bert_base_linears \
        --engines eager qfx-x86-dynamic qfx-fbgemm-dynamic torch.ao-dynamic
    python -m benchmarks.latency --models resnet18 resnet50 mobilenet_v2 \
        --engines eager qfx-x86 qfx-openvino qfx-onnxruntime openvino onnxruntime

Every engine runs in a process of its own and is woken in turns, so that no two compute at once
and no thread pool disturbs another. "x eager" is the median over the rounds of eager's median
over the engine's: how many times as fast. Quote medians and ratios; the machine must be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.coordinator import (
    Requests,
    Timing,
    Worker,
    WorkerError,
    engine_command,
    interleave,
    say,
)
from benchmarks.engines import ENGINES
from qfx.table import markdown

BASELINE = "eager"
TIMED = [  # by default: static quantization, and not the q/dq form, whose arithmetic is float
    name for name in ENGINES if name != "qfx-reference" and not name.endswith("-dynamic")
]


def measure(
    model: str, engines: Sequence[str], options: argparse.Namespace
) -> tuple[dict[str, Timing], dict[str, str], dict[str, dict[str, Any]]]:
    """Timings of the engines that could be built, why others could not, and what each reported."""
    reasons: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers: dict[str, Requests] = {}
        for name in engines:
            if ENGINES[name].missing():
                reasons[name] = "not installed"
                continue
            say(f"{model}: building {name}")
            command = engine_command(name, model, batch=options.batch, threads=options.threads)
            try:
                worker = stack.enter_context(Worker(command))
            except WorkerError as error:
                reasons[name] = str(error)
                continue
            workers[name] = worker
            facts[name] = worker.ready
        say(f"{model}: timing {len(workers)} engines in {options.rounds} rounds")
        timings = interleave(
            workers,
            rounds=options.rounds,
            iterations=options.iterations,
            warmup=options.warmup,
        )
    return timings, reasons, facts


def report(model: str, timings: dict[str, Timing], reasons: dict[str, str]) -> str:
    """The table of one model: a row an engine, in milliseconds."""
    baseline = timings.get(BASELINE)
    rows = []
    for name in [*timings, *reasons]:
        if name in reasons:
            rows.append([ENGINES[name].title, _brief(reasons[name]), "", ""])
            continue
        timing = timings[name]
        ratio = "" if baseline is None else f"{timing.ratio(baseline):.2f}"
        milliseconds = [f"{1e3 * seconds:.2f}" for seconds in (timing.median, timing.minimum)]
        rows.append([ENGINES[name].title, *milliseconds, ratio])
    return markdown([model, "median ms", "min ms", "x eager"], rows)


def as_json(
    timings: dict[str, Timing], reasons: dict[str, str], facts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The same with all rounds, for a file."""
    measured = {
        name: {
            "median_seconds": timing.median,
            "min_seconds": timing.minimum,
            "rounds": timing.rounds,
            **facts.get(name, {}),
        }
        for name, timing in timings.items()
    }
    return {**measured, **{name: {"error": reason} for name, reason in reasons.items()}}


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "threads": options.threads,
        "batch": options.batch,
        "rounds": options.rounds,
        "iterations": options.iterations,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    results: dict[str, Any] = {"machine": machine(options)}
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: the load average is {load:.1f}; figures of a busy machine mean little")
    for model in options.models:
        timings, reasons, facts = measure(model, options.engines, options)
        print(report(model, timings, reasons) + "\n", flush=True)
        for name, reason in reasons.items():
            if reason != _brief(reason):
                print(f"{name}: {reason}")
        results[model] = as_json(timings, reasons, facts)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _brief(reason: str) -> str:
    return reason if len(reason) <= 20 else "failed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["resnet50", "mobilenet_v2"], metavar="M")
    parser.add_argument(
        "--engines", nargs="+", default=list(TIMED), choices=list(ENGINES), metavar="ENGINE"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--iterations", type=int, default=20, help="timed, a round and engine")
    parser.add_argument("--warmup", type=int, default=5, help="untimed, before them")
    parser.add_argument("--json", type=Path, help="write all rounds here")
    return parser


if __name__ == "__main__":
    main()
