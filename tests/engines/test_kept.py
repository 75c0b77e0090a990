"""Compiled models in files: they come back as they were chosen, without a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qfx
from qfx.engines import compiling, kept, registry
from qfx.engines.agreement import compare
from qfx.engines.base import BuildSettings
from tests.engines.test_cache import refuse_trials
from tests.storage.test_hostile import told
from tests.support.engines import Fake, Noisy, Residuals


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel(x: Tensor) -> qfx.QuantizedModel:
    return qfx.quantize(Residuals().eval(), x, progress=False)


def known_as(monkeypatch: pytest.MonkeyPatch, made: Fake) -> None:
    """Let ``made`` be the one engine beside eager."""
    known = {"fake": made, "eager": registry.engines()["eager"]}
    for where in (registry, compiling, kept):
        monkeypatch.setattr(where, "engines", lambda: known)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    known_as(monkeypatch, made)
    return made


@pytest.fixture(scope="module")
def saved(qmodel: qfx.QuantizedModel, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a model that was compiled for the fake engine."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        known_as(monkeypatch, Fake())
        fast = qfx.compile(qmodel, x, engine="fake", threads=1)
        return qfx.save(fast, tmp_path_factory.mktemp("kept") / "fast.qfx").read_bytes()


@pytest.fixture
def path(fake: Fake, saved: bytes, tmp_path: Path) -> Path:
    made = tmp_path / "fast.qfx"
    made.write_bytes(saved)
    return made


def test_it_comes_back_without_a_search(
    monkeypatch: pytest.MonkeyPatch, fake: Fake, path: Path, qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    refuse_trials(monkeypatch)
    back = qfx.load(path)
    assert isinstance(back, qfx.CompiledModel)
    assert back.engine == "fake"
    assert fake.built[0] == BuildSettings(1)
    assert [trial.name for trial in back.trials] == ["fake"]
    assert back.trials[0].median_ms
    assert torch.equal(back(x), qmodel.reference(x))
    assert torch.equal(back(x[:1]), qmodel.reference(x[:1]))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("version", "with fake 1.0, and here is 2.0"),
        ("cpu", "on another CPU"),
        ("lacks", "for 'fake', which can't be used here"),
    ],
)
def test_where_something_is_other_engines_are_tried_anew(
    monkeypatch: pytest.MonkeyPatch, fake: Fake, path: Path, x: Tensor, what: str, says: str
) -> None:
    other = {"version": "2.0", "lacks": "is not installed", "cpu": "another"}[what]
    where = "qfx.engines.machine.cpu" if what == "cpu" else f"tests.support.engines.Fake.{what}"
    monkeypatch.setattr(where, lambda *_: other)
    with pytest.warns(qfx.QfxWarning, match=f"compiled {says}: engines are tried anew"):
        back = qfx.load(path)
    assert isinstance(back, qfx.CompiledModel)
    assert back.engine == ("eager" if what == "lacks" else "fake")
    assert compare(back.source.reference(x), back(x)).sqnr > 30


def test_an_engine_that_does_not_agree_any_more_is_not_used(
    monkeypatch: pytest.MonkeyPatch, path: Path, qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    known_as(monkeypatch, Noisy())
    said = pytest.warns(qfx.QfxWarning, match="names fake, which does not run it: disagrees")
    with said, pytest.raises(qfx.BackendError, match="disagrees"):
        qfx.load(path)


def change(**changed: Any) -> Callable[[Any], None]:
    return lambda document: document["compiled"].update(changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": "os.system"},
        {"form": "int4"},
        {"free": []},
        {"free": [True, False, True]},
        {"free": ["yes"]},
        {"threads": 0},
        {"threads": 10**9},
        {"threads": "2"},
        {"engines": [{}]},
        {"dynamic": 1},
        {"float_dtype": "int8"},
        {"trials": [{}]},
        {"examples": [1, 2]},
        {"examples": [[{"tensor": "nowhere"}], {"dict": []}]},
        {"built_with": {"CPU": 1}},
        {"program": "AAAA"},
    ],
    ids=str,
)
def test_a_choice_that_is_none(path: Path, changed: dict[str, Any]) -> None:
    path.write_bytes(told(path.read_bytes(), change(**changed)))
    with pytest.raises(qfx.FormatError, match=r"compiled|nowhere"):
        qfx.load(path)


def test_examples_that_the_model_does_not_take(path: Path) -> None:
    path.write_bytes(told(path.read_bytes(), change(examples=[["a text"], {"dict": []}])))
    with pytest.raises(qfx.FormatError, match="does not take the examples"):
        qfx.load(path)


def test_no_more_threads_than_cores_are_made(path: Path, fake: Fake) -> None:
    path.write_bytes(told(path.read_bytes(), change(threads=1000)))
    with pytest.warns(qfx.QfxWarning) as said:
        qfx.load(path)
    assert "asks for 1000 threads" in str(said[0].message)
    assert all(settings.threads < 1000 for settings in fake.built)


def test_float_models_are_not_kept(x: Tensor, tmp_path: Path) -> None:
    fast = qfx.compile(Residuals().eval(), x, engine="eager")
    with pytest.raises(qfx.ConfigError, match="is a float model, whose code no file holds"):
        qfx.save(fast, tmp_path / "fast.qfx")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "eager"])
@pytest.mark.parametrize("cached", [True, False])
def test_real_engines(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    qmodel: qfx.QuantizedModel,
    x: Tensor,
    engine: str,
    cached: bool,
) -> None:
    monkeypatch.setenv("QFX_CACHE_DIR", str(tmp_path / "cache") if cached else "off")
    fast = qfx.compile(qmodel, x, engine=engine, threads=1)
    path = qfx.save(fast, tmp_path / "fast.qfx")
    refuse_trials(monkeypatch)
    if cached:  # what lies in the cache is found by the digest of what the file says
        monkeypatch.setattr("qfx.engines.compiling.Choosing", None)
    back = qfx.load(path)
    assert isinstance(back, qfx.CompiledModel)
    assert str(back) == str(fast)
    assert torch.equal(back(x), fast(x))
