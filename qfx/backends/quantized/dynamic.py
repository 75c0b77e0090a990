"""Kernels of ``torch.ops.quantized`` that take float, measure and quantize it, and give float.

Linear layers only: ``conv1d_dynamic`` and its kin round their results to the qparams of their
input, so that what lies outside the input's range is cut off (torch 2.13, every engine).
"""

from __future__ import annotations

from typing import Any

from torch import fx

from qfx import vocab
from qfx.backends.base import Emit, Emitter, LoweringSite
from qfx.backends.hardware import hardware
from qfx.backends.quantized import dtypes as q
from qfx.backends.quantized.linear import LINEAR
from qfx.backends.quantized.saturation import reduces
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch


def dynamic_engine(engine: str) -> str:
    """The engine that packs for dynamic kernels in place of ``engine``.

    With VNNI, oneDNN's are up to twice as fast as what "x86" takes, and use all 8 bits.
    """
    better = "onednn" in hardware().engines and not reduces(engine)
    return "onednn" if engine == "x86" and better else engine


def linear(engine: str) -> Emit:
    """Emits ``quantized::linear_dynamic``, with relu as post-op."""
    packing = dynamic_engine(engine)

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        post: Any = site.arguments["post"]
        relu = post == (("relu",),)
        kernel = LINEAR["linear_relu_dynamic" if relu else "linear_dynamic"]
        packed = q.packed_weight(em, site, "linear", packing, relu=relu)
        y = _call(em, site, kernel, packed, reduces(engine))
        return y if relu else _with_post(em, site, y)

    return emit


def _call(
    em: Emitter, site: LoweringSite, kernel: Any, packed: fx.Node, reduce_range: bool
) -> fx.Node:
    """The kernel on the float value that the reference form quantizes."""
    operand = site.arguments["input"]
    assert isinstance(operand, fx.Node)
    value = site.inputs[operand][0].args[0]
    return em.rw.call(
        kernel, value, packed, reduce_range, origins=(site.node,),
        value=meta.value_of(site.node),
    )  # fmt: skip


def _with_post(em: Emitter, site: LoweringSite, y: fx.Node) -> fx.Node:
    """The post-ops of the site, in float."""
    post: Any = site.arguments["post"]
    for post_op in post:
        op, operands, attributes = vocab.call_of_post_op(post_op)
        y = em.rw.call(op, y, *operands, origins=(site.node,), **attributes)
    return y
