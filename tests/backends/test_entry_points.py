"""Backends of other packages are named like qfx's own: entry points of the group qfx.backends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from torch import nn

import qfx
from qfx import plug_ins
from qfx.backends import NAMES, reference, resolve_backend
from qfx.backends.entry_points import INSTALLED
from tests.cases.flow import randn, seeded

X = randn(3, 4)


def acme() -> qfx.Backend:
    return replace(reference.backend(), name="acme")


def derived() -> qfx.Backend:
    """Made of one that is asked for by name, as most will be."""
    return replace(resolve_backend("auto"), name="derived")


def of_what_there_is() -> qfx.Backend:
    """Looks at what there is, and asks for one that does not exist."""
    seen.append(qfx.backends.available())
    with pytest.raises(qfx.BackendError, match="unknown backend 'nobody'"):
        resolve_backend("nobody")
    return replace(reference.backend(), name="looks")


def of_another() -> qfx.Backend:
    return replace(resolve_backend("acme"), name="other")


seen: list[tuple[str, ...]] = []


def elsewhere() -> qfx.Backend:
    raise qfx.BackendError("the acme coprocessor, firmware 7 or newer")


READY = acme()


def broken() -> qfx.Backend:
    raise RuntimeError("no licence")


NOT_A_BACKEND = dict


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Declares entry points ``name=attribute of this module``."""

    def declare(**entries: str) -> None:
        found = [
            EntryPoint(name, f"{__name__}:{attribute}", "qfx.backends")
            for name, attribute in entries.items()
        ]
        monkeypatch.setattr(plug_ins, "entry_points", lambda group: found)
        INSTALLED.forget()

    yield declare
    INSTALLED.forget()


@pytest.mark.parametrize("attribute", ["acme", "READY"])
def test_it_is_named_like_one_of_ours(attribute: str, install: Callable[..., None]) -> None:
    install(acme=attribute)
    assert qfx.backends.available()[-1] == "acme"
    assert qfx.backends.detect() == qfx.backends.available()[0] != "acme"
    made = qfx.quantize(seeded(lambda: nn.Linear(4, 3)), X, backend="acme")
    assert "Quantized for acme" in str(made.report)
    assert made.report.coverage == 1.0
    assert qfx.get_default_qconfig("acme") == qfx.get_default_qconfig("reference")


def test_it_may_be_made_of_one_of_ours(install: Callable[..., None]) -> None:
    install(derived="derived")
    assert qfx.backends.available()[-1] == "derived"
    assert resolve_backend("derived").rules == resolve_backend("auto").rules


def test_it_may_ask_what_there_is(install: Callable[..., None]) -> None:
    install(looks="of_what_there_is", acme="acme", zeta="elsewhere")
    seen.clear()
    there = qfx.backends.available()
    assert there[-2:] == ("acme", "looks")
    assert seen == [there[:-1]]  # itself aside, and once
    assert qfx.backends.available() == there


def test_it_may_be_made_of_another_package_s(install: Callable[..., None]) -> None:
    install(other="of_another", acme="acme")
    assert resolve_backend("other").rules == resolve_backend("acme").rules


def test_a_machine_that_lacks_it_is_told_so(install: Callable[..., None]) -> None:
    install(acme="elsewhere")
    assert "acme" not in qfx.backends.available()
    with pytest.raises(qfx.BackendError, match=r"'acme' does .* says: the acme coprocessor"):
        qfx.quantize(seeded(lambda: nn.Linear(4, 3)), X, backend="acme")


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"acme": "broken"}, "acme = .* fails to load: RuntimeError: no licence"),
        ({"acme": "absent"}, "acme = .* fails to load: AttributeError"),
        ({"acme": "NOT_A_BACKEND"}, "acme = .* gives {}, no qfx.Backend called 'acme'"),
        ({"other": "acme"}, "other = .* no qfx.Backend called 'other'"),
        ({"x86": "acme"}, "x86 = .* is ignored: the name is taken"),
    ],
)
def test_one_that_is_no_good_is_a_warning(
    entries: dict[str, str], told: str, install: Callable[..., None]
) -> None:
    install(**entries)
    with pytest.warns(qfx.QfxWarning, match=told):
        assert set(qfx.backends.available()) <= set(NAMES)
    with pytest.raises(qfx.BackendError, match="unknown backend 'nothing'"):
        qfx.quantize(seeded(lambda: nn.Linear(4, 3)), X, backend="nothing")


def test_an_unknown_name_suggests_it(install: Callable[..., None]) -> None:
    install(acme="acme")
    with pytest.raises(qfx.BackendError, match="did you mean 'acme'"):
        qfx.quantize(seeded(lambda: nn.Linear(4, 3)), X, backend="acmee")


ACME = """
from dataclasses import replace
from qfx.backends import reference

def backend():
    return replace(reference.backend(), name="acme-npu")
"""


def test_a_distribution_on_the_path_brings_its_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "acme_npu-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-npu\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[qfx.backends]\nacme-npu = acme_npu:backend\n")
    (tmp_path / "acme_npu.py").write_text(ACME)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_npu", raising=False)
    INSTALLED.forget()
    try:
        assert qfx.backends.available()[-1] == "acme-npu"
        made = qfx.quantize(seeded(lambda: nn.Linear(4, 3)), X, backend="acme-npu")
    finally:
        INSTALLED.forget()
    assert made.report.backend == "acme-npu"
