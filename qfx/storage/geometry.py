"""Whether convolutions of a file are what convolutions are, before kernels are packed for them.

Packing a transposed convolution writes its weight once for each phase of its stride, and kernels
that may be wrong are tried at the geometry of the call. Both take memory by numbers of the file.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import fx

from qfx.errors import FormatError
from qfx.graph import meta
from qfx.graph.lookup import Lookup
from qfx.storage import limits
from qfx.vocab import LAYERS, OpDef, bound

_NUMBERS = ("stride", "padding", "dilation", "output_padding")
_PHASES = 256
"""How many times its weight a transposed convolution may take when it is packed."""


def check_geometry(graph: fx.Graph) -> None:
    """FormatError for a convolution whose numbers are beyond what any has."""
    for node in graph.nodes:
        if isinstance(node.target, OpDef) and node.target in LAYERS and node.target.dims:
            _check(node, node.target.dims, bound(node), transposed=node.target.transposed)


def check_reads_as_told(graph_module: fx.GraphModule) -> None:
    """FormatError where a file tells another shape or dtype of a tensor than the tensor has.

    Kernels are tried at what is told, which may be of any size.
    """
    lookup = Lookup(graph_module)
    for node in graph_module.graph.nodes:
        if node.op != "get_attr" or not meta.has_value(node):
            continue
        if meta.describe(lookup.get(str(node.target))) != meta.value_of(node):
            raise FormatError(f"{meta.where(node)} is of another shape or dtype than is told of it")


def _check(node: fx.Node, dims: int, arguments: dict[str, Any], *, transposed: bool) -> None:
    given = {name: arguments[name] for name in _NUMBERS if name in arguments}
    numbers = {name: _expanded(node, value, dims) for name, value in given.items()}
    groups = arguments["groups"]
    if type(groups) is not int or not 0 < groups <= limits.GEOMETRY:
        raise _refused(node)
    weight = meta.tensor_info(arguments["weight"]) if _is_node(arguments["weight"]) else None
    if weight is None or len(weight.shape) != dims + 2:
        raise _refused(node)
    if transposed and prod(numbers["stride"]) > _PHASES * prod(weight.shape[2:]):
        raise FormatError(f"{meta.where(node)}: its stride writes its weight out too often")


def _expanded(node: fx.Node, value: Any, dims: int) -> list[int]:
    """A number per dim; none for what is said in a word, as padding may be."""
    if isinstance(value, str):
        return []
    values = [value] if type(value) is int else value
    if not isinstance(values, (tuple, list)) or len(values) not in (1, dims):
        raise _refused(node)
    if not all(type(each) is int and 0 <= each <= limits.GEOMETRY for each in values):
        raise _refused(node)
    return [*values] * (dims // len(values))


def _is_node(value: object) -> bool:
    return isinstance(value, fx.Node)


def _refused(node: fx.Node) -> FormatError:
    return FormatError(f"{meta.where(node)} is no convolution that a file may hold")
