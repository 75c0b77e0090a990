"""What a call of a compiled model costs beyond its engine, in microseconds.

    python -m benchmarks.overhead [--engines openvino onnxruntime] [--batches 1 64]

The model is tiny: two quantized linear layers of 16 features, one tensor in and out. *fast* is
the compiled model, from a tensor to a tensor of the caller's; *by hand* is the program that it
holds, run as the engine allows it at the least cost: an OpenVINO request, or a binding of ONNX
Runtime, that was told once where its input and its output are, and yields nothing. They run in
one process, in turns. "beyond" is the difference, of the minima and of the medians; it holds the
allocation of the result, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import qfx
from qfx.engines.openvino import OpenVINOProgram
from qfx.table import markdown

Call = Callable[[], object]

FEATURES = 16
TURN = 100
"""Calls of each in a turn, after a tenth of that to warm up."""


def compiled(engine: str, batch: int, threads: int) -> tuple[qfx.CompiledModel, Tensor]:
    """The tiny model, and what it is called with."""
    torch.manual_seed(0)
    layers = nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES)
    x = torch.randn(batch, FEATURES)
    qmodel = qfx.quantize(nn.Sequential(*layers).eval(), x, progress=False)
    return qfx.compile(qmodel, x, engine=engine, threads=threads, progress=False), x


def by_hand(fast: qfx.CompiledModel, x: Tensor, result: Tensor) -> Call:
    """A run of the engine's, of memory that it was told of: from ``x`` to ``result``."""
    (runner,) = fast.choice.assembly.runners
    built = runner.programs.own or runner.programs.free
    assert built is not None
    program: Any = built.program
    given, made = x.numpy(), result.numpy()
    if isinstance(program, OpenVINOProgram):
        return _request(program.compiled, given, made)
    return _binding(program, given, made)


def _request(compiled: Any, given: Any, made: Any) -> Call:
    from openvino import Tensor as Told

    request = compiled.create_infer_request()
    request.set_input_tensor(0, Told(given, shared_memory=True))
    request.set_output_tensor(0, Told(made, shared_memory=True))
    return partial(_infer, request, (given, made))


def _infer(request: Any, held: object) -> object:
    """Run it; ``held`` is the memory that it was told of, and does not hold itself."""
    return request.infer(share_outputs=True)


def _binding(program: Any, given: Any, made: Any) -> Call:
    session, written = program.session, program.written
    binding = session.io_binding()
    (read,), (result,) = written.inputs, written.outputs
    binding.bind_input(read, "cpu", 0, given.dtype, given.shape, given.ctypes.data)
    binding.bind_output(result, "cpu", 0, made.dtype, made.shape, made.ctypes.data)
    return partial(_run, session, binding, (given, made))


def _run(session: Any, binding: Any, held: object) -> object:
    return session.run_with_iobinding(binding)


def measure(calls: dict[str, Call], count: int) -> dict[str, list[float]]:
    """Seconds of each of ``count`` calls, in turns."""
    seconds: dict[str, list[float]] = {title: [] for title in calls}
    for _ in range(-(-count // TURN)):
        for title, call in calls.items():
            for _ in range(TURN // 10):
                call()
            for _ in range(TURN):
                start = time.perf_counter()
                call()
                seconds[title].append(time.perf_counter() - start)
    return seconds


def row(name: str, batch: int, seconds: dict[str, list[float]]) -> list[str]:
    """Minima and medians in microseconds, and what the compiled model costs beyond its engine."""
    fast, hand = ((min(each), median(each)) for each in (seconds["fast"], seconds["by hand"]))
    beyond = [a - b for a, b in zip(fast, hand, strict=True)]
    return [f"{name}, {batch} x {FEATURES}", *(f"{1e6 * t:.1f}" for t in (*fast, *hand, *beyond))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for engine in options.engines:
        for batch in options.batches:
            fast, x = compiled(engine, batch, options.threads)
            hand = by_hand(fast, x, fast(x))
            calls: dict[str, Call] = {"fast": partial(fast, x), "by hand": hand}
            rows.append(row(engine, batch, measure(calls, options.calls)))
    header = ["us a call", "fast min", "median", "by hand min", "median", "beyond min", "median"]
    print(markdown(header, rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ("openvino", "onnxruntime")
    parser.add_argument("--engines", nargs="+", default=list(names), choices=names)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64], metavar="N")
    parser.add_argument("--calls", type=int, default=5000, help="timed, of each")
    parser.add_argument("--threads", type=int, default=1, help="of the engine, for a call")
    return parser


if __name__ == "__main__":
    main()
