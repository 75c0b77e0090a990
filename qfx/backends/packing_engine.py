"""PyTorch's packing engines, and its warning about the dtypes that they pack for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qfx.graph.locks import CAPTURE_LOCK


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Pack under engine ``name``; the process-wide setting is restored, and held by one thread.

    Kernels ask for it when they run, too, so nothing is checked meanwhile.
    """
    with CAPTURE_LOCK:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = name
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


def silence_deprecation() -> None:
    """Let PyTorch's once-per-process warning about quantized dtypes pass here, not in user code.

    Choosing this backend is choosing those dtypes; the documentation of the backend says so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zero = torch.zeros(1, dtype=torch.float32, device="cpu")
        torch.quantize_per_tensor(zero, 1.0, 0, torch.quint8).dequantize()
