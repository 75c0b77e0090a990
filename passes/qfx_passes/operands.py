"""What a canonical node reads, and what kind of operation it is: what several passes ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, fx

from qfx.graph import meta
from qfx.graph.containers import makes_container
from qfx.graph.interpret import result_of
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import Kind, OpDef, bound

_NO_SITES = (Kind.QUERY, Kind.STUB, Kind.QUANT, Kind.PARAMETER)


def asks_shape(node: fx.Node) -> bool:
    """Whether ``node`` asks what a float value and the integers that stand for it share."""
    return isinstance(node.target, OpDef) and node.target.asks_form


def is_float_operation(node: fx.Node) -> bool:
    """Whether ``node`` computes with float tensors: what gets a decision and a site."""
    if node.op not in ("call_function", "call_method", "call_module") or makes_container(node):
        return False
    if isinstance(node.target, OpDef) and node.target.kind in _NO_SITES:
        return False
    return meta.is_float_value(node)


def is_lookup(node: fx.Node) -> bool:
    """Whether ``node`` picks rows of a weight: it reads no activations."""
    return isinstance(node.target, OpDef) and node.target.kind is Kind.LOOKUP


def operation_name(node: fx.Node) -> str:
    """The operation as the user wrote it, else as the graph names it."""
    sources = meta.origins(node)
    if isinstance(node.target, OpDef):
        return node.target.name
    return sources[0].type_name if sources else str(node.target)


def is_constant(value: object) -> bool:
    """Whether an operand is a parameter or buffer, or will be once it is trained, or left out."""
    if not isinstance(value, fx.Node):
        return value is None
    return value.op == "get_attr" or is_derived(value)


def is_derived(value: fx.Node) -> bool:
    """Whether ``value`` is computed from parameters that are trained."""
    return isinstance(value.target, OpDef) and value.target.kind is Kind.PARAMETER


def parameter_value(parameter: fx.Node, rw: Rewriter) -> Tensor:
    """The parameter or buffer, or what is computed from some, that a node stands for."""
    return computed_from(parameter, rw.tensor)


def computed_from(parameter: fx.Node, held: Callable[[fx.Node], Tensor]) -> Tensor:
    """:func:`parameter_value` where ``held`` says what parameters and buffers are."""
    if not is_derived(parameter):
        return held(parameter)
    arguments = fx.map_arg(
        (parameter.args, dict(parameter.kwargs)), lambda n: computed_from(n, held)
    )
    made: Tensor = result_of(parameter, *arguments)
    return made


def weight_operands(node: fx.Node) -> tuple[object, ...]:
    """The weights of a layer: one, or of a recurrent layer several."""
    arguments = bound(node)
    return tuple(arguments["weights"] if "weights" in arguments else (arguments["weight"],))


def bias_operands(node: fx.Node) -> tuple[object, ...]:
    """The biases of a layer, or None where it has none; of a recurrent layer several, or none."""
    arguments = bound(node)
    return tuple(arguments["biases"] if "biases" in arguments else (arguments.get("bias"),))


def float_operands(node: fx.Node, parameters: tuple[str, ...]) -> Iterator[fx.Node]:
    """The distinct float-valued nodes among the named parameters of a canonical node."""
    arguments = bound(node)
    seen: dict[fx.Node, None] = {}
    for parameter in parameters:
        found = arguments.get(parameter)
        for item in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(item, fx.Node) and meta.is_float_value(item):
                seen[item] = None
    yield from seen


def post_operands(node: fx.Node) -> Iterator[fx.Node]:
    """The tensors that the post-ops of a node read: residuals."""
    for _, *operands in bound(node).get("post", ()):
        yield from (v for v in operands if isinstance(v, fx.Node))


def post_names(node: fx.Node) -> tuple[str, ...]:
    """The names of the post-ops of a node, in order, as a kernel computes them."""
    return kernel_names(bound(node).get("post", ()))


def kernel_names(post: Iterable[tuple[object, ...]]) -> tuple[str, ...]:
    """The names of post-ops that a kernel computes: all but dropout, which is gone by then."""
    return tuple(str(name) for name, *_ in post if name != "dropout")
