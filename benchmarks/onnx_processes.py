"""How long one operator takes ONNX Runtime from process to process, in qfx's file and in its own.

    python -m benchmarks.onnx_processes [vgg16_bn] [--operator QGemm] [--processes 10]

Each file is run in fresh processes, in turns, by ONNX Runtime's profiler, which times every node.
Of each process the median of a node's runs counts; of all processes the least, the median and the
most are shown: of the operators of that name, and of all others together. Where a large weight
comes to lie in memory is decided anew in each process: that is no property of a file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import models
from benchmarks.onnx import written
from qfx.export.onnx.export import FORMS
from qfx.table import markdown


def operator_times(path: Path, given: Any, threads: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a run by operator: of each node the median, those of an operator together."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(1 + rounds):
            session.run(None, {session.get_inputs()[0].name: given})
        events = json.loads(Path(session.end_profiling()).read_text())
    return by_operator(events)


def by_operator(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The same of the events that the profiler wrote, the first run of each node left out."""
    runs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    found: dict[str, float] = defaultdict(float)
    for (operator, _), times in runs.items():
        found[operator] += median(times[1:])
    return dict(found)


def measured(name: str, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Of each file what :func:`operator_times` finds in each process."""
    given = models.images(name, 1, seed=99).numpy()
    fresh = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        _, paths = written(name, options, Path(folder))
        found: dict[str, list[dict[str, float]]] = {file: [] for file in paths}
        with ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as processes:
            for _ in range(options.processes):
                for file, path in paths.items():
                    asked = (path, given, options.threads, options.rounds)
                    found[file].append(processes.submit(operator_times, *asked).result())
    return found


def row(file: str, runs: Sequence[dict[str, float]], operator: str) -> list[str]:
    """Least, median and most of all processes: of the operator, and of the others."""
    alone = [times.get(operator, 0.0) for times in runs]
    others = [sum(times.values()) - own for times, own in zip(runs, alone, strict=True)]
    spread = [f"{f(t):.2f}" for t in (alone, others) for f in (min, median, max)]
    return [file, *spread]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_processes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="vgg16_bn")
    parser.add_argument("--operator", default="QGemm")
    parser.add_argument("--processes", type=int, default=10, help="of each file")
    parser.add_argument("--rounds", type=int, default=10, help="runs that count in a process")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["auto"])
    parser.add_argument("--backend", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, default=2, help="of 4 images, to calibrate with")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = measured(options.model, options)
    spread = [f"{which} {of}" for of in (options.operator, "others") for which in _WHICH]
    rows = [row(file, runs, options.operator) for file, runs in found.items()]
    print(markdown([f"{options.model}, ms", *spread], rows))


_WHICH = ("least", "median", "most")

if __name__ == "__main__":
    main()
