"""Compiled models: signature, structure, sizes, threads, copies, and what they refuse."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.engines.agreement import AGREES, compare
from tests.support.engines import Residuals

ENGINES = ("openvino", "onnxruntime", "eager")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def qmodel() -> qfx.QuantizedModel:
    return qfx.quantize(Residuals().eval(), noise(2, 3, 12, 12), progress=False)


@pytest.fixture(scope="module", params=ENGINES)
def fast(qmodel: qfx.QuantizedModel, request: pytest.FixtureRequest) -> qfx.CompiledModel:
    return qfx.compile(qmodel, noise(2, 3, 12, 12), engine=request.param, threads=1)


@pytest.mark.sweep(first=6)
@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (1, 3, 12, 12), (5, 3, 20, 17), (0, 3, 12, 12)])
def test_every_size_that_the_model_accepts(
    fast: qfx.CompiledModel, qmodel: qfx.QuantizedModel, shape: tuple[int, ...]
) -> None:
    x = noise(*shape, seed=1)
    if 0 in shape and fast.engine != "eager":
        with pytest.warns(qfx.QfxWarning, match="without elements"):
            made = fast(x)
    else:
        made = fast(x)
    found = compare(qmodel.reference(x), made)
    assert found.wrong == ""
    assert 0 in shape or found.sqnr > 30


def test_calls_from_many_threads(fast: qfx.CompiledModel, qmodel: qfx.QuantizedModel) -> None:
    batches = [noise(1 + seed % 3, 3, 12, 12, seed=seed) for seed in range(60)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(fast, batches))
    for x, y in zip(batches, made, strict=True):
        assert compare(qmodel.reference(x), y).sqnr > 30


def test_results_are_the_callers(fast: qfx.CompiledModel) -> None:
    first = fast(noise(2, 3, 12, 12, seed=1))
    before = first.clone()
    fast(noise(2, 3, 12, 12, seed=2))
    assert torch.equal(first, before)
    first.add_(1)  # writable, and nobody else's
    assert torch.equal(fast(noise(2, 3, 12, 12, seed=1)), before)


def test_layouts_and_gradients(fast: qfx.CompiledModel) -> None:
    x = noise(2, 3, 12, 12)
    wanted = fast(x)
    odd = x.to(memory_format=torch.channels_last).requires_grad_()
    assert torch.equal(fast(odd), wanted)
    assert not fast(odd).requires_grad
    assert compare(wanted, fast(noise(3, 2, 12, 12).transpose(0, 1))).wrong == ""


def test_wrong_inputs_are_refused(fast: qfx.CompiledModel) -> None:
    with pytest.raises(qfx.ConfigError):
        fast(noise(2, 3, 12, 12).double())
    with pytest.raises((qfx.ConfigError, RuntimeError)):
        fast(noise(2, 4, 12, 12))
    with pytest.raises((qfx.ConfigError, TypeError)):
        fast()


def test_copies_and_moves(fast: qfx.CompiledModel) -> None:
    x = noise(2, 3, 12, 12)
    assert torch.equal(copy.deepcopy(fast)(x), fast(x))
    assert torch.equal(fast.eval().to("cpu").float()(x), fast(x))
    with pytest.raises(qfx.BackendError, match="runs on the CPU"):
        fast.to("cuda")
    with pytest.raises(qfx.BackendError, match="float64"):
        fast.double()
    with pytest.raises(qfx.ConfigError, match="nothing to train"):
        fast.train()


def test_fixed_sizes(qmodel: qfx.QuantizedModel) -> None:
    x = noise(2, 3, 12, 12)
    fast = qfx.compile(qmodel, x, engine="openvino", dynamic=False)
    assert compare(qmodel.reference(x), fast(x)).sqnr > 30
    with pytest.raises(qfx.ConfigError, match=r"dynamic=False, for \(float32\[2, 3, 12, 12\]\)"):
        fast(noise(3, 3, 12, 12))


def test_recorded_shapes_are_examples_too(qmodel: qfx.QuantizedModel) -> None:
    fast = qfx.compile(qmodel, engine="onnxruntime")
    assert compare(qmodel.reference(noise(2, 3, 12, 12)), fast(noise(2, 3, 12, 12))).sqnr > 30
    with pytest.raises(qfx.ConfigError, match="example_inputs for Residuals"):
        qfx.compile(Residuals().eval())


class Structured(nn.Module):
    """Keyword arguments, integers, a number, None; a dict with a tuple, None and a size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.words = nn.Conv2d(3, 8, 3, padding=1), nn.Embedding(10, 8)
        self.head = nn.Linear(8, 4)

    def forward(
        self, x: Tensor, words: Tensor | None = None, *, scale: float = 1.0, mask: None = None
    ) -> dict[str, Any]:
        y = torch.relu(self.conv(x)).mean((2, 3))
        if words is not None:
            y = y + self.words(words).mean(1)
        y = self.head(y)
        return {"out": y * scale, "batch": x.shape[0], "none": None, "pair": (y, [words])}


@pytest.mark.parametrize("engine", ENGINES)
def test_signature_and_structure(engine: str) -> None:
    x, words = noise(2, 3, 8, 8), torch.tensor([[1, 2, 3], [4, 5, 6]])
    qmodel = qfx.quantize(Structured().eval(), (x, words), progress=False)
    examples = {"x": x, "words": words, "scale": 2.0}
    fast = qfx.compile(qmodel, examples, engine=engine)
    for given in ((x, words), (noise(3, 3, 8, 8, seed=1), torch.ones(3, 2, dtype=torch.long))):
        for scale in (1.0, 3.0):
            wanted = qmodel.reference(*given, scale=scale)
            found = compare(wanted, fast(given[0], words=given[1], scale=scale))
            assert found.wrong == ""
            assert found.sqnr > AGREES  # in whichever form was the fastest
    assert fast(x, words)["pair"][1][0] is words


class Scaled(nn.Module):
    """Codes of each pixel, which are as large as the image, and of all of it; a small input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.conv(x)) * scale
        return y, self.head(y.mean((2, 3)))


@pytest.mark.parametrize("engine", ENGINES)
def test_small_and_large_calls_in_turns(engine: str) -> None:
    x, scale = noise(1, 3, 8, 8), torch.tensor([1.5])
    qmodel = qfx.quantize(Scaled().eval(), (x, scale), progress=False)
    fast = qfx.compile(qmodel, (x, scale), engine=engine, threads=1)
    sizes = (8, 60, 12, 120)  # a request copies tensors of some of these, and is told of others
    given = [(noise(1, 3, s, s, seed=s + n), scale + n) for n in range(2) for s in sizes]
    alone = [tuple(y.clone() for y in fast(*each)) for each in given]
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(lambda each: fast(*each), given * 8))
    for made, wanted in zip(kept, alone * 8, strict=True):
        assert all(map(torch.equal, made, wanted))
    for each, made in zip(given, alone, strict=True):
        assert compare(qmodel.reference(*each), made).sqnr > 30


@pytest.mark.parametrize("engine", ENGINES)
def test_float_models(engine: str) -> None:
    model, x = Residuals().eval(), noise(2, 3, 12, 12)
    graph_module, _ = qfx.run_passes(model, [qfx.get_pass("fuse-conv-bn")], x)
    for each in (model, graph_module):
        fast = qfx.compile(each, x, engine=engine)
        assert compare(model(x).detach(), fast(x)).sqnr > 100
    with pytest.raises(qfx.ConfigError, match="training mode"):
        qfx.compile(Residuals(), x)


def test_nothing_of_the_model_changes(qmodel: qfx.QuantizedModel) -> None:
    x = noise(2, 3, 12, 12)
    before, code = qmodel(x), str(qmodel.reference.graph)
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    qfx.compile(qmodel, x, engine="openvino", threads=1)
    assert torch.equal(qmodel(x), before)
    assert str(qmodel.reference.graph) == code
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("engine", ["eager", "onnxruntime"])
def test_fixed_sizes_by_position_or_by_name(qmodel: qfx.QuantizedModel, engine: str) -> None:
    x = noise(2, 3, 12, 12)
    for examples in (None, x, {"x": x}):
        fast = qfx.compile(qmodel, examples, engine=engine, dynamic=False)
        assert torch.equal(fast(x), fast(x=x))
        with pytest.raises(qfx.ConfigError, match=r"and called with \(x=float32\[3, 3, 12, 12\]\)"):
            fast(x=noise(3, 3, 12, 12))
