"""``pytest --update-golden``: write the golden texts of checks that fail for nothing but them.

Name it in the ``conftest.py`` at the top of your tests; it is no entry point, since pytest would
then import torch for every project of an environment that has qfx:

    pytest_plugins = ["qfx.testing.pytest_plugin"]
"""

from __future__ import annotations

import pytest

from qfx.testing import golden

OPTION = "--update-golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("qfx").addoption(
        OPTION, action="store_true", help="write the graphs that passes make into tests of passes"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let checks write, if asked for."""
    if not config.getoption(OPTION):
        return
    if getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(f"{OPTION} writes files: run it in one process, without -n")
    golden.updates.enabled = True


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write what was collected: last, as lines of tests move."""
    if config.getoption(OPTION):
        golden.updates.enabled = False
        golden.updates.write()
