"""Quantize one subject once, in a process of its own: seconds by step, peak memory.

Answers one JSON object: ``steps`` (prepare, calibrate, convert), ``cpu_seconds`` of all of them on
all cores, which tell more than ``steps`` where others use the machine, ``passes`` (qfx: seconds by
pass), ``nodes`` of the captured graph (qfx), ``base_bytes`` and ``peak_bytes`` of resident memory
before and after.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmarks import graphs, models
from benchmarks.worker import peak_bytes, protocol_stream, reply

# qfx reports "no integer kernel pays here" and the like as warnings; torch.ao its deprecation
warnings.simplefilter("ignore")

T = TypeVar("T")
Steps = dict[str, float]


def qfx_cost(
    model: nn.Module,
    example: Tensor,
    data: Sequence[Tensor],
    backend: str,
    effort: str = "default",
    check: bool = True,
) -> dict[str, Any]:
    """``qfx.quantize`` in its three steps, and the passes as the history timed them."""
    import qfx

    steps: Steps = {}
    options: dict[str, Any] = {"backend": backend, "effort": effort}
    prepared = _timed(steps, "prepare", lambda: qfx.prepare(model, example, **options))
    _timed(steps, "calibrate", lambda: qfx.calibrate(prepared, data, progress=False))
    quantized = _timed(steps, "convert", lambda: qfx.convert(prepared, check=check))
    passes = {stage.name: stage.seconds for stage in quantized.history}
    return {
        "steps": steps,
        "passes": passes,
        "nodes": len(quantized.history[0].snapshot.records),
    }


def torch_ao_cost(
    model: nn.Module, example: Tensor, data: Sequence[Tensor], backend: str
) -> dict[str, Any]:
    """``prepare_fx``, calibration and ``convert_fx`` with the defaults for ``backend``."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = backend
    mapping = get_default_qconfig_mapping(backend)
    steps: Steps = {}
    prepared = _timed(
        steps, "prepare", lambda: prepare_fx(copy.deepcopy(model), mapping, (example,))
    )
    _timed(steps, "calibrate", lambda: [prepared(batch) for batch in data])
    _timed(steps, "convert", lambda: convert_fx(prepared))
    return {"steps": steps}


COSTS: dict[str, Callable[[nn.Module, Tensor, Sequence[Tensor], str], dict[str, Any]]] = {
    "qfx": qfx_cost,
    "qfx-fast": partial(qfx_cost, effort="fast"),
    "qfx-high": partial(qfx_cost, effort="high"),
    "qfx-unchecked": partial(qfx_cost, check=False),
    "torch.ao": torch_ao_cost,
}


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_worker", description=__doc__)
    parser.add_argument("--engine", choices=list(COSTS), required=True)
    parser.add_argument("--subject", required=True, help="linear:1000, conv:1000, or a model")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with protocol_stream() as replies, torch.no_grad():
        model, example, data = _subject(arguments.subject)
        base = peak_bytes()
        began = time.process_time()
        cost = COSTS[arguments.engine](model, example, data, arguments.backend)
        cost["cpu_seconds"] = time.process_time() - began
        reply(replies, {**cost, "base_bytes": base, "peak_bytes": peak_bytes()})


def _subject(name: str) -> tuple[nn.Module, Tensor, list[Tensor]]:
    kind, colon, nodes = name.partition(":")
    if colon:
        model, example = graphs.generate(kind, int(nodes))
        return model, example, [example]
    return models.build(name), models.images(name, 4, seed=7), models.calibration(name)


def _timed(steps: Steps, name: str, function: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = function()
    steps[name] = time.perf_counter() - start
    return result


if __name__ == "__main__":
    main()
