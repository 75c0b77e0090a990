"""What may come of a process; without torch, so that it begins at once."""

from __future__ import annotations

import os
import time


def fate(what: str) -> str:
    """Meet it."""
    if what == "crash":
        os.abort()
    if what == "sleep":
        time.sleep(60)
    if what == "hog":
        bytearray(64 << 30)
    return what
