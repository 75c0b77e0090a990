"""Threads take turns more often meanwhile, and as before afterwards."""

from __future__ import annotations

import sys

import pytest

from qfx.thread_switching import quick_switching


def test_threads_take_turns_more_often_meanwhile() -> None:
    usual = sys.getswitchinterval()
    with quick_switching():
        quick = sys.getswitchinterval()
        with quick_switching():
            assert sys.getswitchinterval() == quick
        assert sys.getswitchinterval() == quick < usual
    assert sys.getswitchinterval() == usual


def test_and_as_before_after_an_error() -> None:
    usual = sys.getswitchinterval()
    with pytest.raises(KeyError), quick_switching():
        raise KeyError
    assert sys.getswitchinterval() == usual


def test_who_has_them_switch_sooner_still_keeps_that() -> None:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with quick_switching():
            assert sys.getswitchinterval() == pytest.approx(1e-5)
    finally:
        sys.setswitchinterval(usual)
