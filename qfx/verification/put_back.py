"""What the check of kernels puts back to float, as the pass that keeps it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qfx.framework.pass_base import Pass
from qfx.framework.registry import builtin_pass

KERNEL_FAILED = "kernel-failed-check"
"""The reason of such operations."""


def keep_float(why: Mapping[str, str]) -> tuple[Pass, ...]:
    """The pass that keeps operations of a reference form float, by name, if there are any."""
    kind: Any = builtin_pass("keep-float")
    return (kind(operations=tuple(why.items())),) if why else ()
