"""No test leaves anything in the user's cache, or finds anything there."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _without_cache() -> object:
    patch = pytest.MonkeyPatch()
    patch.setenv("QFX_CACHE_DIR", "off")
    yield
    patch.undo()
