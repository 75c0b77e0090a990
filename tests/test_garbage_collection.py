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


def test_garbage_that_was_made_meanwhile_is_collected_soon() -> None:
    """Not counted among the old ones, which are walked when they have grown by a quarter."""
    with collector_resting():
        ring: list[object] = []
        ring.append(ring)
        made = id(ring)
        assert any(id(young) == made for young in gc.get_objects(generation=0))
    assert any(id(young) == made for young in gc.get_objects(generation=0))
