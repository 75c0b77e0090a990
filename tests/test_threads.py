"""Many threads at once: each gets what it would have got alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import nn

import qfx
from tests.cases.flow import BACKENDS, randn, run, seeded
from tests.support.untouched import assert_untouched, state_of
from tests.test_untouched import Net

X = randn(2, 3, 8, 8)


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results, or errors, of calls that start together."""
    barrier = Barrier(len(calls))

    def work(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except qfx.QfxError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(work, calls))


def same(qmodel: Any, expected: qfx.QuantizedModel) -> None:
    assert isinstance(qmodel, qfx.QuantizedModel), qmodel
    assert torch.equal(run(qmodel, (X,)), run(expected, (X,)))
    assert str(qmodel.report) == str(expected.report)
    texts = [[stage.snapshot.to_text() for stage in q.history] for q in (qmodel, expected)]
    assert texts[0] == texts[1]


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_model_of_six_threads(backend: str) -> None:
    model = seeded(Net)
    before = state_of(model)
    expected = qfx.quantize(model, X, backend=backend)
    for qmodel in at_once([lambda: qfx.quantize(model, X, backend=backend)] * 6):
        same(qmodel, expected)
    assert_untouched(model, before)


def test_backends_and_faults_side_by_side() -> None:
    """Packing for fbgemm and qnnpack switches a setting of the process."""
    engine = torch.backends.quantized.engine
    backends = ("x86", "fbgemm", "reference", "qnnpack", "fbgemm")
    backends = tuple(b for b in backends if b in qfx.backends.available())
    models = [seeded(Net) for _ in backends]  # here: seeding is of the process
    expected = {b: qfx.quantize(m, X, backend=b) for m, b in zip(models, backends, strict=True)}
    calls: list[Callable[[], Any]] = [
        lambda m=m, b=b: qfx.quantize(m, X, backend=b)  # type: ignore[misc]
        for m, b in zip(models, backends, strict=True)
    ]
    *results, error = at_once([*calls, lambda: qfx.quantize(models[0], X[:, :2])])
    for backend, qmodel in zip(backends, results, strict=True):
        same(qmodel, expected[backend])
    assert isinstance(error, qfx.ConfigError)
    assert torch.backends.quantized.engine == engine


def test_steps_side_by_side() -> None:
    def steps(model: nn.Module, scale: float) -> qfx.QuantizedModel:
        prepared = qfx.prepare(model, X, backend="x86")
        return qfx.convert(qfx.calibrate(prepared, [X, scale * X]))

    model = seeded(Net)
    expected = [steps(model, float(i)) for i in range(1, 7)]
    results = at_once([lambda i=i: steps(model, float(i)) for i in range(1, 7)])
    for qmodel, alone in zip(results, expected, strict=True):
        same(qmodel, alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_quantized_model_runs_in_six_threads(backend: str) -> None:
    qmodel = qfx.quantize(seeded(Net), X, backend=backend)
    inputs = [randn(2, 3, 8, 8, seed=i) for i in range(6)]
    expected = [run(qmodel, (x,)) for x in inputs]
    results = at_once([lambda x=x: run(qmodel, (x,)) for x in inputs])
    assert all(torch.equal(got, alone) for got, alone in zip(results, expected, strict=True))
