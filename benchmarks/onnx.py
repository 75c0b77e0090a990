"""ONNX files of qfx, and those of ONNX Runtime's own quantizer, run by ONNX Runtime.

    python -m benchmarks.onnx [resnet18 ...] [--backend x86] [--threads 2] [--rounds 30]

For each model: how many convolutions, products and sums of each file run in integers in the
optimized graph, the SQNR of each against the float model, and the median and least time of a run,
the two in turns. ``--rounds 0`` times nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import qfx
from benchmarks import models
from benchmarks.engines import Workload
from benchmarks.engines.onnx_runtime import quantized_file
from qfx.export.onnx.check import open_session, run
from qfx.numerics.measures import sqnr
from qfx.table import markdown

COUNTED = ("QLinearConv", "QLinearAdd", "QLinearMul", "QGemm", "MatMulInteger", "QLinearConcat")


@dataclass(frozen=True)
class Opened:
    """A file, ready to run.

    Attributes:
        name: of the quantizer.
        session: of ONNX Runtime.
        kernels: how often each operator stands in its optimized graph.
        form: of qfx's file.
    """

    name: str
    session: Any
    kernels: Mapping[str, int]
    form: str = ""

    def counts(self) -> list[str]:
        """How often each of the counted operators stands there."""
        return [
            str(sum(n for kind, n in self.kernels.items() if kind.startswith(counted)))
            for counted in COUNTED
        ]


def opened(name: str, backend: str, threads: int, folder: Path) -> tuple[nn.Module, list[Opened]]:
    """The float model, and both files of it."""
    model, example = models.build(name), models.images(name, 1, seed=0)
    calibration = models.calibration(name)
    qmodel = qfx.quantize(model, example, calibration_data=calibration, backend=backend)
    file = qfx.export_onnx(qmodel, folder / "qfx.onnx", example_inputs=calibration[0])
    own = quantized_file(Workload(model, example, calibration, threads), folder)
    found = [Opened("qfx", *open_session(str(folder / "qfx.onnx")), file.form)]
    return model, [*found, Opened("ONNX Runtime's", *open_session(str(own)))]


def _output(session: Any, x: Tensor) -> Tensor:
    return run(session, [x])[0]


def times(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of every run, all run once a round."""
    found: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # the first run plans memory
    for _ in range(rounds):
        for call, seconds in zip(calls, found, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return found


def rows(name: str, backend: str, threads: int, rounds: int) -> list[list[str]]:
    """A row for each file."""
    x: Tensor = models.images(name, 1, seed=99)
    with TemporaryDirectory() as folder:
        model, files = opened(name, backend, threads, Path(folder))
        with torch.no_grad():
            expected = model(x)
        calls = [partial(_output, file.session, x) for file in files]
        timed = times(calls, rounds) if rounds else [[] for _ in files]
        made = [
            [
                f"{name}, {file.name} {file.form}".strip(),
                *file.counts(),
                f"{sqnr(expected, call()):.1f}",
                *(f"{1e3 * f(t):.2f}" if t else "" for f in (median, min)),
            ]
            for file, call, t in zip(files, calls, timed, strict=True)
        ]
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", default=list(models.CLASSIFIERS), metavar="MODEL")
    parser.add_argument("--backend", default="x86")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: list[list[str]] = []
    for name in options.models:
        found += rows(name, options.backend, options.threads, options.rounds)
        header = ["model, file", *COUNTED, "dB", "median ms", "least ms"]
        print(markdown(header, found) + "\n", flush=True)


if __name__ == "__main__":
    main()
