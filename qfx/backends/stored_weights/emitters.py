"""How calls over weights that are only kept in few bits are written, for every backend.

A linear layer takes the first of its backend's kernels that fits, that the probe finds right and
that pays for its shapes, which :mod:`qfx.backends.stored_weights.packs` knows without a stopwatch.
Else its weight is made float in front of the operation
(:mod:`qfx.backends.stored_weights.kernels`): small all the same, reason ``slow-kernel`` where
speed decided, ``unfit-kernel`` where no kernel takes the layer. Embeddings make only those rows
float that they read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from qfx.backends.base import RUN_TIME, Emit, Emitter, KernelRule, LoweringSite, WeightRule
from qfx.backends.probing.probe import probe
from qfx.backends.stored_weights import embedding_rows
from qfx.backends.stored_weights import kernels as weight_kernels
from qfx.backends.stored_weights.packs import LinearGeometry, PackedKernel
from qfx.backends.stored_weights.probes import PROBES
from qfx.graph import meta
from qfx.graph.macs import macs
from qfx.quant.annotation import Kernel, mark_kernel
from qfx.quant.reasons import IN_INTEGERS, refusal
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import EMBEDDING, EMBEDDING_BAG, UNPACK, WIDEN, OpDef, bound, is_op


@dataclass(frozen=True)
class WeightNodes:
    """A weight as the reference graph keeps it, by the nodes that read it.

    Attributes:
        codes: integers, two 4-bit codes a byte where ``packed`` says their dtype, or halves.
        scale, zero_point: nodes or numbers; the zero point is None where it is zero everywhere.
        group_size: values of a channel that share a scale.
        columns: of the codes, where packed rows end with half a byte too much.
    """

    codes: fx.Node
    packed: torch.dtype | None = None
    scale: Any = None
    zero_point: Any = None
    group_size: int | None = None
    columns: int | None = None

    @classmethod
    def of(cls, em: Emitter, site: LoweringSite) -> WeightNodes:
        """What ``site`` reads its weight from."""
        return cls.read(em, site.arguments["weight"])

    @classmethod
    def read(cls, em: Emitter, restored: Any) -> WeightNodes:
        """What the float weight ``restored`` is made from."""
        codes = restored.args[0]
        if is_op(restored, WIDEN):
            return cls(codes)
        unpacked = bound(codes) if is_op(codes, UNPACK) else {}
        packed = unpacked.get("dtype")
        scale, zero = restored.args[1:3]
        value = em.rw.tensor(zero) if isinstance(zero, fx.Node) else torch.tensor(zero)
        return cls(
            codes if packed is None else codes.args[0],
            packed,
            scale,
            zero if bool(value.any()) else None,
            bound(restored)["group_size"],
            unpacked.get("columns"),
        )

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of :mod:`qfx.backends.stored_weights.kernels` that say how to read it."""
        named = {"group_size": self.group_size, "packed": self.packed, "columns": self.columns}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def bits(self) -> str:
        """How it is kept, for reports."""
        if self.scale is None:
            return "float16"
        return "int8" if self.packed is None else "4-bit"


# -- linear layers -------------------------------------------------------------------------------
def linear(*kernels: PackedKernel) -> Emit:
    """Emits the first of ``kernels`` that pays, or a float layer over the restored weight."""

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        kept, form = WeightNodes.of(em, site), _form(em, site)
        code, faults = "unfit-kernel", []
        for kernel in (k for k in kernels if k.kept == kept.bits):
            fault = _misfit(kernel, form)
            if not fault and pays(kernel, form):
                return _packed(em, site, kernel, form)
            code = code if fault else "slow-kernel"
            faults.append(f"{kernel.name} {fault or 'is slower than float here'}")
        return _widened(em, site, kept, code, "; ".join(faults) or "there is no kernel for it")

    return emit


def _form(em: Emitter, site: LoweringSite) -> LinearGeometry:
    input, weight = site.arguments["input"], site.arguments["weight"]
    assert isinstance(input, fx.Node)
    assert isinstance(weight, fx.Node)
    read, shaped = meta.tensor_info(input), meta.tensor_info(weight)
    assert read is not None
    assert shaped is not None
    outputs, inputs = shaped.shape
    kept, halves = weight.args[0], None
    assert isinstance(kept, fx.Node)
    if site.weight is None:
        halves = em.rw.tensor(kept)
    name = str(kept.target) if site.weight is None else site.weight.name
    rows = read.numel // max(1, inputs)
    return LinearGeometry(name, rows, outputs, inputs, site.weight, halves, site.bias)


def _misfit(kernel: PackedKernel, form: LinearGeometry) -> str:
    """Why ``kernel`` can't be used for a layer, or ""."""
    misfit = kernel.unfit(form)
    if misfit:
        return misfit
    verdict = probe(kernel.name, PROBES.get(kernel.name), (), torch.float32)
    return "" if verdict else f"gives wrong results here: {verdict.detail}"


def pays(kernel: PackedKernel, form: LinearGeometry) -> bool:
    """Whether a kernel is as fast as float for a layer, by its geometry and this CPU."""
    return kernel.pays(form)


def _packed(em: Emitter, site: LoweringSite, kernel: PackedKernel, form: LinearGeometry) -> fx.Node:
    constants = kernel.pack(form)
    read = [
        value
        if isinstance(value, int)
        else em.packed((kernel.name, form.name, i), lambda value=value: value)  # type: ignore[misc]
        for i, value in enumerate(constants)
    ]
    y = call(em, site, kernel.run, site.arguments["input"], *read, site.arguments["bias"])
    mark_kernel(y, Kernel(kernel.name, macs(site.node)))
    return y


_WIDENED = "its weight is kept in {0} and made float in front of {1}: {2}"


def _widened(em: Emitter, site: LoweringSite, kept: WeightNodes, code: str, detail: str) -> fx.Node:
    """The float layer behind a weight that is made float; it adds nothing to the coverage."""
    input, bias = site.arguments["input"], site.arguments["bias"]
    if kept.scale is None:
        y = call(em, site, weight_kernels.linear_half, input, kept.codes, bias)
    else:
        numbers = (kept.codes, kept.scale, kept.zero_point)
        y = call(em, site, weight_kernels.linear, input, *numbers, bias, **kept.options)
    op = site.node.target.name  # type: ignore[union-attr]
    if code == "slow-kernel":
        why = refusal(code, detail=_WIDENED.format(kept.bits, op, detail), remedy=IN_INTEGERS)
    else:
        why = refusal(code, op=op, kept=kept.bits, detail=detail)
    mark_kernel(y, Kernel(f"dequantized {kept.bits} weight", 0, replace(why, quantized=True)))
    return y


def call(em: Emitter, site: LoweringSite, function: Any, *args: Any, **options: Any) -> fx.Node:
    """A call that yields what the site yields, with its post-ops as one more keyword."""
    post: Any = site.arguments.get("post", ())
    if post:
        options["post"] = post
    value = meta.value_of(site.node)
    return em.rw.call(function, *args, origins=(site.node,), value=value, **options)


# -- lookups -------------------------------------------------------------------------------------
def lookups(one: Emit | None = None, bag: Emit | None = None) -> tuple[KernelRule, ...]:
    """The table's rows of both embeddings; on plain tensors unless told how to write them."""

    def rows(op: OpDef, emit: Emit) -> tuple[KernelRule, ...]:
        row = KernelRule(op, "integer rows", operands=(), weight=WeightRule(halves=True))
        return row.for_methods(dict.fromkeys(RUN_TIME, emit))

    return *rows(EMBEDDING, one or embedding), *rows(EMBEDDING_BAG, bag or embedding_bag)


def embedding(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """Emits a lookup of integer rows, scaled."""
    kept = WeightNodes.of(em, site)
    numbers = (kept.codes, kept.scale, kept.zero_point)
    function = weight_kernels.embedding
    y = call(em, site, function, site.arguments["input"], *numbers, **kept.options)
    mark_kernel(y, Kernel(f"{kept.bits} rows", 0))
    return y


def embedding_bag(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """Emits the kernel of packed rows where it computes the bag, else a lookup and float pools."""
    kept = WeightNodes.of(em, site)
    bits = bits_of_rows(site, kept)
    kernel = embedding_rows.NAMES.get(bits, "")
    if kernel and probe(kernel, PROBES.get(kernel), (), torch.float32):
        return _rows(em, site, bits)
    names = ("mode", "include_last_offset", "padding_idx")
    told = {name: site.arguments[name] for name in names}
    operands = (site.arguments["offsets"], site.arguments["per_sample_weights"])
    numbers = (kept.codes, kept.scale, kept.zero_point, *operands)
    function = weight_kernels.embedding_bag
    y = call(em, site, function, site.arguments["input"], *numbers, **told, **kept.options)
    mark_kernel(y, Kernel(f"{kept.bits} rows, float pool", 0))
    return y


def bits_of_rows(site: LoweringSite, kept: WeightNodes) -> int:
    """For which kernel of packed rows the bag of ``site`` is made, or 0."""
    pools = site.arguments["mode"] != "max" and site.arguments["padding_idx"] is None
    if not pools or kept.scale is None or kept.group_size is not None or kept.columns is not None:
        return 0
    return 8 if kept.packed is None else 4


def _rows(em: Emitter, site: LoweringSite, bits: int) -> fx.Node:
    weight = site.weight
    assert weight is not None

    def recipe() -> object:
        codes, scale, zero = from_zero(weight.integers, weight.qparams, bits)
        return embedding_rows.pack_rows(codes, scale, zero, bits)

    rows = em.packed((embedding_rows.NAMES[bits], weight.name), recipe)
    y = bag_call(em, site, embedding_rows.sum_of_rows, rows, bits)
    mark_kernel(y, Kernel(embedding_rows.NAMES[bits], 0))
    return y


def bag_call(
    em: Emitter, site: LoweringSite, function: object, packed: fx.Node, bits: int
) -> fx.Node:
    """A call of a kernel of packed rows for the bag of ``site``."""
    names = ("input", "offsets", "per_sample_weights")
    input, *bags = (site.arguments[name] for name in names)
    told = {name: site.arguments[name] for name in ("mode", "include_last_offset")}
    return call(em, site, function, input, packed, *bags, bits=bits, **told)


def from_zero(
    codes: torch.Tensor, qparams: Any, bits: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uint8 codes from 0 on, scales, and zero points of such codes, per row."""
    middle = 2 ** (bits - 1) if codes.dtype == torch.int8 else 0
    shifted = (codes.to(torch.int16) + middle).to(torch.uint8)
    return (
        shifted,
        torch.as_tensor(qparams.scale),
        torch.as_tensor(qparams.zero_point).float() + middle,
    )
