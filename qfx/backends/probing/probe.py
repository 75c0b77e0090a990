"""Are the kernels right on this machine? Asked once per process and kernel, before it is used.

Kernels of released PyTorch versions have given wrong numbers on some CPUs (``onednn.qadd`` corrupts
codes of 128 and more on AVX-512) without any error. A probe runs a kernel on small inputs that hold
the critical values (0, 127, 128, 255) at the critical sizes (1, 15, 16, 17, 4096 elements: below,
at and above a vector), in both memory formats, with and without zero points, and compares with
exact arithmetic in float64. What deviates or raises counts as absent: reason
``kernel-failed-probe``. How each kernel is tried, those who call it say.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

from qfx.backends.probing.trials import Combination, Probe

REASON = "kernel-failed-probe"


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found: falsy, with a reason, if the kernel can't be used."""

    combination: Combination
    detail: str = ""

    def __bool__(self) -> bool:
        return not self.detail

    @property
    def reason(self) -> str:
        """The reason code, or "" if all is well."""
        return REASON if self.detail else ""


_verdicts: dict[Combination, ProbeResult] = {}
_lock = threading.Lock()


def probe(
    kernel: str,
    trials: Probe | None,
    post: tuple[str, ...] = (),
    dtype: torch.dtype = torch.uint8,
) -> ProbeResult:
    """Whether a kernel gives right results here; runs it the first time it is asked.

    Args:
        kernel: its name in backend tables.
        trials: how it is tried; None for what is made of torch's own operations, which is taken to
            work.
        post: post-ops fused to it.
        dtype: uint8 or float32 results.
    """
    combination = Combination(kernel, post, dtype)
    with _lock:
        if combination not in _verdicts:
            _verdicts[combination] = judge(combination, trials)
        return _verdicts[combination]


def judge(combination: Combination, trials: Probe | None) -> ProbeResult:
    """Run ``trials``; the first that deviates or raises decides. None: nothing to doubt."""
    if trials is None:
        return ProbeResult(combination)
    try:
        with torch.inference_mode(), torch.device("cpu"):
            faults = (trial.fault() for trial in trials(combination))
            return ProbeResult(combination, next((fault for fault in faults if fault), ""))
    except Exception as error:  # whatever a kernel raises means that it can't be used
        text = str(error).strip().split("\n")[0]
        return ProbeResult(combination, f"{type(error).__name__}: {text}")


def failures() -> tuple[ProbeResult, ...]:
    """Every probe that failed so far in this process."""
    with _lock:
        return tuple(verdict for verdict in _verdicts.values() if not verdict)
