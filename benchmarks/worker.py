"""One engine with one model in a process of its own, told by the coordinator when to run.

Reads one JSON object a line from standard input, answers one a line on the stream that was
standard output at the start; whatever libraries print goes to standard error.

    {"run": {"iterations": 20, "warmup": 5}}   -> {"seconds": [...]}
    {"sqnr": {"batch": 4, "seed": 7}}          -> {"sqnr": 31.7}
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import torch

from benchmarks import models
from benchmarks.engines import ENGINES, Built, Workload


def main() -> None:
    """Build the engine, report, then serve commands until standard input ends."""
    arguments = _parser().parse_args()
    with protocol_stream() as replies:
        workload, built, seconds = _build(arguments)
        ready = {
            "build_seconds": seconds,
            "peak_bytes": peak_bytes(),
            "coverage": built.coverage,
            "details": built.details,
        }
        reply(replies, ready)
        for line in sys.stdin:
            reply(replies, _serve(json.loads(line), arguments.model, workload, built))


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def protocol_stream() -> Iterator[TextIO]:
    """The original standard output; descriptor 1 is standard error's from here on."""
    sys.stdout.flush()
    original = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(original, "w") as stream:
        yield stream


def reply(stream: TextIO, message: dict[str, Any]) -> None:
    """Write one message, a line of JSON, and flush."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _build(arguments: argparse.Namespace) -> tuple[Workload, Built, float]:
    torch.set_num_threads(arguments.threads)
    model = models.build(arguments.model)
    example = models.images(arguments.model, arguments.batch, seed=7)
    calibration = models.calibration(arguments.model)
    workload = Workload(model, example, calibration, arguments.threads)
    start = time.perf_counter()
    built = ENGINES[arguments.engine].build(workload)
    return workload, built, time.perf_counter() - start


def _serve(request: dict[str, Any], name: str, workload: Workload, built: Built) -> dict[str, Any]:
    if "run" in request:
        return {"seconds": _time(built, workload, **request["run"])}
    if "sqnr" in request:
        batch = models.images(name, **request["sqnr"])
        with torch.no_grad():
            reference = workload.model(batch)
        from qfx.numerics.measures import sqnr  # after the peak that peers are asked for

        return {"sqnr": sqnr(reference, built.run(batch))}
    raise ValueError(f"unknown request {request}")


def _time(built: Built, workload: Workload, iterations: int, warmup: int) -> list[float]:
    for _ in range(warmup):
        built.run(workload.example)
    seconds = []
    for _ in range(iterations):
        start = time.perf_counter()
        built.run(workload.example)
        seconds.append(time.perf_counter() - start)
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser


if __name__ == "__main__":
    main()
