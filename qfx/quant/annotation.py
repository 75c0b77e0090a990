"""Which values are quantized and which operations read integers, as data on the nodes.

Annotation comes before insertion: the ``annotate`` pass writes an :class:`Annotation` on every
operation, ``place-observers`` and ``reference`` act on it, and the report reads it. A value (the
result of a node) that is quantized belongs to a *group*; values of one group share their qparams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

from qfx.quant.qparams import QParams
from qfx.quant.spec import QuantSpec

_KEY = "qfx.annotation"


@dataclass(frozen=True)
class Edge:
    """How one value is quantized.

    Attributes:
        group: values with the same number share one observer.
        spec: dtype, scheme and observer.
    """

    group: int
    spec: QuantSpec


@dataclass(frozen=True)
class Decision:
    """Why an operation runs in integers or stays float.

    Attributes:
        quantized: whether it runs in integers.
        reason: a short code, e.g. "no-kernel"; "" when quantized.
        message: one sentence.
        remedy: what the user can do, or "".
    """

    quantized: bool
    reason: str = ""
    message: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Annotation:
    """What is decided for one operation.

    Attributes:
        decision: integers or float, and why.
        reads: name of an operand node -> how the operation reads it, where it reads it quantized.
        output: how its result is quantized when it is only ever handed out in integers.
        weight: how its constant weight is quantized.
        widened: whether a pass gave that more bits than the configuration asks for.
        weight_qparams: of each of its weights, what training found; None where qparams follow from
            the weight and its spec.
        rule: the rule of the configuration that chose its specs, as text; "" where it is float.
    """

    decision: Decision
    reads: Mapping[str, Edge] = field(default_factory=dict)
    output: Edge | None = None
    weight: QuantSpec | None = None
    widened: bool = False
    weight_qparams: tuple[QParams | None, ...] = ()
    rule: str = ""

    @property
    def method(self) -> str:
        """How it is quantized: "static", "dynamic" or "weight_only"; of no meaning where it isn't.

        Only what is weight-only quantizes a weight and reads nothing in integers.
        """
        if any(edge.spec.dynamic for edge in self.reads.values()):
            return "dynamic"
        return "static" if self.reads or self.weight is None else "weight_only"


def annotation(node: fx.Node) -> Annotation | None:
    """The annotation of ``node``, if it has one."""
    found: Annotation | None = node.meta.get(_KEY)
    return found


def annotate(node: fx.Node, note: Annotation) -> None:
    """Set the annotation of ``node``."""
    node.meta[_KEY] = note


_RANGELESS = "qfx.rangeless"


def mark_rangeless(node: fx.Node) -> None:
    """Say of a QUANTIZE that its qparams stand for nothing but zeros, the only values seen."""
    node.meta[_RANGELESS] = True


def is_rangeless(node: fx.Node) -> bool:
    """Whether nothing but zeros was seen of what a QUANTIZE reads."""
    return _RANGELESS in node.meta


_MAKES_UP = "qfx.makes_up"


def mark_making_up(node: fx.Node, added: Iterable[float]) -> None:
    """Say by how much more the bias of a layer was moved to make up for what comes before it.

    Args:
        node: the layer.
        added: to each channel.
    """
    before = made_up_by(node)
    added = tuple(added)
    sums = zip(before or (0.0,) * len(added), added, strict=True)
    node.meta[_MAKES_UP] = tuple(one + other for one, other in sums)


def made_up_by(node: fx.Node) -> tuple[float, ...]:
    """What a bias adds to each channel to make up for the rounding before it; () if nothing."""
    found: tuple[float, ...] = node.meta.get(_MAKES_UP, ())
    return found


@dataclass(frozen=True)
class Kernel:
    """What an integer node of a lowered graph runs.

    Attributes:
        name: the kernel, as reports show it.
        macs: multiply-accumulates of one call with the example inputs that are done in integers.
        decision: why it is no better, where there is more to say than "quantized".
    """

    name: str
    macs: int
    decision: Decision = field(default_factory=lambda: Decision(True))


_KERNEL = "qfx.kernel"


def kernel_of(node: fx.Node) -> Kernel | None:
    """The kernel that ``node`` runs, or None if it computes in float."""
    found: Kernel | None = node.meta.get(_KERNEL)
    return found


def mark_kernel(node: fx.Node, kernel: Kernel) -> None:
    """Say which kernel ``node`` runs."""
    node.meta[_KERNEL] = kernel
