"""The memory of a tensor as bytes, without a copy and without NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def bytes_of(tensor: Tensor) -> Iterator[memoryview]:
    """The memory of a contiguous tensor on the CPU; valid inside."""
    size = tensor.numel() * tensor.element_size()
    memory = (ctypes.c_char * size).from_address(tensor.data_ptr()) if size else b""
    yield memoryview(memory).cast("B")
