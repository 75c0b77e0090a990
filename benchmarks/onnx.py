"""ONNX files of qfx, and those of ONNX Runtime's own quantizer, run by ONNX Runtime.

    python -m benchmarks.onnx [resnet18 ...] [--forms auto full_integer] [--threads 2] [--rounds 30]

For each model: how many operators of each file run in integers in the optimized graph, and which;
the SQNR of each against the float model; and the median and least time of a run, all in turns, with
the ratio of the least to that of ONNX Runtime's own file. ``--rounds 0`` times nothing. A
table comes after each model, so that what is stopped early shows what there was.
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
from qfx.export.onnx.check import INTEGER_KERNELS, open_session, run
from qfx.export.onnx.export import FORMS
from qfx.numerics.measures import sqnr
from qfx.table import markdown

NAMES = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "inception_v3",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "googlenet",
    "mnasnet1_0",
    "regnet_y_400mf",
    "vgg16_bn",
)
COUNTED = (*INTEGER_KERNELS, "NhwcMaxPool")
"""Parts of the names of operators on integers, those that pass codes on among them."""


@dataclass(frozen=True)
class Opened:
    """A file, ready to run.

    Attributes:
        name: of the quantizer, and the form.
        session: of ONNX Runtime.
        kernels: how often each operator stands in its optimized graph.
    """

    name: str
    session: Any
    kernels: Mapping[str, int]

    @property
    def integers(self) -> dict[str, int]:
        """How often each operator on integers stands there."""
        kinds = self.kernels.items()
        return {k: n for k, n in kinds if any(part in k for part in COUNTED)}

    def counts(self) -> list[str]:
        """How many there are, and which."""
        each = (f"{n} {kind}" for kind, n in self.integers.items())
        return [str(sum(self.integers.values())), ", ".join(each)]


def written(
    name: str, options: argparse.Namespace, folder: Path
) -> tuple[nn.Module, dict[str, Path]]:
    """The float model, and its files by name; that of ONNX Runtime's quantizer is the last."""
    model, example = models.build(name), models.images(name, 1, seed=0)
    calibration = models.calibration(name, batches=options.batches)
    qmodel = qfx.quantize(model, example, calibration_data=calibration, backend=options.backend)
    found = {}
    for form in options.forms:
        path = folder / f"{form}.onnx"
        file = qfx.export_onnx(qmodel, path, form=form, example_inputs=calibration[0][:1])
        found[f"qfx ({file.form})"] = path
    workload = Workload(model, example, calibration, options.threads)
    return model, {**found, "ONNX Runtime's": quantized_file(workload, folder)}


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


def rows(name: str, options: argparse.Namespace) -> list[list[str]]:
    """A row for each file."""
    x: Tensor = models.images(name, 1, seed=99)
    with TemporaryDirectory() as folder:
        model, paths = written(name, options, Path(folder))
        files = [Opened(n, *open_session(str(path))) for n, path in paths.items()]
        with torch.no_grad():
            expected = model(x)
        calls = [partial(_output, file.session, x) for file in files]
        timed = times(calls, options.rounds) if options.rounds else [[0.0] for _ in files]
        own = min(timed[-1])
        return [
            [
                f"{name}, {file.name}",
                f"{sqnr(expected, call()):.1f}",
                *([f"{1e3 * f(t):.2f}" for f in (median, min)] if own else ["", ""]),
                f"{min(t) / own:.2f}" if own else "",
                *file.counts(),
            ]
            for file, call, t in zip(files, calls, timed, strict=True)
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", default=list(NAMES), metavar="MODEL")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["auto"])
    parser.add_argument("--backend", default="x86")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batches", type=int, default=2, help="of 4 images, to calibrate with")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: list[list[str]] = []
    for name in options.models:
        found += rows(name, options)
        header = ["model, file", "dB", "median ms", "least ms", "of own", "in integers", "which"]
        print(markdown(header, found) + "\n", flush=True)


if __name__ == "__main__":
    main()
