"""What stands between x86 kernels: quantize, dequantize, pools and padding.

All on plain uint8 and float32 tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from qfx import vocab
from qfx.backends.base import Emitter, LoweringSite
from qfx.backends.onednn import kernels
from qfx.backends.onednn.operands import expand, known_input
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured
from qfx.rewrite.pattern import Mismatch


def quantize(em: Emitter, value: fx.Node, qparams: QParams) -> fx.Node:
    """f32 -> uint8 on plain tensors."""
    info = meta.tensor_info(value)
    assert info is not None
    return em.rw.call(
        kernels.quantize,
        value,
        qparams.scale,
        qparams.zero_point,
        qparams.quant_max,
        origins=(value,),
        value=meta.TensorInfo(info.shape, qparams.dtype),
    )


def dequantize(em: Emitter, integers: fx.Node, qparams: QParams | Measured) -> fx.Node:
    """uint8 -> f32."""
    info = meta.tensor_info(integers)
    assert info is not None
    return em.rw.call(
        kernels.dequantize,
        integers,
        qparams.scale,
        qparams.zero_point,
        origins=(integers,),
        value=meta.TensorInfo(info.shape, torch.float32),
    )


def max_pool1d(em: Emitter, site: LoweringSite) -> fx.Node:
    """Pooling of sequences, by the kernel for images."""
    return _max_pool(em, site, kernels.max_pool1d, [w[0] if w else None for w in _window(site, 1)])


def max_pool2d(em: Emitter, site: LoweringSite) -> fx.Node:
    """The one pooling kernel that takes plain uint8."""
    return _max_pool(em, site, kernels.max_pool2d, _window(site, 2))


def _max_pool(em: Emitter, site: LoweringSite, kernel: Any, window: list[Any]) -> fx.Node:
    qx, x = known_input(site)
    if site.arguments["spread"]:
        qx = _filled(em, site, qx, x)
    given = (*window, site.arguments["ceil_mode"])
    return em.rw.call(kernel, qx, *given, origins=(site.node,), value=_codes(site))


def _filled(em: Emitter, site: LoweringSite, qx: fx.Node, x: QParams) -> fx.Node:
    """``qx``, padded with the code that what a pool fills with rounds to."""
    fill: Any = site.arguments["fill"]
    code = float(x.quantize(torch.tensor(fill, dtype=torch.float32)))
    spread = site.arguments["spread"]
    return em.rw.call(F.pad, qx, spread, "constant", code, origins=(site.node,))


def _window(site: LoweringSite, dims: int) -> list[list[int]]:
    """Kernel size, stride (empty: the kernel size), padding and dilation, a number per dim each."""
    values = [site.arguments[n] for n in ("kernel_size", "stride", "padding", "dilation")]
    return [[] if value is None else expand(value, dims) for value in values]


def _codes(site: LoweringSite) -> meta.TensorInfo:
    """The codes of what the site yields."""
    info = meta.tensor_info(site.node)
    assert info is not None
    return meta.TensorInfo(info.shape, torch.uint8)


def pad(em: Emitter, site: LoweringSite) -> fx.Node:
    """Padding with the code of zero."""
    qx, x = known_input(site)
    mode: Any = site.arguments["mode"]
    value = float(x.zero_point) if mode == "constant" else None
    given = (site.arguments["pad"], mode, value)
    return em.rw.call(F.pad, qx, *given, origins=(site.node,), value=_codes(site))


def plain_pool(node: fx.Node) -> Mismatch | None:
    """Refuse pools that yield indices, or take unbatched input."""
    info = meta.tensor_info(node)
    if node.kwargs.get("return_indices") or info is None:
        return Mismatch("return_indices=True")
    rank = 3 if node.target is vocab.MAX_POOL1D else 4
    return None if len(info.shape) == rank else Mismatch("the input is not batched")


def zero_pad(node: fx.Node) -> Mismatch | None:
    """Refuse to pad with anything but zeros: it might lie outside the range of the input."""
    mode, value = node.kwargs.get("mode", "constant"), node.kwargs.get("value")
    if mode != "constant" or not value:
        return (
            None if mode in ("constant", "reflect", "replicate") else Mismatch("mode is {0}", mode)
        )
    return Mismatch("it pads with {0}", value)
