"""The default QConfig of each backend and method: one table."""

from __future__ import annotations

import torch

from qfx.quant.spec import QConfig, QuantSpec


def static_default(*, reduce_range: bool) -> QConfig:
    """uint8 affine activations per tensor, int8 symmetric weights per channel.

    Args:
        reduce_range: keep activations to 7 bits, for kernels that saturate sums of u8*s8 products.
    """
    return QConfig(
        activation=QuantSpec(
            torch.uint8, observer="histogram", quant_max=127 if reduce_range else None
        ),
        weight=QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127),
    )
