"""What a program was built for, and by what: the CPU, versions, and the code of qfx."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from qfx.backends.hardware import hardware
from qfx.engines.base import Engine
from qfx.version import __version__


@cache
def cpu() -> str:
    """The model of the CPU and what it can do, as a digest."""
    return hashlib.sha256(f"{hardware()} {_described()}".encode()).hexdigest()[:32]


@cache
def code() -> str:
    """The code of qfx as a digest: that of a checkout changes, and its version does not."""
    return digest_of_sources(Path(__file__).parents[1])


def digest_of_sources(root: Path) -> str:
    """A digest of the Python files under a folder, by name and text."""
    hashed = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        text = path.read_bytes()
        hashed.update(f"{path.relative_to(root).as_posix()} {len(text)} ".encode())
        hashed.update(text)
    return hashed.hexdigest()


def cores() -> int:
    """How many cores it has."""
    return os.cpu_count() or 1


def _described() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return " ".join(sorted({line for line in lines if line.startswith(wanted)}))
    return platform.processor()


def built_with(engine: Engine, threads: int) -> dict[str, str]:
    """All on which it depends what is fastest, as texts by name."""
    return {
        "CPU": cpu(),
        "qfx": __version__,
        "torch": str(torch.__version__),
        engine.name: engine.version(),
        "threads": str(threads),
    }
