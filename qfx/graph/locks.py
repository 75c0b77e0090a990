"""The one lock for what changes state of the whole process."""

from __future__ import annotations

import threading

CAPTURE_LOCK = threading.RLock()
"""Held while tracing, for which fx patches classes of the whole process, while modules run, and
while the engine of quantized kernels is another."""
