"""Run first in a child process: takes quantized dtypes away from PyTorch, as a release will."""

from __future__ import annotations

from typing import Any

import torch

NAMES = (
    *("quint8", "qint8", "qint32", "quint4x2", "quint2x4"),
    *("quantize_per_tensor", "quantize_per_channel", "quantize_per_tensor_dynamic", "dequantize"),
    *("_make_per_tensor_quantized_tensor", "_make_per_channel_quantized_tensor"),
    *("quantized_lstm", "quantized_gru", "quantized_lstm_cell", "quantized_gru_cell"),
    *("quantized_max_pool1d", "quantized_max_pool2d", "quantized_batch_norm"),
    *("q_scale", "q_zero_point", "q_per_channel_scales", "q_per_channel_zero_points"),
)


class _Gone:
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"'_OpNamespace' 'quantized' object has no attribute {name!r}")


def take_away() -> None:
    torch.overrides.get_overridable_functions()  # torch's own list names what a release drops
    for name in NAMES:
        if hasattr(torch, name):
            delattr(torch, name)
    del torch.backends.quantized
    torch.ops.quantized = _Gone()  # type: ignore[assignment]
