"""Many threads at once: each gets what it would have got alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import BACKENDS, randn, run, seeded
from tests.support.untouched import assert_untouched, state_of
from tests.test_untouched import Net
from tools import networks

X = randn(2, 3, 8, 8)
THREADS, CALLS = 8, 6


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


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_model_of_six_threads(backend: str) -> None:
    model = seeded(Net)
    before = state_of(model)
    expected = qfx.quantize(model, X, backend=backend)
    for qmodel in at_once([lambda: qfx.quantize(model, X, backend=backend)] * 6):
        same(qmodel, expected)
    assert_untouched(model, before)


@pytest.mark.slow
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


@pytest.mark.slow
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


# -- one model, called from many threads ----------------------------------------------------------
class Block(nn.TransformerEncoderLayer):
    """A layer of a transformer."""

    def __init__(self) -> None:
        super().__init__(64, 4, 128, batch_first=True, activation="gelu")


class Recurrent(nn.Module):
    """Two layers of LSTM in both directions, and what reads their last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 48, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.lstm(x)
        return self.head(steps[:, -1])  # type: ignore[no-any-return]


def resnet18() -> nn.Module:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("no torchvision here")
    return networks.classifier("resnet18", seed=0)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "resnet18": (resnet18, (3, 64, 64), "static"),
    "block": (Block, (12, 64), "static"),
    "block, dynamic": (Block, (12, 64), "dynamic"),
    "lstm": (Recurrent, (9, 32), "dynamic"),
    "lstm, weights": (Recurrent, (9, 32), "weight_only"),
}


@cache
def real_model(name: str, backend: str) -> qfx.QuantizedModel:
    make, shape, method = MODELS[name]
    return qfx.quantize(seeded(make), randn(2, *shape), method=method, backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
@pytest.mark.parametrize("name", MODELS)
def test_real_models_run_in_eight_threads(name: str, backend: str) -> None:
    """Every thread goes through batches of several sizes, each in an order of its own."""
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    qmodel, shape = real_model(name, backend), MODELS[name][1]
    inputs = [randn(1 + i % 3, *shape, seed=i) for i in range(CALLS)]
    expected = [run(qmodel, (x,)) for x in inputs]

    def thread(first: int) -> list[tuple[int, Tensor]]:
        order = [(first + step) % CALLS for step in range(CALLS)]
        return [(i, run(qmodel, (inputs[i],))) for i in order]

    for results in at_once([lambda first=first: thread(first) for first in range(THREADS)]):
        assert len(results) == CALLS
        assert all(torch.equal(got, expected[i]) for i, got in results)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_threads_load_and_run_side_by_side(backend: str, tmp_path: Path) -> None:
    """A server that loads one model while others answer."""
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    names = ("block", "lstm")
    for index, name in enumerate(names):
        qfx.save(real_model(name, backend), tmp_path / f"{index}.qfx")
    inputs = [randn(2, *MODELS[name][1], seed=3) for name in names]
    expected = [run(real_model(name, backend), (x,)) for name, x in zip(names, inputs, strict=True)]

    def loaded(index: int) -> Tensor:
        return run(qfx.load(tmp_path / f"{index}.qfx"), (inputs[index],))  # type: ignore[no-any-return]

    def held(index: int) -> Tensor:
        return run(real_model(names[index], backend), (inputs[index],))  # type: ignore[no-any-return]

    calls = [lambda i=i, f=f: f(i % 2) for i in range(4) for f in (loaded, held)]
    for index, got in enumerate(at_once(calls)):
        assert torch.equal(got, expected[index // 2 % 2])
