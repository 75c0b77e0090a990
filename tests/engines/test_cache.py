"""The cache: the second compilation tries nothing, and a damaged entry is as good as none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import qfx
from qfx.engines import cache
from qfx.engines.agreement import compare
from qfx.engines.choose import Choosing
from qfx.engines.machine import digest_of_sources
from tests.support.engines import Residuals

pytestmark = pytest.mark.slow  # engines build, time after time


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel(x: Tensor) -> qfx.QuantizedModel:
    return qfx.quantize(Residuals().eval(), x, progress=False)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QFX_CACHE_DIR", str(tmp_path))
    return tmp_path


def refuse_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(*_: object, **__: object) -> None:
        raise AssertionError("engines were tried again")

    monkeypatch.setattr(Choosing, "choose", tried)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "eager"])
def test_the_second_time_nothing_is_tried(
    cached: Path,
    monkeypatch: pytest.MonkeyPatch,
    qmodel: qfx.QuantizedModel,
    x: Tensor,
    engine: str,
) -> None:
    first = qfx.compile(qmodel, x, engine=engine, threads=1)
    refuse_trials(monkeypatch)
    second = qfx.compile(qmodel, x, engine=engine, threads=1)
    assert str(second) == str(first)
    assert torch.equal(second(x), first(x))
    other = torch.randn(3, 3, 16, 10)
    assert compare(qmodel.reference(other), second(other)).sqnr > 30
    for changed in ({"threads": 2}, {"threads": 1, "dynamic": False}):
        with pytest.raises(AssertionError, match="tried again"):
            qfx.compile(qmodel, x, engine=engine, **changed)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="tried again"):
        qfx.compile(qmodel, x[:1], engine=engine, threads=1)


def test_other_weights_are_another_model(cached: Path, x: Tensor) -> None:
    models = [Residuals().eval() for _ in range(2)]
    with torch.no_grad():
        models[1].head.bias += 1
    fast = [qfx.compile(model, x, engine="onnxruntime", threads=1) for model in models]
    assert compare(models[1](x).detach(), fast[1](x)).sqnr > 60


def test_other_code_of_qfx_builds_anew(
    cached: Path, monkeypatch: pytest.MonkeyPatch, qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    qfx.compile(qmodel, x, engine="eager", threads=1)
    refuse_trials(monkeypatch)
    qfx.compile(qmodel, x, engine="eager", threads=1)
    monkeypatch.setattr(cache, "code", lambda: "of a checkout where something was edited")
    with pytest.raises(AssertionError, match="tried again"):
        qfx.compile(qmodel, x, engine="eager", threads=1)


def test_sources_are_told_apart_by_name_and_text(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    edited = tmp_path / "room" / "edited.py"
    edited.write_text("a = 1\n")
    before = digest_of_sources(tmp_path)
    edited.with_suffix(".pyc").write_bytes(b"compiled")
    assert digest_of_sources(tmp_path) == before
    edited.write_text("a = 2\n")
    changed = digest_of_sources(tmp_path)
    edited.rename(tmp_path / "room" / "other.py")
    assert len({before, changed, digest_of_sources(tmp_path)}) == 3


@pytest.mark.parametrize("damage", ["program", "record", "swapped", "gone", "wrong"])
def test_damaged_entries_are_none(
    cached: Path, qmodel: qfx.QuantizedModel, x: Tensor, damage: str
) -> None:
    wanted = qfx.compile(qmodel, x, engine="onnxruntime", threads=1)(x)
    (record,) = cached.glob("*/record.json")
    (program, *_) = record.parent.glob("*.program")
    if damage == "program":
        program.write_bytes(program.read_bytes()[:-7])
    if damage == "record":
        record.write_text(record.read_text()[:-20])
    if damage == "swapped":
        record.write_text(json.dumps({**json.loads(record.read_text()), "engine": "tensorrt"}))
    if damage == "gone":
        program.unlink()
    if damage == "wrong":
        record.write_text(json.dumps({**json.loads(record.read_text()), "programs": []}))
    fast = qfx.compile(qmodel, x, engine="onnxruntime", threads=1)
    assert compare(wanted, fast(x)).sqnr > 30  # another form may be the faster one this time
    assert json.loads(record.read_text())["engine"] == "onnxruntime"


def test_it_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("QFX_CACHE_DIR", "off")
    qfx.compile(qmodel, x, engine="eager")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("QFX_CACHE_DIR")
    qfx.compile(qmodel, x, engine="eager")
    assert [path.name for path in tmp_path.iterdir()] == ["qfx"]
