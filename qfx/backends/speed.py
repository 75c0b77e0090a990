"""Is a kernel as fast as float here? Asked once per process, kernel and shape, before it is used.

Kernels over 4- and 8-bit weights exist to save memory traffic; on many CPUs they are fast in
bfloat16 only and 30 times slower than float in float32. Both run on the shapes of the site,
interleaved, with the threads that are set; the smallest times are compared, because noise only adds
to them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

import torch

ROUNDS = 5
ALLOWANCE = 1.05
"""What a kernel may take of the time of float: two runs of one kernel differ by that much."""

_HOPELESS = 3.0
_verdicts: dict[Hashable, bool] = {}
_lock = threading.Lock()


Contest = Callable[[], tuple[Callable[[], object], Callable[[], object]]]
"""Makes the calls of a kernel and of the float operation that it stands for."""


def no_slower(key: Hashable, contest: Contest) -> bool:
    """Whether the kernel takes no more time than float; measured once per ``key``."""
    whole = (key, torch.get_num_threads())
    with _lock:
        if whole not in _verdicts:
            with torch.inference_mode():
                _verdicts[whole] = measure(*contest())
        return _verdicts[whole]


def measure(kernel: Callable[[], object], floating: Callable[[], object]) -> bool:
    """Whether the fastest of some runs of ``kernel`` is as fast as that of ``floating``."""
    _seconds(floating)  # the first run of either pays for what it sets up
    _seconds(kernel)
    best, least = float("inf"), float("inf")
    for _ in range(ROUNDS):
        least = min(least, _seconds(floating))
        best = min(best, _seconds(kernel))
        if best > _HOPELESS * least:
            return False
    return best <= ALLOWANCE * least


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
