"""Whether layers of a file are what layers are, before kernels are packed for them.

Packing a transposed convolution writes its weight once for each phase of its stride, and a weight
is packed anew for each geometry at which it is read. Both take memory by what the file says.
"""

from __future__ import annotations

from math import prod
from operator import mul
from typing import Any

from torch import fx

from qfx.backends.onednn.transposed_convs import phase_taps
from qfx.errors import FormatError
from qfx.graph import meta
from qfx.graph.lookup import Lookup
from qfx.storage import limits
from qfx.storage.tensors import TensorSource
from qfx.vocab import OpDef, bound

_LEAST = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
_WEIGHTS = ("weight", "weights")


def check_geometry(graph: fx.Graph, source: TensorSource) -> None:
    """FormatError for a convolution whose numbers are beyond what any has, and for too many packs.

    Args:
        graph: the reference form; what is told of its weights is checked elsewhere.
        source: the file, whose layers are packed, those of all regions.
    """
    seen: set[object] = set()
    for node in graph.nodes:
        if not isinstance(node.target, OpDef) or not _has_weights(node.target):
            continue
        arguments = bound(node)
        is_conv = node.target.layer and node.target.dims
        numbers = _numbers(node, arguments) if is_conv else {}
        pack = (_names(arguments), _size_of(arguments), str(numbers), arguments.get("groups"))
        if pack in seen:
            continue
        seen.add(pack)
        if not source.takes(_elements(node.target, arguments, numbers)):
            raise FormatError(
                f"{meta.where(node)}: packing the layers up to it would take more than "
                f"{limits.PACKED_ANYWAY} bytes, and {limits.PACKED} for each of the file"
            )


def check_reads_as_told(graph_module: fx.GraphModule) -> None:
    """FormatError where a file tells another shape or dtype of a tensor than the tensor has.

    Kernels are tried at what is told, which may be of any size, and scales are counted by it. What
    is told of no tensor is what it has.
    """
    lookup = Lookup(graph_module)
    for node in graph_module.graph.nodes:
        if node.op != "get_attr":
            continue
        found = meta.describe(lookup.get(str(node.target)))
        if not meta.has_value(node):
            meta.set_value(node, found)
        if found != meta.value_of(node):
            raise FormatError(f"{meta.where(node)} is of another shape or dtype than is told of it")


def _has_weights(op: OpDef) -> bool:
    return not op.signature.parameters.keys().isdisjoint(_WEIGHTS)


def _weights(arguments: dict[str, Any]) -> list[fx.Node]:
    given = arguments["weights"] if "weights" in arguments else (arguments["weight"],)
    return [each for each in given if isinstance(each, fx.Node)]


def _names(arguments: dict[str, Any]) -> tuple[str, ...]:
    """The tensors that the weights of a layer are restored from."""
    roots = []
    for node in _weights(arguments):
        root = node
        while root.op != "get_attr" and root.args and isinstance(root.args[0], fx.Node):
            root = root.args[0]
        roots.append(str(root.target))
    return tuple(roots)


def _size_of(arguments: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a layer's input, but for the batch."""
    read = arguments.get("input")
    info = meta.tensor_info(read) if isinstance(read, fx.Node) else None
    return () if info is None else tuple(info.shape[1:])


def _elements(op: OpDef, arguments: dict[str, Any], numbers: dict[str, list[int]]) -> int:
    """Elements of a layer's weights, as often as packing writes them."""
    infos = [info for info in map(meta.tensor_info, _weights(arguments)) if info is not None]
    if not op.transposed:
        return sum(info.numel for info in infos)
    kernel = infos[0].shape[2:]
    taps = phase_taps(kernel, numbers["stride"], numbers["padding"], numbers["output_padding"])
    elements: int = prod(infos[0].shape[:2]) * prod(map(mul, taps, numbers["stride"]))
    return elements


def _numbers(node: fx.Node, arguments: dict[str, Any]) -> dict[str, list[int]]:
    """The numbers of a convolution, one per dim, checked."""
    assert isinstance(node.target, OpDef)
    dims, groups = node.target.dims, arguments["groups"]
    assert dims is not None
    if type(groups) is not int or not 0 < groups <= limits.GEOMETRY:
        raise _refused(node)
    weight = arguments["weight"]
    info = meta.tensor_info(weight) if isinstance(weight, fx.Node) else None
    if info is None or len(info.shape) != dims + 2:
        raise _refused(node)
    given = {name: (arguments[name], least) for name, least in _LEAST.items() if name in arguments}
    return {name: _expanded(node, value, dims, least) for name, (value, least) in given.items()}


def _expanded(node: fx.Node, value: object, dims: int, least: int) -> list[int]:
    """A number per dim; none for what is said in a word, as padding may be."""
    if isinstance(value, str):
        return []
    values = [value] if type(value) is int else value
    if not isinstance(values, (tuple, list)) or len(values) not in (1, dims):
        raise _refused(node)
    if not all(type(each) is int and least <= each <= limits.GEOMETRY for each in values):
        raise _refused(node)
    return [*values] * (dims // len(values))


def _refused(node: fx.Node) -> FormatError:
    return FormatError(f"{meta.where(node)} is no convolution that a file may hold")
