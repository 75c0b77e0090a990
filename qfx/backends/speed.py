"""Is a kernel as fast as float here? Asked once per process, kernel and shape, before it is used.

Kernels over 4- and 8-bit weights exist to save memory traffic; on many CPUs they are fast in
bfloat16 only and a hundred times slower than float in float32. Both run on the shapes of the site,
interleaved, with the threads that are set; the smallest times are compared, because noise only adds
to them. Hopeless kernels are given up early: on a few rows of the input, then four times as many,
and so on, until they take longer than float does for all rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

ROUNDS = 5
ALLOWANCE = 1.05
"""What a kernel may take of the time of float: two runs of one kernel differ by that much."""


@dataclass(frozen=True)
class Contest:
    """A kernel and the float operation that it stands for.

    Attributes:
        kernel: runs it on so many rows of the input.
        floating: runs float on all of them.
        rows: how many there are.
    """

    kernel: Callable[[int], object]
    floating: Callable[[], object]
    rows: int


_verdicts: dict[Hashable, bool] = {}
_lock = threading.Lock()


def no_slower(key: Hashable, contest: Callable[[], Contest]) -> bool:
    """Whether the kernel takes no more time than float; measured once per ``key``."""
    whole = (key, torch.get_num_threads())
    with _lock:
        if whole not in _verdicts:
            with torch.inference_mode():
                _verdicts[whole] = measure(contest())
        return _verdicts[whole]


def measure(contest: Contest) -> bool:
    """Whether the fastest of some runs of the kernel is as fast as that of float."""
    whole = min(_seconds(contest.floating) for _ in range(2))
    for rows in _few(contest.rows):
        run = partial(contest.kernel, rows)
        if _seconds(run) > whole and _seconds(run) > whole:  # the first pays for what it sets up
            return False
    run = partial(contest.kernel, contest.rows)
    # Only in turns: what runs twice finds its weight in the cache, as it won't in a model.
    pairs = [(_seconds(run), _seconds(contest.floating)) for _ in range(ROUNDS)]
    fastest = min(ours for ours, _ in pairs)
    return fastest <= ALLOWANCE * min(floating for _, floating in pairs)


def _few(rows: int) -> Iterator[int]:
    """1, 4, 16, ... below ``rows``."""
    count = 1
    while count < rows:
        yield count
        count *= 4


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
