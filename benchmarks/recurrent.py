"""Latency and accuracy of dynamically quantized LSTMs and GRUs against float and torch.ao.

    python -m benchmarks.recurrent [--sizes 64 256 1024] [--kinds lstm gru] [--threads 1]

Layers are two, bidirectional, with as many inputs as hidden units; weights and inputs are random
(seed 0). All forms run in one process, in turns: each round times each of them once, after a call
to warm up, so that what disturbs the machine disturbs all. Ratios are of the minima. SQNR is of the
sequence and of the final states against float: 10 log10(sum r^2 / sum (r - o)^2) dB.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import qfx
from qfx.numerics.measures import sqnr
from qfx.table import markdown

KINDS: dict[str, type[nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU}
FLOAT = "torch fp32"


@dataclass(frozen=True)
class Result:
    """One form of one layer: milliseconds, and decibels of the output and the final states."""

    median_ms: float
    min_ms: float
    speedup: float
    output_db: float | None
    states_db: float | None


def forms(model: nn.Module, x: Tensor) -> dict[str, Callable[[Tensor], Any]]:
    """Float, and its quantized forms, by title."""
    made: dict[str, Callable[[Tensor], Any]] = {FLOAT: model}
    for backend in ("x86", "fbgemm"):
        if backend in qfx.backends.available():
            qmodel = qfx.quantize(model, x, method="dynamic", backend=backend)
            made[f"qfx dynamic, {backend} form"] = qmodel
    fast = qfx.compile(qfx.quantize(model, x, method="dynamic"), x, progress=False)
    made[f"qfx.compile, dynamic: {fast.engine}"] = fast
    made["torch.ao dynamic"] = _peer(model)
    return made


def _peer(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        outer = nn.Sequential(model)  # children are swapped, the model itself is not
        swapped: nn.Module = quantize_dynamic(outer, {type(model)})  # type: ignore[no-untyped-call]
        return swapped.get_submodule("0")


def measure(
    made: dict[str, Callable[[Tensor], Any]], x: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each form in each round, in turns."""
    seconds: dict[str, list[float]] = {title: [] for title in made}
    for _ in range(rounds):
        for title, run in made.items():
            run(x)
            start = time.perf_counter()
            run(x)
            seconds[title].append(time.perf_counter() - start)
    return seconds


@torch.no_grad()
def compare(kind: str, hidden: int, batch: int, length: int, rounds: int) -> dict[str, Result]:
    """All forms of one layer."""
    torch.manual_seed(0)
    model = KINDS[kind](hidden, hidden, 2, bidirectional=True).eval()
    x = torch.randn(length, batch, hidden)
    made = forms(model, x)
    seconds = measure(made, x, rounds)
    expected = made[FLOAT](x)
    fastest = min(seconds[FLOAT])
    return {
        title: Result(
            median(seconds[title]) * 1e3,
            min(seconds[title]) * 1e3,
            fastest / min(seconds[title]),
            *(_decibels(expected, run(x)) if title != FLOAT else (None, None)),
        )
        for title, run in made.items()
    }


def _decibels(expected: Any, actual: Any) -> tuple[float, float]:
    """Of the sequence, and the worst of the final states."""
    states = zip(*(pytree.tree_leaves(result[1]) for result in (expected, actual)), strict=True)
    return sqnr(expected[0], actual[0]), min(sqnr(e, a) for e, a in states)


def report(name: str, results: dict[str, Result]) -> str:
    """The table of one layer."""
    header = [name, "median ms", "min ms", "x fp32", "output dB", "states dB"]
    return markdown(header, [_row(title, result) for title, result in results.items()])


def _row(title: str, result: Result) -> list[str]:
    decibels = [result.output_db, result.states_db]
    return [
        *(title, f"{result.median_ms:.2f}", f"{result.min_ms:.2f}", f"{result.speedup:.2f}"),
        *("" if db is None else f"{db:.1f}" for db in decibels),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    stored = {}
    for kind in options.kinds:
        for hidden in options.sizes:
            name = f"{kind} {hidden}, batch {options.batch}, length {options.length}"
            results = compare(kind, hidden, options.batch, options.length, options.rounds)
            stored[name] = {title: asdict(result) for title, result in results.items()}
            print(report(name, results) + "\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(stored, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recurrent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
