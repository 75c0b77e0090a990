"""What concerns every test."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support import sweeps
from tests.support.gate import watched

pytest_plugins = ["qfx.testing.pytest_plugin"]

# Each test drops some 50,000 objects of graphs. Looking for them after every 700 costs a twentieth.
gc.set_threshold(200_000, 10, 10)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest deselects what is slow."""
    sweeps.thin(items)


def pytest_collection_finish() -> None:
    """Modules stay: 400,000 objects that each full collection went through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def watch_of_the_gate() -> Iterator[None]:
    """Passes of ours, in all tests, change graphs through their rewriter only."""
    with watched():
        yield
