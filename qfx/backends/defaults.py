"""The default QConfig of each method, the same table for every backend; fixed qparams.

=============  ==============================  =====================================
method         activations                     weights
=============  ==============================  =====================================
static         uint8 affine per tensor,        int8 symmetric per output channel
               histogram observer
dynamic        uint8 affine per tensor,        int8 symmetric per output channel
               measured at run time
weight_only    float                           int8 symmetric per output channel
qat            uint8 affine per tensor,        int8 symmetric per output channel
               moving average of ranges
=============  ==============================  =====================================

Embeddings have no activations: dynamic and weight_only keep their rows alike, uint8 affine with a
scale and an offset per row (as the layer has it, where a layer shares the weight), and static
leaves them float.
Weights leave out the code -128, so that a weight and its negative have the same magnitude.
"""

from __future__ import annotations

import torch

from qfx.quant.qparams import QParams
from qfx.quant.spec import QConfig, QuantSpec

PROBABILITY = QParams(1 / 256, 0, torch.uint8, 0, 255)
SIGNED_UNIT = QParams(2 / 256, 128, torch.uint8, 0, 255)

FIXED = {(0.0, 1.0): PROBABILITY, (-1.0, 1.0): SIGNED_UNIT}
"""The qparams of results that lie between bounds (:attr:`~qfx.vocab.OpDef.bounds`)."""


def defaults(*, reduce_range: bool) -> dict[str, QConfig]:
    """The default QConfig of each method.

    Args:
        reduce_range: keep activations to 7 bits, for kernels that saturate sums of u8*s8 products.
    """
    highest = 127 if reduce_range else None
    observed = QuantSpec(torch.uint8, observer="histogram", quant_max=highest)
    averaged = QuantSpec(torch.uint8, observer="moving_average_minmax", quant_max=highest)
    measured = QuantSpec(torch.uint8, dynamic=True, quant_max=highest)
    weight = QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127)
    rows = QuantSpec(torch.uint8, per_channel=True)
    return {
        "static": QConfig(activation=observed, weight=weight),
        "dynamic": QConfig(activation=measured, weight=weight, rows=rows),
        "weight_only": QConfig(weight=weight, rows=rows),
        "qat": QConfig(activation=averaged, weight=weight),
    }
