"""How long it takes to load a saved model, beside reading its bytes and packing its weights.

    python -m benchmarks.loading                     # resnet50
    python -m benchmarks.loading resnet18 vit_b_16 --rounds 9

In turns, in one process: ``qfx.load``; reading the file; and packing, which is what kernels of
this machine ask for: the calls that lay out weights, with what is computed for them, timed inside
of another load, on its own thread. The aim is at most 1.5 times reading and packing.

A load packs on a thread beside, while Python puts graphs together, and on both once that is done.
So there are two ratios: of the time that goes by, which takes a second core to be any better, and
of the processor's. Where others use the cores, both threads wait for them: of the first ratio only
the least of many rounds says something then. The code of the graph is generated when it is first
needed, at the first call, and is in neither.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import qfx
from benchmarks import models
from qfx.table import table
from qfx_passes.lowering import kernel_calls


class Spent(NamedTuple):
    """Seconds that went by, and those of the processor, of all threads."""

    wall: float
    cpu: float


def spent(call: Callable[[], object]) -> Spent:
    """How long a call takes."""
    began, ran = time.perf_counter(), time.process_time()
    call()
    return Spent(time.perf_counter() - began, time.process_time() - ran)


def packing(path: Path) -> Spent:
    """What a load spends in the recipes of packed weights."""
    wall = cpu = 0.0
    original = kernel_calls.KernelCalls.packed

    def packed(
        self: Any, key: tuple[object, ...], recipe: Callable[[], object], *, apart: bool = False
    ) -> Any:
        del apart  # at once, on this thread

        def timed() -> object:
            nonlocal wall, cpu
            began, ran = time.perf_counter(), time.process_time()
            made = recipe()
            wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - ran
            return made

        return original(self, key, timed)

    kernel_calls.KernelCalls.packed = packed  # type: ignore[method-assign]
    try:
        qfx.load(path)
    finally:
        kernel_calls.KernelCalls.packed = original  # type: ignore[method-assign]
    return Spent(wall, cpu)


def run(name: str, rounds: int, folder: Path) -> list[str]:
    """A row of the table; each round does everything once."""
    inputs = models.images(name, 1, seed=7)
    path = folder / f"{name}.qfx"
    qfx.save(qfx.quantize(models.build(name), inputs, check=False), path)
    qfx.load(path)  # probes of kernels run once a process
    rows = []
    for _ in range(rounds):
        load = spent(lambda: qfx.load(path))
        rows.append((load, spent(path.read_bytes), packing(path)))
    cells = [name, f"{path.stat().st_size / 1e6:.1f}"]
    # The least of each: what else the machine does only adds.
    for which in ("wall", "cpu"):
        times = [min(getattr(each, which) for each in column) for column in zip(*rows, strict=True)]
        loading, reading, packed = times
        cells += [f"{1000 * t:.1f}" for t in times] + [f"{loading / (reading + packed):.2f}"]
    return cells


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.loading", description=__doc__)
    parser.add_argument("models", nargs="*", default=["resnet50"])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(name, given.rounds, Path(folder)) for name in given.models]
    header = ["model", "MB"]
    header += [f"{each}{of}" for of in ("", " cpu") for each in ("load", "read", "pack", "ratio")]
    print(table(header, rows, right=header[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
