"""What a backend is: one table of kernel rules, and the defaults that go with it.

Fusion, annotation, observer sharing and lowering all read this table, so adding an operation to a
backend is adding one :class:`KernelRule` for each method that has a kernel. A row says three
things: what the kernel accepts (operands, weight scheme, post-ops, a predicate), what it hands out
(:class:`Output`), and how a call to it is written (``emit``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.backends.schemes import Scheme
from qfx.backends.table_checks import METHODS, check_backend, check_rule
from qfx.errors import BackendError, QfxError
from qfx.framework.pass_base import Pass
from qfx.graph.meta import where
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured, QuantizedWeight
from qfx.quant.spec import QConfig
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import OpDef

Chain = tuple[str, ...]

_UINT8 = Scheme((torch.uint8,))
_SYMMETRIC_INT8 = Scheme((torch.int8,), symmetric=True)


class Output(Enum):
    """What a kernel hands out."""

    INTEGER = "integer"  # quantized with its own qparams, always
    EITHER = "integer or float"  # float when a consumer wants float: no rounding, no dequantize
    SHARED = "shares its input's qparams"  # values pass through: shapes, pools, joins
    FIXED = "fixed qparams"  # the range is known from the mathematics: sigmoid


class Demand(Enum):
    """Whether an operation asks for integer inputs or only goes along with them."""

    ASKS = "asks"  # pays for quantizing its inputs
    PULLS = "pulls"  # quantized when its result is; costs no accuracy (shapes)
    FOLLOWS = "follows"  # quantized when all its inputs are integers anyway


@dataclass(frozen=True)
class WeightRule:
    """How a kernel takes its constant weight.

    Attributes:
        axis: output-channel axis, for per-channel scales.
        per_channel: whether per-channel scales are accepted.
        halves: whether it may be kept in float16.
        codes: what codes it takes; None: what the backend does (``Backend.weights``).
    """

    axis: int = 0
    per_channel: bool = True
    halves: bool = False
    codes: Scheme | None = None


@dataclass(frozen=True)
class LoweringSite:
    """One operation of the reference graph, ready to be lowered.

    Attributes:
        node: the float operation between dequantize and quantize.
        arguments: its bound arguments by parameter name.
        inputs: for each operand node that is at hand in integers, that node and its qparams; for
            kernels that quantize their input themselves, the float node.
        output: qparams the result must have, or None for float.
        weights: the constant weights: one for most kernels, several for recurrent layers; none
            where they are kept in halves.
        bias: the bias, or None: float, or codes of a row with ``bias=torch.int32``.
    """

    node: fx.Node
    arguments: Mapping[str, object]
    inputs: Mapping[fx.Node, tuple[fx.Node, QParams | Measured]]
    output: QParams | None
    weights: tuple[QuantizedWeight, ...]
    bias: Tensor | None

    @property
    def weight(self) -> QuantizedWeight | None:
        """The first weight, for kernels that have one."""
        return self.weights[0] if self.weights else None


class Emitter(Protocol):
    """What a rule's ``emit`` may use to write its call."""

    rw: Rewriter

    def packed(
        self, key: tuple[object, ...], recipe: Callable[[], Any], *, apart: bool = False
    ) -> fx.Node:
        """A get_attr of a packed constant, made once per key.

        With ``apart`` the recipe makes a tensor, and may run later, on another thread.
        """
        ...


Emit = Callable[[Emitter, LoweringSite], "fx.Node | Mismatch"]
Supports = Callable[[fx.Node], "Mismatch | None"]


@dataclass(frozen=True)
class KernelRule:
    """One row of a backend's table: the kernel of one operation for one method.

    Attributes:
        op: the canonical operation.
        kernel: name shown in reports.
        demand: see :class:`Demand`.
        output: see :class:`Output`.
        operands: parameters that are quantized as activations; a list-valued one counts whole.
        weight: how the constant weight is taken, or None if there is none.
        post: chains of post-ops that the kernel computes.
        fixed: qparams of the result, when ``output`` is FIXED.
        requantizes: whether a kernel that shares takes inputs of other qparams than its result's.
        supports: says why a given node can't use the kernel, or None.
        emit: writes the call; None where the reference form itself is the kernel.
        activations: what codes it reads and hands out; None: what the backend does.
        bias: torch.int32 where the kernel adds codes of scale (input scale * weight scale), one of
            which per output channel is ``site.bias``; None where it adds floats.
        layout: in which memory format the kernel reads its operands, e.g. torch.channels_last, into
            which they are brought where they lie otherwise; None takes any.
        method: what it serves: activations quantized with known qparams ("static"), measured at
            run time ("dynamic"), or not at all ("weight_only"); see :data:`METHODS`.

    Raises:
        BackendError: the row can't be meant.
    """

    op: OpDef
    kernel: str
    demand: Demand = Demand.ASKS
    output: Output = Output.INTEGER
    operands: tuple[str, ...] = ("input",)
    weight: WeightRule | None = None
    post: tuple[Chain, ...] = ()
    fixed: QParams | None = None
    requantizes: bool = False
    supports: Supports | None = None
    emit: Emit | None = None
    method: str = "static"
    activations: Scheme | None = None
    bias: torch.dtype | None = None
    layout: torch.memory_format | None = None

    def __post_init__(self) -> None:
        check_rule(self)

    def refusal(self, node: fx.Node) -> Mismatch | None:
        """What ``supports`` says of a node.

        Raises:
            BackendError: it raised, or said neither a Mismatch nor None.
        """
        if self.supports is None:
            return None
        row = f"supports= of the row {self.kernel!r} of {self.op.name}"
        try:
            said: object = self.supports(node)
        except QfxError:
            raise
        except Exception as error:
            fault = BackendError(f"{row} raised {type(error).__name__}: {error}, at {where(node)}")
            fault.node = node.name
            raise fault from error
        if said is None or isinstance(said, Mismatch):
            return said
        fault = BackendError(
            f"{row} gave {said!r} at {where(node)}; return None where the kernel takes the node, "
            'and qfx.Mismatch("why not") where it does not'
        )
        fault.node = node.name
        raise fault

    def for_methods(self, emits: Mapping[str, Emit | None]) -> tuple[KernelRule, ...]:
        """A row for each method in ``emits``, alike but for what writes the call."""
        return tuple(replace(self, method=method, emit=emit) for method, emit in emits.items())


RUN_TIME = METHODS[1:]
"""The methods under which an operation takes and hands out float."""

MOVES = tuple(
    op
    for op in vocab.ops()
    if op.kind is vocab.Kind.SHAPE and op is not vocab.PAD and "input" in op.signature.parameters
)
"""Operations of one tensor whose result holds values of the input, moved, copied or dropped."""


def pulls(
    op: OpDef,
    kernel: str,
    emit: Emit | None = None,
    *,
    operands: tuple[str, ...] = ("input",),
    supports: Supports | None = None,
) -> KernelRule:
    """The row of an operation that passes values through unchanged: shapes, joins, max pools."""
    return KernelRule(
        op, kernel, Demand.PULLS, Output.SHARED, operands, supports=supports, emit=emit
    )


def follows(
    op: OpDef, kernel: str, emit: Emit | None = None, *, supports: Supports | None = None
) -> KernelRule:
    """The row of an operation that stays within its input's range: integers if those are."""
    return KernelRule(op, kernel, Demand.FOLLOWS, Output.SHARED, supports=supports, emit=emit)


@dataclass(frozen=True)
class Backend:
    """A target: its kernels, and what is quantized by default.

    Attributes:
        name: as given to ``backend=``.
        rules: the table.
        defaults: method -> default QConfig.
        quantize, dequantize: write the boundary calls; None keeps the reference form.
        clamp: (codes, lowest, highest) -> codes between them, for qparams that don't use the whole
            dtype: kernels saturate where that ends, and must not read codes beyond the bounds.
        measure: writes the call that quantizes a value with the qparams that it measures, given
            also the QUANTIZE of the reference form; None where kernels do that themselves.
        probe: (kernel, post-ops) -> what is wrong with it on this machine, or "".
        passes: run right after ``lower``, in order, on the graph of kernels; each is a stage.
        cpu_only: results live on the CPU.
        activations, weights: what codes kernels take; None: uint8, and symmetric int8, of kernels
            that emit calls, and any where the reference form is the kernel.
        saturates: whether layers with weights add up products of 8-bit codes wrongly here, so that
            what they read must keep to 7 bits (:mod:`qfx.backends.saturation`).
    """

    name: str
    rules: tuple[KernelRule, ...]
    defaults: Mapping[str, QConfig]
    quantize: Callable[[Emitter, fx.Node, QParams], fx.Node] | None = None
    dequantize: Callable[[Emitter, fx.Node, QParams | Measured], fx.Node] | None = None
    clamp: Callable[[Tensor, int, int], Tensor] = torch.clamp
    measure: Callable[[Emitter, fx.Node, fx.Node], tuple[fx.Node, Measured]] | None = None
    probe: Callable[[str, Chain], str] | None = None
    passes: tuple[Pass, ...] = ()
    cpu_only: bool = True
    saturates: bool = False
    activations: Scheme | None = None
    weights: Scheme | None = None
    _by_op: dict[OpDef, dict[str, KernelRule]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_backend(self)
        by_op: dict[OpDef, dict[str, KernelRule]] = {}
        for rule in self.rules:
            by_op.setdefault(rule.op, {})[rule.method] = rule
        object.__setattr__(self, "_by_op", by_op)

    def takes(self, rule: KernelRule) -> tuple[Scheme | None, Scheme | None]:
        """What codes of activations and weights a row takes; None takes any."""
        emits = self.quantize is not None
        activations = rule.activations or self.activations or (_UINT8 if emits else None)
        own = rule.weight.codes if rule.weight is not None else None
        return activations, own or self.weights or (_SYMMETRIC_INT8 if emits else None)

    def rule(self, op: object, method: str = "static") -> KernelRule | None:
        """The row of ``op`` for a method, or None if the backend has no such kernel."""
        return self._by_op.get(op, {}).get(method) if isinstance(op, OpDef) else None

    def rows(self, op: object) -> tuple[KernelRule, ...]:
        """The rows of ``op``, one for each method that has a kernel."""
        return tuple(self._by_op.get(op, {}).values()) if isinstance(op, OpDef) else ()

    def post_ops(self, op: OpDef) -> tuple[Chain, ...]:
        """The post-op chains that a kernel of ``op`` computes."""
        return tuple(dict.fromkeys(chain for row in self.rows(op) for chain in row.post))


def saturates(qparams: QParams, low: float | None, high: float | None) -> bool:
    """Whether rounding to ``qparams`` alone clamps values to [low, high].

    Kernels saturate where the dtype ends, whatever narrower range the codes were meant to keep to.
    """
    ends = torch.iinfo(qparams.dtype)
    if low == 0 and high is None and not isinstance(qparams.zero_point, Tensor):
        return qparams.zero_point == ends.min  # relu: 0 is the zero point, at any scale
    reach = [-torch.inf if low is None else low, torch.inf if high is None else high]
    bounds = torch.tensor(reach, dtype=torch.float32)
    whole = replace(qparams, quant_min=ends.min, quant_max=ends.max)
    return bool(whole.quantize(bounds).tolist() == [ends.min, ends.max])
