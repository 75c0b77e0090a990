"""The garbage collector rests, and works again afterwards."""

from __future__ import annotations

import gc

import pytest

from qfx.garbage_collection import collector_resting


def test_rests_meanwhile_and_nested() -> None:
    assert gc.isenabled()
    with collector_resting():
        with collector_resting():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_works_again_after_an_error() -> None:
    with pytest.raises(KeyError), collector_resting():
        raise KeyError
    assert gc.isenabled()


def test_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with collector_resting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_made_meanwhile_is_not_walked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "get_freeze_count", lambda: 0)  # of the tests, all is frozen
    with collector_resting():
        made = [[0] for _ in range(3)]
    try:
        assert not any(young is made for young in gc.get_objects(generation=0))
        assert any(old is made for old in gc.get_objects(generation=2))
    finally:
        gc.freeze()  # again, as conftest.py did


def test_what_a_caller_froze_stays_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with collector_resting():
        pass
    assert gc.get_freeze_count() > frozen - 1000
