"""Pieces as ONNX models in memory, written by the emitters of files (:mod:`qfx.export.onnx`)."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import fx

from qfx import vocab
from qfx.engines.base import CannotRun
from qfx.engines.pieces import Piece
from qfx.export.onnx import model
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.free_sizes import FreeSize
from qfx.export.onnx.graph import WrittenGraph, write
from qfx.export.onnx.packages import require
from qfx.export.onnx.seen import SeenRanges
from qfx.export.onnx.sizes import DecidedByData, Shapes, input_value
from qfx.export.problems import Problem
from qfx.graph import meta
from qfx.graph.clone import clone_graph_module
from qfx.graph.meta import TensorInfo
from qfx.vocab import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 21
_ONE_AT_A_TIME = threading.Lock()
"""Python writes two models sooner one after the other, and an engine reads the first meanwhile."""

_LARGEST = 2**31 - 2**20
_LARGE = 2**16
"""Bytes of a constant from which on it is worth something not to copy it."""

_OF_NUMPY = ("FLOAT", "INT8", "UINT8")
"""The dtypes of such constants that arrays have, too; codes of 4 bits stand two in a byte."""

_SHAPES, _EXACT, _FREE = object(), object(), object()

_write = partial(write, rows=True)


@dataclass(frozen=True)
class Model:
    """A piece, written.

    Attributes:
        data: the bytes of the ONNX model.
        inputs, outputs: the names of its tensors, in order.
        takes: whether it takes inputs of these shapes.
        weights: the arrays that are not in the bytes, by name: inputs of the model, after others.
    """

    data: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    takes: Takes
    weights: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds_codes(self) -> bool:
        """Whether it dequantizes anything: operators stand in the bytes by their names."""
        return b"DequantizeLinear" in self.data


def problems(piece: Piece, *, contrib: bool = False) -> Sequence[Problem]:
    """The nodes of a piece that ONNX can't say; with ``contrib``, as ONNX Runtime reads it."""
    return [found for found in _exact(piece, contrib).problems if not found.by_size]


def forms(
    piece: Piece, rounding: Sequence[OnnxForm], *, contrib: bool = False
) -> Sequence[OnnxForm]:
    """The exact form, after those that round more of a piece.

    Args:
        piece: the piece.
        rounding: the forms that pay for an engine; what rounds most comes first.
        contrib: whether operators of ONNX Runtime's own may be written.
    """
    if not any(is_op(node, vocab.QUANTIZE) for node in piece.graph_module.graph.nodes):
        return (OnnxForm.EXACT,)  # who left activations in float wants them so
    apart = {_kinds(_exact(piece, contrib)): OnnxForm.EXACT}
    for form in reversed(rounding):
        if form.rounds_layers or _seen(piece, form).factors:
            apart.setdefault(_kinds(_for_all_sizes(piece, form, contrib)), form)
    return tuple(reversed(apart.values()))


def _kinds(written: WrittenGraph) -> tuple[str, ...]:
    """The operators, in order."""
    return tuple(node.op_type for node in written.writer.nodes)


def _seen(piece: Piece, form: OnnxForm) -> SeenRanges:
    """What a form rounds by; those of the integer form follow from codes."""
    return SeenRanges() if form is OnnxForm.INTEGER else piece.seen


def onnx_model(
    piece: Piece,
    form: OnnxForm,
    shapes: tuple[tuple[int, ...], ...] | None = None,
    *,
    contrib: bool = False,
    apart: bool = False,
) -> Model:
    """Write a piece.

    Args:
        piece: the piece.
        form: how it is written.
        shapes: of its inputs; None leaves free what can be.
        contrib: whether operators of ONNX Runtime's own may be written.
        apart: whether large weights are left where they are: they become inputs of the model.

    Raises:
        CannotRun: it is larger than an ONNX model may be, or can't be written for these sizes.
    """
    with _ONE_AT_A_TIME:
        if shapes is not None:
            graph_module, sizes = _with_sizes(piece, shapes, contrib)
            seen = _seen(piece, form)
            written = _write(graph_module, sizes, OPSET, form, seen, contrib=contrib)
            return _model(written, form, Takes.of(graph_module, sizes.free), apart=apart)
        known = piece.notes.get((form, contrib, apart))
        if not isinstance(known, Model):
            written = _for_all_sizes(piece, form, contrib)
            sizes = _shapes(piece, contrib)
            if any(node.graph is not None for node in written.writer.nodes):
                seen = _seen(piece, form)  # a model holds its nodes for good: others get new ones
                written = _write(piece.graph_module, sizes, OPSET, form, seen, contrib=contrib)
            takes = Takes.of(piece.graph_module, sizes.free)
            known = piece.notes[form, contrib, apart] = _model(written, form, takes, apart=apart)
        return known


def _model(written: WrittenGraph, form: OnnxForm, takes: Takes, *, apart: bool) -> Model:
    if written.problems:
        raise CannotRun(str(written.problems[0]))
    made = model.model_of(written, "", form.value)
    names = _names(made.graph.inputs), _names(made.graph.outputs)
    weights = _taken_apart(made.graph) if apart else {}
    constants = (value.const_value for value in made.graph.initializers.values())
    if sum(constant.nbytes for constant in constants if constant is not None) > _LARGEST:
        raise CannotRun("an ONNX model in memory holds no more than 2 GB")
    proto: Any = require("onnx_ir").to_proto(made)
    return Model(proto.SerializeToString(), *names, takes, weights)


def _taken_apart(graph: ir.Graph) -> dict[str, Any]:
    """Make inputs of large constants; their arrays, by name."""
    arrays = {}
    for name, value in list(graph.initializers.items()):
        held = value.const_value
        if held is not None and held.nbytes >= _LARGE and held.dtype.name in _OF_NUMPY:
            arrays[name] = held.numpy()
            del graph.initializers[name]
            graph.inputs.append(value)
    return arrays


def _with_sizes(
    piece: Piece, shapes: tuple[tuple[int, ...], ...], contrib: bool
) -> tuple[fx.GraphModule, Shapes]:
    """The graph whose inputs have these shapes, and what follows of them.

    Raises:
        CannotRun: some sizes follow of the numbers in tensors then.
    """
    if shapes != piece.shapes:
        resized = _resized(piece.graph_module, shapes)
        return resized, _shapes_of(resized)
    sizes = copy.copy(_shapes(piece, contrib))
    sizes.fix()
    return piece.graph_module, sizes


def _names(values: Iterable[ir.Value]) -> tuple[str, ...]:
    return tuple(str(value.name) for value in values)


def _shapes(piece: Piece, contrib: bool) -> Shapes:
    """The sizes that may differ, as far as the piece can be written with them."""
    _exact(piece, contrib)
    found = piece.notes[_SHAPES, contrib]
    assert isinstance(found, Shapes)
    return found


def _for_all_sizes(piece: Piece, form: OnnxForm, contrib: bool) -> WrittenGraph:
    """A form, with as many free sizes as the exact one can be written with."""
    if form is OnnxForm.EXACT:
        return _exact(piece, contrib)
    known = piece.notes.get((_FREE, form, contrib))
    if isinstance(known, WrittenGraph):
        return known
    sizes = _shapes(piece, contrib)
    seen = _seen(piece, form)
    written = _write(piece.graph_module, sizes, OPSET, form, seen, contrib=contrib)
    piece.notes[_FREE, form, contrib] = written
    return written


def _exact(piece: Piece, contrib: bool) -> WrittenGraph:
    """The exact form, with as many free sizes as it can be written with."""
    known = piece.notes.get((_EXACT, contrib))
    if isinstance(known, WrittenGraph):
        return known
    shapes = piece.notes[_SHAPES, contrib] = _shapes_of(piece.graph_module)
    for free in (shapes.find, partial(shapes.find, batch_only=True), shapes.fix):
        free()
        written = _write(piece.graph_module, shapes, OPSET, OnnxForm.EXACT, contrib=contrib)
        piece.notes[_EXACT, contrib] = written
        if not any(found.by_size for found in written.problems):
            break
    return written


def _shapes_of(graph_module: fx.GraphModule) -> Shapes:
    """What follows of the sizes of the inputs.

    Raises:
        CannotRun: some sizes follow of the numbers in tensors.
    """
    try:
        return Shapes(graph_module)
    except DecidedByData as error:
        raise CannotRun(error.what) from error


def _resized(graph_module: fx.GraphModule, shapes: tuple[tuple[int, ...], ...]) -> fx.GraphModule:
    """A copy whose inputs are said to have these shapes."""
    copied = clone_graph_module(graph_module)
    inputs = copied.graph.find_nodes(op="placeholder")
    for node, shape in zip(inputs, shapes, strict=True):
        info = meta.tensor_info(node)
        assert info is not None
        meta.set_value(node, TensorInfo(shape, info.dtype))
    return copied


def packed(takes: Takes, names: Sequence[Sequence[str]], data: bytes) -> bytes:
    """A program as bytes: what it takes, the names of its tensors, and what an engine reads."""
    record = {"examples": takes.examples, "free": takes.free, "names": names}
    head = json.dumps(record).encode()
    return len(head).to_bytes(8, "little") + head + data


def unpacked(packed: bytes) -> tuple[Takes, list[tuple[str, ...]], bytes]:
    """What :func:`packed` was given."""
    end = 8 + int.from_bytes(packed[:8], "little")
    record = json.loads(packed[8:end])
    examples = tuple(tuple(shape) for shape in record["examples"])
    free = tuple(tuple((i, d) for i, d in places) for places in record["free"])
    return Takes(examples, free), [tuple(names) for names in record["names"]], packed[end:]


@dataclass(frozen=True)
class Takes:
    """Which shapes a model takes: of the examples, but for what is free; equal where it is one.

    Attributes:
        examples: the shapes of the examples.
        free: for each free size, where it stands: input and dim.
    """

    examples: tuple[tuple[int, ...], ...]
    free: tuple[tuple[tuple[int, int], ...], ...]

    @staticmethod
    def of(graph_module: fx.GraphModule, free: tuple[FreeSize, ...]) -> Takes:
        inputs = list(graph_module.graph.find_nodes(op="placeholder"))
        index = {node.name: position for position, node in enumerate(inputs)}
        examples = (input_value(node).shape for node in inputs)
        places = (tuple((index[p[0]], p[2]) for p in size.places) for size in free)
        return Takes(tuple(map(tuple, examples)), tuple(places))

    def __call__(self, shapes: tuple[tuple[int, ...], ...]) -> bool:
        if [len(s) for s in shapes] != [len(s) for s in self.examples]:
            return False
        if any(0 in shape for shape in shapes):
            return False  # engines disagree about tensors without elements
        loose = {place for places in self.free for place in places}
        for index, (shape, example) in enumerate(zip(shapes, self.examples, strict=True)):
            for dim, pair in enumerate(zip(shape, example, strict=True)):
                if pair[0] != pair[1] and (index, dim) not in loose:
                    return False
        return all(len({shapes[i][d] for i, d in places}) == 1 for places in self.free)
