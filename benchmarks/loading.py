"""How long it takes to load a saved model, beside reading its bytes and packing its weights.

    python -m benchmarks.loading                     # resnet50
    python -m benchmarks.loading resnet18 vit_b_16 --rounds 9

In turns, in one process: ``qfx.load``; reading the file; and packing, which is what kernels of
this machine ask for: the calls that lay out weights, with what is computed for them, timed inside
of another load. The aim is at most 1.5 times reading and packing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import qfx
from benchmarks import models
from qfx.table import table
from qfx_passes.lowering import lower


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def packing(path: Path) -> float:
    """Seconds that a load spends in the recipes of packed weights."""
    spent = 0.0
    original = lower._Lowering.packed

    def packed(self: Any, key: tuple[object, ...], recipe: Callable[[], object]) -> Any:
        def timed() -> object:
            nonlocal spent
            began = time.perf_counter()
            made = recipe()
            spent += time.perf_counter() - began
            return made

        return original(self, key, timed)

    lower._Lowering.packed = packed  # type: ignore[method-assign]
    try:
        qfx.load(path)
    finally:
        lower._Lowering.packed = original  # type: ignore[method-assign]
    return spent


def run(name: str, rounds: int, folder: Path) -> list[str]:
    """A row of the table; each round does everything once."""
    inputs = models.images(name, 1, seed=7)
    path = folder / f"{name}.qfx"
    qfx.save(qfx.quantize(models.build(name), inputs, check=False), path)
    qfx.load(path)  # probes of kernels run once a process
    rows = []
    for _ in range(rounds):
        loading = seconds(lambda: qfx.load(path))
        rows.append((loading, seconds(path.read_bytes), packing(path)))
    loading, reading, packed = (median(column) for column in zip(*rows, strict=True))
    ratio = loading / (reading + packed)
    times = [f"{1000 * t:.1f}" for t in (loading, reading, packed)]
    return [name, f"{path.stat().st_size / 1e6:.1f}", *times, f"{ratio:.2f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.loading", description=__doc__)
    parser.add_argument("models", nargs="*", default=["resnet50"])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(name, given.rounds, Path(folder)) for name in given.models]
    header = ["model", "MB", "load ms", "read ms", "pack ms", "ratio"]
    print(table(header, rows, right=header[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
