"""What a graph at each level of quantization must satisfy.

Fake-quants take the place of observers, quantize and dequantize that of both, kernels that of the
weights that they read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from qfx import vocab
from qfx.framework.level_checks import LevelChecks, fault
from qfx.framework.levels import Level
from qfx.graph import meta
from qfx.graph.lookup import attribute_of
from qfx.quant.annotation import Annotation, Edge, annotation
from qfx.quant.code_checks import check_codes
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.observers import Observer
from qfx.quant.recorders import is_observer, observer_of, recorder_of
from qfx.quant.spec import QuantSpec
from qfx.vocab import OpDef, bound, is_op


def check_stubs(graph_module: fx.GraphModule) -> None:
    """Stubs stand where float tensors enter and leave."""
    for node in graph_module.graph.nodes:
        if is_op(node, *vocab.STUBS) and not all(map(meta.is_float_tensor, node.all_input_nodes)):
            raise fault(node, "is a stub of something that is no float tensor")


def check_observed(graph_module: fx.GraphModule) -> None:
    """What is read or handed out in integers has one observer, or shares one."""
    _check_one_each(graph_module)
    for node, note in _quantized(graph_module):
        for value, edge in _read_in_integers(node, note):
            if not edge.spec.dynamic:
                raise fault(
                    node, f"reads %{value.name}, which is to be quantized but has no observer"
                )


def check_fake_quants(graph_module: fx.GraphModule) -> None:
    """What is read in integers has passed one fake-quant, also if it was only moved since.

    Quantized weights pass one each in the form that trains, and none in what that means.
    """
    for node in graph_module.graph.nodes:
        if isinstance(observer_of(node), Observer):
            raise fault(node, "is an observer, where fake-quants are what is trained with")
    _check_one_each(graph_module)
    rounded: dict[fx.Node, bool] = {}
    bare: list[fx.Node] = []
    passing: list[fx.Node] = []
    for node, note in _quantized(graph_module):
        unrounded = [v for v in _activations(node) if not _is_rounded(v, rounded)]
        read = {v for v, edge in _read_in_integers(node, note) if not edge.spec.dynamic}
        if any(not edge.spec.dynamic for edge in note.reads.values()):
            # Operands may have other names by now; of a single one there is no doubt.
            read.update(unrounded if len(_activations(node)) == 1 else ())
        for value in unrounded:
            if value in read:
                raise fault(
                    node, f"reads %{value.name}, which is to be quantized but has no fake-quant"
                )
        if note.weight is not None and note.weight.dtype != torch.float16:
            (passing if any(map(is_observer, _weights(node))) else bare).append(node)
    if bare and passing:
        raise fault(bare[0], f"has a weight without a fake-quant, unlike %{passing[0].name}")


def check_settled(graph_module: fx.GraphModule) -> None:
    """Nothing records, rounds or marks any more."""
    for node in graph_module.graph.nodes:
        if node.op != "call_module" and not is_op(node, *vocab.STUBS):
            continue
        observer = observer_of(node)
        kinds = {
            "a fake-quant": isinstance(observer, FakeQuantize),
            "an observer": isinstance(observer, Observer),
            "a recorder": recorder_of(node) is not None,
            "a stub": is_op(node, *vocab.STUBS),
        }
        for kind, is_left in kinds.items():
            if is_left:
                raise fault(node, f"is {kind}, which should be gone by now")


def check_pairs(graph_module: fx.GraphModule) -> None:
    """What is dequantized is dequantized as it was quantized, and integers are integers."""
    for node in graph_module.graph.nodes:
        if not is_op(node, vocab.DEQUANTIZE):
            continue
        codes, named = node.args[0], bound(node)
        if not isinstance(codes, fx.Node):
            raise fault(node, "dequantizes a number")
        info = meta.tensor_info(codes)
        if info is not None and info.dtype.is_floating_point:
            raise fault(node, f"dequantizes %{codes.name}, which is {info.dtype}")
        if not is_op(codes, vocab.QUANTIZE):
            continue
        theirs = bound(codes)
        if info is not None and info.dtype != theirs["dtype"]:
            raise fault(codes, f"quantizes to {theirs['dtype']}, and is said to be {info.dtype}")
        for name in ("scale", "zero_point", "axis", "group_size"):
            if not _equal(named[name], theirs[name]):
                raise fault(
                    node,
                    f"reads %{codes.name} with {name}={named[name]}, and that was quantized with "
                    f"{theirs[name]}",
                )


def check_reference(graph_module: fx.GraphModule) -> None:
    """Integers are read by dequantize alone, quantized layers read them, weights are buffers."""
    for node in graph_module.graph.nodes:
        if is_op(node, vocab.QUANTIZE):
            for user in node.users:
                if not is_op(user, vocab.DEQUANTIZE):
                    raise fault(user, f"reads the integers %{node.name}, before dequantize")
    parameters = {id(parameter) for parameter in graph_module.parameters()}
    for node, note in _quantized(graph_module):
        for value, _ in _read_in_integers(node, note):
            if not is_op(value, vocab.DEQUANTIZE):
                raise fault(node, f"reads %{value.name}, which nothing quantizes")
        for weight in _weights(node) if note.weight is not None else ():
            _check_stored(node, weight, graph_module, parameters)


QUANTIZATION = LevelChecks(
    {
        Level.STUBBED: (check_stubs,),
        Level.OBSERVED: (check_stubs, check_observed),
        Level.FAKE_QUANT: (check_stubs, check_fake_quants),
        Level.REFERENCE: (check_settled, check_pairs, check_reference, check_codes),
        Level.LOWERED: (check_settled, check_pairs),
    }
)
"""What the levels of quantization promise."""


# -- what the checks ask -------------------------------------------------------------------------
def _quantized(graph_module: fx.GraphModule) -> Iterator[tuple[fx.Node, Annotation]]:
    for node in graph_module.graph.nodes:
        note = annotation(node)
        if note is not None and note.decision.quantized:
            yield node, note


def _read_in_integers(node: fx.Node, note: Annotation) -> Iterator[tuple[fx.Node, Edge]]:
    """The tensors that ``node`` reads as they are, and is to read in integers."""
    for value in node.all_input_nodes:
        if value.name in note.reads and meta.tensor_info(value) is not None:
            yield value, note.reads[value.name]


def _check_one_each(graph_module: fx.GraphModule) -> None:
    """No observer reads another's result, and no value has two under one spec."""
    watching: dict[tuple[fx.Node, QuantSpec], fx.Node] = {}
    for node in graph_module.graph.nodes:
        observer = observer_of(node)
        if observer is None:
            continue
        value = node.args[0]
        assert isinstance(value, fx.Node)
        if is_observer(value):
            raise fault(node, f"is an observer of %{value.name}, another observer's result")
        other = watching.setdefault((value, observer.spec), node)
        if other.target != node.target:
            raise fault(node, f"observes %{value.name}, which %{other.name} observes already")


def _is_rounded(value: fx.Node, known: dict[fx.Node, bool]) -> bool:
    """Whether ``value`` passed a fake-quant, if it was only moved since."""
    pending = [value]
    while pending:
        node = pending[-1]
        sources = [n for n in node.all_input_nodes if meta.is_float_value(n)]
        waiting = [n for n in sources if n not in known] if _moves(node) else []
        if waiting:
            pending += waiting
            continue
        moved = _moves(node) and bool(sources) and all(known[n] for n in sources)
        known[node] = is_observer(node) or moved
        pending.pop()
    return known[value]


def _moves(node: fx.Node) -> bool:
    """Whether ``node`` yields values that it reads; a dropout does, but for their scale."""
    if isinstance(node.target, OpDef):
        return node.target.moves
    return node.op == "call_module" and not is_observer(node)


def _activations(node: fx.Node) -> list[fx.Node]:
    """The float tensors that ``node`` reads and that are computed from inputs."""
    weights = _weights(node) if "weight" in bound(node) or "weights" in bound(node) else ()
    return [
        value
        for value in node.all_input_nodes
        if meta.is_float_tensor(value) and value.op != "get_attr" and value not in weights
    ]


def _weights(node: fx.Node) -> tuple[fx.Node, ...]:
    named = bound(node)
    found = named["weights"] if "weights" in named else (named["weight"],)
    return tuple(weight for weight in found if isinstance(weight, fx.Node))


def _check_stored(
    layer: fx.Node, weight: fx.Node, graph_module: fx.GraphModule, parameters: set[int]
) -> None:
    """A weight of the reference form is a buffer of integers, or of half precision, restored."""
    codes: Any = weight
    while is_op(codes, *vocab.RESTORING):
        codes = codes.args[0]
    if codes is weight or codes.op != "get_attr":
        raise fault(layer, f"has the weight %{weight.name}, which is not stored in few bits")
    if id(attribute_of(graph_module, str(codes.target))) in parameters:
        raise fault(codes, "holds integers and is a parameter; they are kept in a buffer")


def _equal(a: object, b: object) -> bool:
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        return a is b
    return bool(a == b)
