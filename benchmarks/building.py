"""How long qfx.compile takes: the first time in a process, later, and from the cache.

    python -m benchmarks.building                                   # resnet50, OpenVINO
    python -m benchmarks.building resnet50 vit_b_16 --engines openvino auto --threads 2 --rounds 5

Each round is a process of its own: the model is quantized there, so that PyTorch and qfx are
loaded, and compiled for one image. *first* holds what is imported for engines; *later* the same
again; *cached* reads what the time before it has kept on disk. Of each the least and the median.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median

import torch

import qfx
from benchmarks import models
from qfx.engines.cache import SWITCH
from qfx.table import markdown

TIMES = ("first", "later", "cached")


def seconds(name: str, engine: str, threads: int) -> tuple[float, ...]:
    """How long compiling takes in this process: :data:`TIMES`."""
    torch.set_num_threads(threads)
    x = models.images(name, 1, seed=7)
    qmodel = qfx.quantize(models.build(name), x, progress=False, check=False)

    def compiling(folder: str) -> float:
        os.environ[SWITCH] = folder
        start = time.perf_counter()
        qfx.compile(qmodel, x, engine=engine, progress=False)
        return time.perf_counter() - start

    uncached = compiling("off"), compiling("off")
    with tempfile.TemporaryDirectory() as folder:
        compiling(folder)
        return *uncached, compiling(folder)


def row(name: str, engine: str, threads: int, rounds: int) -> list[str]:
    """Least and median of each time, in seconds."""
    fresh = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        found = [pool.submit(seconds, name, engine, threads).result() for _ in range(rounds)]
    columns = zip(*found, strict=True)
    return [name, engine, *(f"{t:.2f}" for each in columns for t in (min(each), median(each)))]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.building", description=__doc__)
    parser.add_argument("models", nargs="*", default=["resnet50"])
    parser.add_argument("--engines", nargs="+", default=["openvino"], help="each, or auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    pairs = [(name, engine) for name in given.models for engine in given.engines]
    rows = [row(*pair, given.threads, given.rounds) for pair in pairs]
    print(markdown(["model", "engine", *(h for t in TIMES for h in (f"{t} s", "median"))], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
