"""Calls a second of a compiled model from several threads, beside requests to its engine by hand.

    python -m benchmarks.throughput --models resnet18 --callers 8

Each caller is a thread that calls as fast as it can. *fast* is the compiled model, which all share;
*by hand* is a request (OpenVINO) or the session (ONNX Runtime) a thread, on the program that the
compiled model holds, given the arrays and read without a copy. They run in turns, for a second
each; the ratio is the median over the rounds. Some results of *fast* are compared with the first.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median
from typing import Any

import torch
from torch import Tensor

import qfx
from benchmarks import models
from benchmarks.coordinator import say
from qfx.engines.openvino import OpenVINOProgram
from qfx.table import markdown

Call = Callable[[], object]

_LOOKED_AT = 16
"""Which results of a thread are compared: one of so many."""


def compiled(name: str, engine: str, threads: int) -> tuple[qfx.CompiledModel, Tensor]:
    """A model with the defaults, and what it is called with."""
    x = models.images(name, 1, seed=7)
    calibration = models.calibration(name)
    qmodel = qfx.quantize(models.build(name), x, calibration_data=calibration, progress=False)
    return qfx.compile(qmodel, x, engine=engine, threads=threads, progress=False), x


def shared(fast: qfx.CompiledModel, x: Tensor) -> Callable[[], Call]:
    """Makes what a caller calls: the compiled model; a wrong result raises."""
    wanted = fast(x)

    def make() -> Call:
        numbers = count()

        def call() -> object:
            made: Tensor = fast(x)
            if next(numbers) % _LOOKED_AT == 0 and not torch.equal(made, wanted):
                raise AssertionError("another result than alone")
            return made

        return call

    return make


def by_hand(fast: qfx.CompiledModel, x: Tensor) -> Callable[[], Call]:
    """Makes what a caller calls: the engine."""
    (runner,) = fast.choice.assembly.runners
    built = runner.programs.own or runner.programs.free
    assert built is not None
    program: Any = built.program
    array = x.numpy()
    if isinstance(program, OpenVINOProgram):
        return lambda: _request(program.compiled.create_infer_request(), array)
    session, name = program.session, program.written.inputs[0]
    return lambda: lambda: session.run(None, {name: array})


def _request(request: Any, array: Any) -> Call:
    return lambda: request.infer([array], share_inputs=True, share_outputs=True)


def rate(make: Callable[[], Call], callers: int, seconds: float) -> float:
    """Calls a second of all callers together.

    Raises:
        AssertionError: a caller ended early.
    """
    counts = [0] * callers
    failed: list[BaseException] = []
    begin = threading.Barrier(callers + 1)
    end = threading.Event()

    def work(index: int) -> None:
        call = make()
        call()
        begin.wait()
        try:
            while not end.is_set():
                call()
                counts[index] += 1
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(callers)]
    for worker in workers:
        worker.start()
    begin.wait()
    start = time.perf_counter()
    end.wait(seconds)
    end.set()
    for worker in workers:
        worker.join()
    if failed:
        raise AssertionError(f"a caller failed: {failed[0]}")
    return sum(counts) / (time.perf_counter() - start)


def compare(name: str, options: argparse.Namespace) -> list[str]:
    """The row of a model."""
    say(f"{name}: compiling")
    fast, x = compiled(name, options.engine, options.threads)
    makers = {"fast": shared(fast, x), "by hand": by_hand(fast, x)}
    rates: dict[str, list[float]] = {title: [] for title in makers}
    for _ in range(options.rounds):
        for title, make in makers.items():
            rates[title].append(rate(make, options.callers, options.seconds))
    ratios = (a / b for a, b in zip(rates["fast"], rates["by hand"], strict=True))
    middle = [median(each) for each in rates.values()]
    return [name, fast.engine, *(f"{each:.1f}" for each in middle), f"{median(ratios):.2f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    header = ["model", "engine", "fast, calls/s", "by hand, calls/s", "ratio"]
    print(markdown(header, [compare(name, options) for name in options.models]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18"], metavar="M")
    parser.add_argument("--engine", default="openvino", choices=("openvino", "onnxruntime"))
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of the engine, for a call")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="a turn")
    return parser


if __name__ == "__main__":
    main()
