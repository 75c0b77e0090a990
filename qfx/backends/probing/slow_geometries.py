"""Kernels that are slower than float by multiples are not used: which, is known by geometry.

No stopwatch decides: two runs agree, and so do two processes and the copies of a model. The rules
stand where the kernels are:

=====================================================  ==========================================
what                                                   where
=====================================================  ==========================================
transposed convolutions that are dilated or depthwise  ``quantized/transposed_convs.py``
groups of odd numbers of channels                      ``onednn/conv_forms.py``
weights in few bits, by kernel and rows of the input   ``stored_weights/packs.py``
=====================================================  ==========================================
"""

from __future__ import annotations

from qfx.rewrite.pattern import Mismatch


class TooSlow(Mismatch):
    """Why an operation stays float though there is a kernel: reason ``slow-kernel``."""

    __slots__ = ()

    def __init__(self, what: str, *args: object) -> None:
        super().__init__(what + " run several times faster in float than in integers", *args)
