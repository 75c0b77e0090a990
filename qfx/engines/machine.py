"""What a program was built for: the CPU, and the versions of what built it."""

from __future__ import annotations

import hashlib
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
