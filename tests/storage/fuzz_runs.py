"""Runs mutated models that load: whatever a file says, the process that runs it stays alive.

    python -m tests.storage.fuzz_runs --count 20000 --seed 1

A model of a file that means harm may raise what it likes, and compute nonsense. Kernels don't look
at all that they are given, though: what a file can have them read or write beyond the end of a
tensor ends in a crash, sooner or later. So the mutations of :mod:`tests.storage.fuzz` are run in a
process of their own, which tells which one it is at; if it dies, that one is at fault, and another
process goes on behind it. glibc's checks of its heap are on where they are installed.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ctypes.util import find_library

import torch

from qfx.errors import QfxError
from qfx.storage.files import load_buffer
from tests.storage import fuzz

SECONDS = 20
"""What a run may take."""

ROOM = 4 << 30
"""Bytes of address space that runs may take beside what is taken before."""

SHOWN = "at "
_HEAP = "libc_malloc_debug.so.0"


def crashes(count: int, seed: int = 0, first: int = 0) -> tuple[int, list[str]]:
    """Run the mutations that load; how many did, and those that ended the process."""
    faults: list[str] = []
    ran, number, end = 0, first, first + count
    while number < end:
        ended, at, loaded = _process(number, end - number, seed)
        ran += loaded
        if not ended:
            break
        if at is None:
            raise RuntimeError(f"the process that runs models ended with {ended} before the first")
        faults.append(f"{seed}.{at}: {ended}")
        number = at + 1
    return ran, faults


def _process(first: int, count: int, seed: int) -> tuple[str, int | None, int]:
    """How a process ended, "" if as it should; at which number; how many models it ran."""
    numbers = ("--count", str(count), "--first", str(first), "--seed", str(seed))
    command = [sys.executable, "-m", "tests.storage.fuzz_runs", "--here", *numbers]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_CHECK_": "3"}
    if find_library("c_malloc_debug"):
        environment["LD_PRELOAD"] = _HEAP
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    at = [int(line[len(SHOWN) :]) for line in done.stdout.splitlines() if line.startswith(SHOWN)]
    if not done.returncode:
        return "", None, len(at)
    said = done.stderr.strip().splitlines()[-1:]
    name = signal.Signals(-done.returncode).name if done.returncode < 0 else str(done.returncode)
    return " ".join([name, *said]), at[-1] if at else None, len(at)


def run_here(count: int, seed: int, first: int) -> None:
    """Run the mutations that load in this process, and tell the number of each before."""
    fuzz.bases()
    taken = int(_status("VmSize")) << 10
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    for number, base, data in _hostile(count, seed, first):
        try:
            model = load_buffer(bytearray(data), model=base.model)
        except QfxError:
            continue
        print(f"{SHOWN}{number}", flush=True)
        signal.alarm(SECONDS)  # whose signal ends the process
        with suppress(Exception):  # a model of a forged file may raise what it likes
            base.run(model)
        signal.alarm(0)


def _hostile(count: int, seed: int, first: int) -> Iterator[tuple[int, fuzz.Base, bytes]]:
    for number in range(first, first + count):
        base, kind, data = fuzz.mutation(number, seed)
        if kind != "raw":  # which checksums refuse
            yield number, base, data


def _status(field: str) -> str:
    with open("/proc/self/status") as lines:
        return next(line.split()[1] for line in lines if line.startswith(field + ":"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="tests.storage.fuzz_runs", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help="run them in this process")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.here:
        run_here(given.count, given.seed, given.first)
        return 0
    ran, faults = crashes(given.count, given.seed, given.first)
    print("\n".join(faults[:50]))
    print(f"{ran} models ran, {len(faults)} ended the process")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
