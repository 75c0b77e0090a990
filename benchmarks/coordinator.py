"""Workers, one process an engine, and the rounds that wake them in turns.

Two engines in one process share cores with each other's spinning workers (libgomp makes TBB
engines look 10-40 % slower); two processes at once share them too. So every engine has a process
of its own, and at any time at most one of them computes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent


class WorkerError(RuntimeError):
    """A worker ended before it answered; the message ends with what it wrote last."""


class Worker:
    """A worker process that has built its engine and waits for requests.

    Args:
        command: program and arguments; speaks the protocol of ``benchmarks.worker``.

    Raises:
        WorkerError: the process ended before it was ready.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
        )
        try:
            self.ready = self._receive()
        except WorkerError:
            self.close()
            raise

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        return self._receive()

    def close(self) -> None:
        """End the process, politely first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it may be gone already
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Worker:
        """Itself; the process ends with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return f"exit code {code}: {lines[-1] if lines else 'nothing written'}"


def engine_command(engine: str, model: str, *, batch: int, threads: int) -> list[str]:
    """The command line of a worker for one engine and one model."""
    arguments = {"--engine": engine, "--model": model, "--batch": batch, "--threads": threads}
    options = [str(word) for pair in arguments.items() for word in pair]
    return [sys.executable, "-m", "benchmarks.worker", *options]


class Requests(Protocol):
    """What :func:`interleave` needs of a worker."""

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""


@dataclass
class Timing:
    """Seconds per inference of one engine, a list a round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median over all iterations, seconds."""
        return median(second for seconds in self.rounds for second in seconds)

    @property
    def minimum(self) -> float:
        """Fastest iteration, seconds."""
        return min(second for seconds in self.rounds for second in seconds)

    def ratio(self, other: Timing) -> float:
        """Median over the rounds of ``other``'s median over ours: how many times as fast we are.

        Rounds are seconds apart, so a drift of the machine's speed falls out of each quotient.
        """
        pairs = zip(self.rounds, other.rounds, strict=True)
        return median(median(theirs) / median(ours) for ours, theirs in pairs)


def say(doing: str) -> None:
    """Tell who waits what is being done; not a part of the results, hence to stderr."""
    print(f"... {doing}", file=sys.stderr, flush=True)


def interleave(
    workers: dict[str, Requests],
    *,
    rounds: int,
    iterations: int,
    warmup: int,
    pause: float = 0.05,
) -> dict[str, Timing]:
    """Wake each worker once a round, in an order that rotates, one at a time.

    Args:
        workers: by engine name.
        rounds: number of rounds.
        iterations: timed inferences a worker and round.
        warmup: untimed inferences before them (caches and threads have gone cold meanwhile).
        pause: seconds between workers, for the last one's threads to fall asleep.
    """
    timings = {name: Timing() for name in workers}
    names = list(workers)
    for index in range(rounds):
        turn = index % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            answer = workers[name].request({"run": {"iterations": iterations, "warmup": warmup}})
            timings[name].rounds.append(answer["seconds"])
            time.sleep(pause)
    return timings
