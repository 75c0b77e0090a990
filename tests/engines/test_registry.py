"""Engines by name: our own, and those of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

import qfx
from qfx import plug_ins
from qfx.engines import registry
from tests.support.engines import Fake


@pytest.fixture
def fresh() -> Iterator[None]:
    registry.INSTALLED.forget()
    yield
    registry.INSTALLED.forget()


def install(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    found = [EntryPoint(name, value, "qfx.engines") for name, value in values.items()]
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: found)


def test_our_own() -> None:
    assert list(registry.engines())[:4] == ["openvino", "onnxruntime", "inductor", "eager"]
    assert "eager" in qfx.engines.available()
    assert set(qfx.engines.available()) <= set(registry.engines())


def test_one_of_another_package(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    install(monkeypatch, fake="tests.support.engines:Fake")
    assert "fake" in qfx.engines.available()
    assert isinstance(registry.named("fake"), Fake)


def asks() -> Fake:
    """Makes an engine, and looks at what there is."""
    assert "eager" in qfx.engines.available()
    return Fake()


def test_one_may_ask_what_there_is(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    install(monkeypatch, fake=f"{__name__}:asks")
    assert qfx.engines.available()[-1] == "fake"


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("eager", "tests.support.engines:Fake", "the name is taken"),
        ("other", "tests.support.engines:Fake", "no engine called 'other'"),
        ("gone", "tests.support.engines:Gone", "fails to load"),
        ("fake", "tests.support.engines:time", "fails to load"),
    ],
)
def test_what_is_no_engine_is_said(
    monkeypatch: pytest.MonkeyPatch, fresh: None, name: str, value: str, match: str
) -> None:
    install(monkeypatch, **{name: value})
    with pytest.warns(qfx.QfxWarning, match=match):
        known = registry.engines()
    assert list(known) == ["openvino", "onnxruntime", "inductor", "eager"]
