"""Whether specs fit a kernel, and the weight spec that a kernel makes of what was asked.

Integer kernels take one scheme: uint8 activations per tensor, int8 symmetric weights per tensor or
per output channel. Weights that are only kept in integers may be affine, uint8, or in groups. The
reference form takes any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import fx

from qfx.backends.base import Backend, KernelRule, WeightRule
from qfx.backends.saturation import HIGHEST_SAFE
from qfx.backends.table_checks import LAYOUTS
from qfx.graph import meta
from qfx.quant.observers.registry import per_tensor_twin
from qfx.quant.spec import QConfig, QuantSpec
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import RECURRENT, Kind, bound


def not_in(method: str, rows: Sequence[KernelRule]) -> Mismatch:
    """Why an operation that ``rows`` are of is not quantized by ``method``, of which none is."""
    text = "{0} is not quantized in the way that its QConfig asks for ({1}), only: {2}"
    return Mismatch(text, rows[0].kernel, method, ", ".join(row.method for row in rows))


def unfit(node: fx.Node, qconfig: QConfig, row: KernelRule, backend: Backend) -> Mismatch | None:
    """Why the kernel of ``row`` can't honour ``qconfig`` at ``node``, or None."""
    activation, weight, rule = qconfig.activation, qconfig.weight, row.weight
    if activation is not None and activation.per_channel:
        return Mismatch("activations are quantized per tensor")
    if activation is not None and activation.power_of_two and row.op in RECURRENT:
        return Mismatch("hidden states are not measured in powers of two")
    if rule is not None and weight is None:
        return Mismatch("its QConfig has no weight spec")
    if rule is not None and weight is not None:
        misfit = _unfit_weight(node, weight, rule)
        if misfit is not None or weight.dtype == torch.float16:
            return misfit
    if in_float(qconfig) and backend.rule(row.op, "weight_only") is None:
        return Mismatch("its weight can't be quantized alone, only with what it reads")
    emits = backend.quantize is not None
    if emits and rule is not None and weight is not None:
        if row.op.kind is Kind.LOOKUP and not weight.per_channel:
            return Mismatch("rows have a scale each: set per_channel=True, not {0}", weight)
        if row.op.kind is Kind.LOOKUP or in_float(qconfig):
            return _unfit_stored(weight, rule)
    misfit = _unfit_codes(qconfig, row, backend)
    if misfit is not None or not emits:
        return misfit
    misfit = _unfit_measured(activation, backend)
    if misfit is not None or rule is None or weight is None:
        return misfit
    if weight.group_size is not None:
        text = "kernels of {0} that compute in integers take no groups of weights (group_size={1})"
        return Mismatch(text, backend.name, weight.group_size)
    return _unfit_axis(weight, rule)


def _unfit_codes(qconfig: QConfig, row: KernelRule, backend: Backend) -> Mismatch | None:
    """Why the codes that ``qconfig`` asks for are none that the kernel takes, or None."""
    activations, weights = backend.takes(row)
    activation = None if in_float(qconfig) else qconfig.activation
    pairs = (
        (activations, activation, "activations"),
        (weights, qconfig.weight if row.weight is not None else None, "weights"),
    )
    for scheme, spec, what in pairs:
        refusal = scheme.refusal(spec) if scheme is not None and spec is not None else ""
        if refusal:
            text = "kernels of {0} take other {1}: {2}"  # told once, whichever kernel it is
            return Mismatch(text, backend.name, what, refusal)
    return None


def _unfit_measured(activation: QuantSpec | None, backend: Backend) -> Mismatch | None:
    """Why kernels that measure and quantize what they read don't do it in this way, or None."""
    default = backend.defaults.get("dynamic")
    own = None if default is None else default.activation
    if activation is None or own is None or not activation.dynamic or backend.measure is not None:
        return None
    codes = torch.iinfo(activation.dtype)
    scheme = (activation.symmetric, activation.power_of_two)
    if scheme == (False, False) and activation.bounds in (own.bounds, (codes.min, codes.max)):
        return None
    return Mismatch(
        "kernels of {0} measure activations themselves, as {1}, not {2}; x86 can do that",
        backend.name, own, activation,
    )  # fmt: skip


def in_float(qconfig: QConfig) -> bool:
    """Whether activations stay as they are: dynamic float16 says how kernels keep the weight."""
    return qconfig.activation is None or qconfig.activation.dtype == torch.float16


def overflows(qconfig: QConfig) -> bool:
    """Whether two products of codes may add up to more than an int16 holds.

    See :mod:`qfx.backends.saturation`.
    """
    activation, weight = qconfig.activation, qconfig.weight
    if activation is None or weight is None or activation.dtype != torch.uint8:
        return False
    if weight.dtype != torch.int8:
        return False
    largest = max(map(abs, weight.bounds))
    return 2 * activation.bounds[1] * min(largest, _INT8_MAX) > torch.iinfo(torch.int16).max


_INT8_MAX = torch.iinfo(torch.int8).max  # of the negative ones there is one more, seldom two


def narrowed(qconfig: QConfig) -> QConfig:
    """``qconfig`` with activations whose codes are small enough for sums of two products."""
    assert qconfig.activation is not None
    low = min(qconfig.activation.bounds[0], HIGHEST_SAFE - 1)
    activation = replace(qconfig.activation, quant_min=low, quant_max=HIGHEST_SAFE)
    return replace(qconfig, activation=activation)


def _unfit_weight(node: fx.Node, weight: QuantSpec, rule: WeightRule) -> Mismatch | None:
    """Why no form of the weight of ``node`` can be made as its spec says, or None."""
    if weight.dtype == torch.float16:
        kept = "its weight can't be kept in float16, only in integers"
        return None if rule.halves else Mismatch(kept)
    return _misshapen(node, weight, rule)


def _misshapen(node: fx.Node, spec: QuantSpec, rule: WeightRule) -> Mismatch | None:
    """Why the constant weight of ``node`` has no channels or groups as ``spec`` asks, or None."""
    arguments = bound(node)
    reads = arguments.get("weights", (arguments.get("weight"),))
    infos = (meta.tensor_info(read) for read in reads if isinstance(read, fx.Node))
    misfits = (_undivided(info.shape, spec, rule) for info in infos if info is not None)
    return next((misfit for misfit in misfits if misfit is not None), None)


def _undivided(shape: tuple[int, ...], spec: QuantSpec, rule: WeightRule) -> Mismatch | None:
    if not spec.per_channel or not rule.per_channel:
        return None
    axis = rule.axis if spec.axis is None else spec.axis
    if not -len(shape) <= axis < len(shape):
        return Mismatch("its weight {0} has no axis {1}", list(shape), axis)
    if spec.group_size is None:
        return None
    per_channel = math.prod(shape) // max(shape[axis], 1)
    if per_channel % spec.group_size == 0:
        return None
    return Mismatch(
        "group_size={0} does not divide the {1} values of each channel of its weight {2}",
        spec.group_size,
        per_channel,
        list(shape),
    )


def _unfit_stored(weight: QuantSpec, rule: WeightRule) -> Mismatch | None:
    """Why a weight that only is kept in integers can't be kept so, or None."""
    if weight.dtype not in (torch.int8, torch.uint8):
        return Mismatch("weights are kept as int8 or uint8, not {0}", weight.dtype)
    return _unfit_axis(weight, rule)


def _unfit_axis(weight: QuantSpec, rule: WeightRule) -> Mismatch | None:
    if weight.axis in (None, rule.axis):
        return None
    text = "its kernel takes a weight scale per output channel (axis {0}), not axis {1}"
    return Mismatch(text, rule.axis, weight.axis)


def settled_weight(spec: QuantSpec, rule: WeightRule) -> QuantSpec:
    """``spec`` with the operation's channel axis, or per tensor where the kernel takes no more."""
    if not spec.per_channel or spec.dtype == torch.float16:
        return spec
    if not rule.per_channel:
        twin = per_tensor_twin(spec.observer_class)
        return replace(
            spec, per_channel=False, axis=None, group_size=None, observer=twin, offset=None
        )
    return spec if spec.axis is not None else replace(spec, axis=rule.axis)


def unlaid(node: fx.Node, operands: Iterable[fx.Node], row: KernelRule) -> Mismatch | None:
    """Why an operand of ``node`` can't lie in memory as the kernel reads it, or None."""
    dims = None if row.layout is None else LAYOUTS[row.layout]
    for operand in operands if dims is not None else ():
        info = meta.tensor_info(operand)
        if info is not None and len(info.shape) != dims:
            text = "its kernel reads {0}, of {1} dims, and an operand is {2}"
            return Mismatch(text, row.layout, dims, list(info.shape))
    return None


def too_flat(node: fx.Node) -> Mismatch | None:
    """Why a kernel that wants a batch dimension can't take the input of a layer, or None."""
    arguments = bound(node)
    if "weight" not in arguments:  # recurrent layers run without one
        return None
    info, weight = meta.tensor_info(arguments["input"]), meta.tensor_info(arguments["weight"])
    if info is None or weight is None or len(info.shape) >= len(weight.shape):
        return None
    return Mismatch("its input has no batch dimension: {0}", list(info.shape))
