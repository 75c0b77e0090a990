"""What a step of quantization-aware training costs: seconds and memory, against float and torch.ao.

    python -m benchmarks.training [--models resnet18] [--batch 16] [--size 96] [--threads 2]

A step is forward, cross-entropy, backward and SGD with momentum. For seconds the engines take turns
in one process, and medians are of all steps. Memory is what one step adds to the resident memory of
a fresh process that holds the model and its optimizer: activations kept for backward, mostly.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks import models
from qfx.table import markdown

FLOAT = "torch fp32"


def _float(model: nn.Module, example: Tensor) -> nn.Module:
    return copy.deepcopy(model)


def _qfx(model: nn.Module, example: Tensor) -> nn.Module:
    return qfx.prepare(model, (example,), method="qat", backend="x86")


def _torch_ao(model: nn.Module, example: Tensor) -> nn.Module:
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = get_default_qat_qconfig_mapping("x86")
        prepared: nn.Module = prepare_qat_fx(copy.deepcopy(model), mapping, (example,))
    return prepared


ENGINES: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    FLOAT: _float,
    "qfx qat": _qfx,
    "torch.ao qat": _torch_ao,
}


class Trainer:
    """A model in training on one batch.

    Args:
        engine: which of :data:`ENGINES` makes the model.
        name: a model of :mod:`benchmarks.models`.
        batch: images in a batch.
        size: edge of the images in pixels.
    """

    def __init__(self, engine: str, name: str, *, batch: int, size: int) -> None:
        torch.manual_seed(0)
        self.images = torch.randn(batch, 3, size, size)
        self.labels = torch.randint(0, 10, (batch,))  # every model has ten classes or more
        self.model = ENGINES[engine](models.build(name).train(), self.images[:2]).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, momentum=0.9)
        for parameter in self.model.parameters():  # the optimizer's own memory is not the question
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()

    def step(self) -> float:
        """One step; its seconds."""
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return time.perf_counter() - start


def seconds(name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each step, by engine."""
    trainers = {e: Trainer(e, name, batch=options.batch, size=options.size) for e in ENGINES}
    for trainer in trainers.values():
        trainer.step()
    times: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(options.rounds):
        for engine, trainer in trainers.items():
            trainer.step()  # wake the caches
            times[engine].append(trainer.step())
    return times


def megabytes(engine: str, name: str, options: argparse.Namespace) -> float:
    """What a step adds to the memory of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.training", "--memory", engine]
    command += ["--models", name, "--batch", str(options.batch), "--size", str(options.size)]
    command += ["--threads", str(options.threads)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(made.stdout.splitlines()[-1]))


def _step_memory(engine: str, name: str, options: argparse.Namespace) -> float:
    trainer = Trainer(engine, name, batch=options.batch, size=options.size)
    before = _resident()
    trainer.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before


def _resident() -> float:
    """Megabytes that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def report(name: str, times: dict[str, list[float]], memory: dict[str, float]) -> str:
    """The table of one model."""
    medians = {engine: statistics.median(each) for engine, each in times.items()}
    rows = [
        [
            engine,
            f"{1e3 * medians[engine]:.1f}",
            f"{1e3 * min(times[engine]):.1f}",
            f"{medians[engine] / medians[FLOAT]:.2f}",
            f"{memory[engine]:.0f}",
            f"{memory[engine] / memory[FLOAT]:.2f}",
        ]
        for engine in ENGINES
    ]
    header = (name, "median ms", "min ms", "of fp32", "MB a step", "of fp32")
    return markdown(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet18"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--memory", choices=[*ENGINES], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.memory:
        print(json.dumps(_step_memory(options.memory, options.models[0], options)))
        return
    results: dict[str, Any] = {}
    for name in options.models:
        memory = {engine: megabytes(engine, name, options) for engine in ENGINES}
        times = seconds(name, options)
        results[name] = {"seconds": times, "megabytes": memory}
        print(report(name, times, memory), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
