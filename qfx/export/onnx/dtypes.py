"""Dtypes and sizes as ONNX calls them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

DTYPES = {
    torch.float32: "FLOAT",
    torch.float64: "DOUBLE",
    torch.float16: "FLOAT16",
    torch.bfloat16: "BFLOAT16",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.uint16: "UINT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.bool: "BOOL",
}
"""By the dtype of torch, the name of that of ONNX."""

NUMBERS: Mapping[type, torch.dtype] = {
    bool: torch.bool,
    int: torch.int64,
    float: torch.float32,
}


def as_number(number: float, dtype: torch.dtype) -> float:
    """``number`` as a value of ``dtype``."""
    return (
        number if dtype.is_floating_point else bool(number) if dtype == torch.bool else int(number)
    )


def symbol(name: str) -> str | None:
    """The name of a size in the file: those that are none of the inputs' own have none."""
    return None if "|" in name else name
