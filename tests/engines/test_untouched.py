"""Compiling changes nothing of the caller's: example inputs, model, random state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.support.engines import Tiring


class Adds(nn.Module):
    """Writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return self.layer(x)  # type: ignore[no-any-return]


class Draws(Adds):
    """Draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.rand(8)  # type: ignore[no-any-return]


def noise() -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[False, True], ids=["no cache", "cache"])
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setenv("QFX_CACHE_DIR", str(tmp_path))


@pytest.mark.sweep
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("engine", ["eager", "onnxruntime"])
@pytest.mark.parametrize("quantized", [False, True])
def test_examples_of_models_that_write_to_them(engine: str, quantized: bool) -> None:
    for model in (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8)).eval(), Adds().eval()):
        given = qfx.quantize(model, noise(), progress=False) if quantized else model
        x = noise()
        for _ in range(2):  # the second time from the cache
            fast = qfx.compile(given, x, engine=engine)
            assert torch.equal(x, noise())
            assert fast.trials[0].sqnr > 30  # engines are held against the results of these
            mine, models = noise(), noise()
            wanted = given(models)
            # a form that rounds biases, too, may have been the fastest
            torch.testing.assert_close(fast(mine), wanted, rtol=0, atol=1e-3)
            assert torch.equal(mine, models)
            assert not torch.equal(mine, noise())


@pytest.mark.sweep
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("engine", ["eager", "onnxruntime"])
def test_random_state(engine: str) -> None:
    before = torch.get_rng_state()
    model = Draws().eval()
    for given in (model, qfx.quantize(model, noise(), progress=False)):
        torch.set_rng_state(before)
        for _ in range(2):
            qfx.compile(given, noise(), engine=engine)
            assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("engine", ["eager", "onnxruntime"])
def test_a_float_model_is_copied(engine: str) -> None:
    linear = nn.Linear(8, 8)
    model = nn.Sequential(linear, nn.BatchNorm1d(8), nn.Dropout()).eval()
    fast = qfx.compile(model, noise(), engine=engine)
    wanted = fast(noise())
    model.train()
    model(noise())
    with torch.no_grad():
        linear.weight.zero_()
    assert torch.equal(fast(noise()), wanted)
    assert list(fast.children()) == []
    assert fast.state_dict() == {}


class Doubles(nn.Module):
    """Returns what it computes of a buffer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.kept = nn.Linear(8, 8), nn.Buffer(torch.ones(8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.kept * 2


def test_constants_that_are_returned_are_the_callers() -> None:
    model = Doubles().eval()
    qmodel = qfx.quantize(model, noise(), progress=False)
    fast = [qfx.compile(each, noise(), engine="onnxruntime") for each in (model, qmodel)]
    for each in (qmodel, qmodel.reference, *fast):
        each(noise())[1].zero_()
        assert torch.equal(each(noise())[1], torch.full((8,), 2.0))


def test_a_call_that_fails_midway_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Tiring()
    known = {"fake": engine}
    for where in ("qfx.engines.compiling.engines", "qfx.engines.registry.engines"):
        monkeypatch.setattr(where, lambda: known)
    model = Adds().eval()
    fast = qfx.compile(model, noise(), engine="fake")
    engine.tired = True  # after the sum, which stays in eager
    mine, models = noise(), noise()
    wanted = model(models)
    with pytest.warns(qfx.QfxWarning, match="tired"):
        made = fast(mine)
    torch.testing.assert_close(made, wanted)
    assert torch.equal(mine, models)
