"""What a row of a backend's table, and the table, must be: checked when they are made.

A row that can't be meant would not be noticed otherwise: an operand that the operation lacks is
never quantized, a post-op that does not exist never fused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING

import torch

from qfx.backends.schemes import Scheme
from qfx.errors import BackendError
from qfx.framework.pass_base import Pass
from qfx.quant.qparams import QParams
from qfx.semantics.post import POST_OPS
from qfx.vocab import OpDef

if TYPE_CHECKING:
    from qfx.backends.base import Backend, KernelRule

METHODS = ("static", "dynamic", "weight_only")
"""Every way to quantize an operation after training."""

LAYOUTS: Mapping[torch.memory_format, int | None] = {
    torch.contiguous_format: None,
    torch.channels_last: 4,
    torch.channels_last_3d: 5,
}
"""The memory formats that kernels may ask for, and how many dims tensors have that lie so."""


def check_rule(rule: KernelRule) -> None:
    """Raise if a row can't be meant.

    Raises:
        BackendError: it says which row, and what about it.
    """
    for fault in _faults(rule):
        op = rule.op.name if isinstance(rule.op, OpDef) else repr(rule.op)
        raise BackendError(f"KernelRule({op}, {rule.kernel!r}): {fault}")


def _faults(rule: KernelRule) -> Iterator[str]:
    if not isinstance(rule.op, OpDef):
        yield f"op is {rule.op!r}, no operation; give one of qfx.vocab, e.g. vocab.CONV2D"
    if not isinstance(rule.kernel, str) or not rule.kernel:
        yield "kernel must be the name that reports show"
    for name in ("demand", "output"):
        value = getattr(rule, name)
        if not isinstance(value, Enum):
            yield f"{name} is {value!r}; give one of {type(rule).__annotations__[name]}"
    yield from _faults_of_operands(rule)
    yield from _faults_of_post(rule)
    yield from _faults_of_method(rule)
    yield from _faults_of_codes(rule)
    yield from _faults_of_layout(rule)
    if (rule.fixed is not None) != (getattr(rule.output, "name", "") == "FIXED"):
        yield "fixed goes with output=Output.FIXED, and only with that"
    if rule.fixed is not None and not isinstance(rule.fixed, QParams):
        yield f"fixed is {rule.fixed!r}; give QParams"
    if rule.requantizes and rule.output.name != "SHARED":
        yield "requantizes goes with output=Output.SHARED only"


def _faults_of_operands(rule: KernelRule) -> Iterator[str]:
    parameters = tuple(rule.op.signature.parameters)
    if not isinstance(rule.operands, tuple):
        yield f"operands is {rule.operands!r}; give a tuple of parameters of {rule.op.name}"
    for operand in rule.operands:
        if operand not in parameters:
            yield f"{rule.op.name} has no operand {operand!r}; it has: {', '.join(parameters)}"
    if rule.weight is not None and not {"weight", "weights"} & set(parameters):
        yield f"{rule.op.name} has no weight; leave weight out"


def _faults_of_post(rule: KernelRule) -> Iterator[str]:
    if rule.post and "post" not in rule.op.signature.parameters:
        yield f"{rule.op.name} takes no post-ops"
    for chain in rule.post:
        if not isinstance(chain, tuple):
            yield f"post holds {chain!r}; give chains, tuples of names: (({chain!r},),)"
        for name in chain:
            if name not in POST_OPS:
                yield f"there is no post-op {name!r}; choose of {', '.join(sorted(POST_OPS))}"


def _faults_of_method(rule: KernelRule) -> Iterator[str]:
    if rule.method not in METHODS:
        yield f"there is no method {rule.method!r}; choose of {', '.join(map(repr, METHODS))}"
    if rule.emit is not None and not callable(rule.emit):
        yield f"emit is {rule.emit!r}; give a function (emitter, site)"
    if rule.supports is not None and not callable(rule.supports):
        yield f"supports is {rule.supports!r}; give a function of the node"


def _faults_of_codes(rule: KernelRule) -> Iterator[str]:
    for name, scheme in (
        ("activations", rule.activations),
        ("weight codes", rule.weight.codes if rule.weight is not None else None),
    ):
        if scheme is not None and not isinstance(scheme, Scheme):
            yield f"{name} is {scheme!r}; give a Scheme"
    if rule.bias is not None and "bias" not in rule.op.signature.parameters:
        yield f"{rule.op.name} has no bias; leave bias out"
    if rule.bias not in (None, torch.int32):
        yield f"bias is {rule.bias!r}; give torch.int32, or None for kernels that add floats"
    if rule.bias is not None and (rule.weight is None or rule.method != "static"):
        yield "integer biases go with a weight and known qparams: method='static'"


def _faults_of_layout(rule: KernelRule) -> Iterator[str]:
    if rule.layout is not None and rule.layout not in LAYOUTS:
        yield f"layout is {rule.layout!r}; choose of {', '.join(map(str, LAYOUTS))}, or None"
    if rule.layout is not None and rule.emit is None:
        yield "layout goes with an emit: the reference form reads tensors as they lie"


def check_backend(backend: Backend) -> None:
    """Raise if a table can't be meant.

    Raises:
        BackendError: it says which row, and what about it.
    """
    for fault in (*_twice(backend.rules), *_faults_of_table(backend)):
        raise BackendError(f"Backend({backend.name!r}): {fault}")


def _twice(rules: Iterable[KernelRule]) -> Iterator[str]:
    seen: dict[tuple[OpDef, str], KernelRule] = {}
    for rule in rules:
        first = seen.setdefault((rule.op, rule.method), rule)
        if first is not rule:
            yield (
                f"two rows for {rule.op.name}, {rule.method}: {first.kernel!r} and "
                f"{rule.kernel!r}; a row says "
                "with supports= what it takes, and its emit may choose among kernels"
            )


def _faults_of_table(backend: Backend) -> Iterator[str]:
    if (backend.quantize is None) != (backend.dequantize is None):
        yield "give both quantize and dequantize, or neither to keep the reference form"
    if not isinstance(backend.passes, tuple) or not all(_is_named(p) for p in backend.passes):
        yield f"passes is {backend.passes!r}; give a tuple of passes with names: (MyPass(),)"
    known = (*METHODS, "qat")
    for method in backend.defaults:
        if method not in known:
            yield f"defaults for {method!r}, which is no method; choose of {', '.join(known)}"
    yield from _unfit_defaults(backend)
    for rule in backend.rules:
        if backend.quantize is None and rule.emit is not None:
            yield f"the row of {rule.op.name} has an emit, which needs quantize and dequantize"
        if backend.quantize is not None and _lacks_emit(rule):
            yield f"the row of {rule.op.name} has no emit for its method {rule.method!r}"


def _unfit_defaults(backend: Backend) -> Iterator[str]:
    """Defaults, and fixed qparams, that the backend's own kernels refuse."""
    for rule in backend.rules:
        activations, weights = backend.takes(rule)
        if rule.fixed is not None and activations is not None:
            refusal = activations.refusal_of(rule.fixed)
            if refusal:
                yield f"fixed qparams of the row of {rule.op.name}: {refusal}"
        qconfig = backend.defaults.get(rule.method)
        if qconfig is None or rule.method != "static":
            continue
        specs = ((activations, qconfig.activation), (weights, qconfig.weight))
        for scheme, spec in specs if rule.weight is not None else specs[:1]:
            refusal = scheme.refusal(spec) if scheme is not None and spec is not None else ""
            if refusal:
                yield f"the default QConfig for static does not fit {rule.op.name}: {refusal}"
    yield from _needless_channels(backend)


def _needless_channels(backend: Backend) -> Iterator[str]:
    """Default weight scales per channel, of which no row takes any."""
    for method in METHODS:
        rows = [r for r in backend.rules if r.method == method and r.weight is not None]
        qconfig = backend.defaults.get(method)
        asks = qconfig is not None and qconfig.weight is not None and qconfig.weight.per_channel
        if asks and rows and not any(r.weight is not None and r.weight.per_channel for r in rows):
            yield (
                f"the default QConfig for {method} has a weight scale per channel, and "
                f"{rows[0].kernel!r} takes one per tensor: set per_channel=False there, or "
                "WeightRule(per_channel=True)"
            )


def _is_named(step: object) -> bool:
    return isinstance(step, Pass) and bool(step.name)


def _lacks_emit(rule: KernelRule) -> bool:
    """Whether a row does not say how its call is written, and the operation itself can't be it."""
    is_same_op = rule.method == "static" and rule.output.name == "SHARED"
    return rule.emit is None and not is_same_op
