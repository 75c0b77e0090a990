"""What computes nothing in inference: places in the graph that passes know by name."""

from __future__ import annotations

from torch import Tensor


def quant_stub(input: Tensor) -> Tensor:
    """Marks where a quantized region begins; computes nothing."""
    return input


def dequant_stub(input: Tensor) -> Tensor:
    """Marks where a quantized region ends; computes nothing."""
    return input


def dropout(input: Tensor, *, p: float = 0.5, kind: str = "dropout") -> Tensor:
    """``input``: graphs mean what they compute in inference. ``kind`` names the function of torch.

    Training runs :class:`qfx.training.dropout.Dropout` in its place.
    """
    return input


def detach(input: Tensor) -> Tensor:
    """``input``: training passes no gradient through it."""
    return input.detach()
