"""Pieces as ONNX models in memory, written by the emitters of files (:mod:`qfx.export.onnx`)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
_LARGEST = 2**31 - 2**20
_SHAPES, _EXACT = object(), object()

_write = partial(write, rows=True)


@dataclass(frozen=True)
class Model:
    """A piece, written.

    Attributes:
        data: the bytes of the ONNX model.
        inputs, outputs: the names of its tensors, in order.
        takes: whether it takes inputs of these shapes.
    """

    data: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    takes: Takes

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
    sizes = _shapes(piece, contrib)
    apart = {_kinds(_exact(piece, contrib)): OnnxForm.EXACT}
    for form in reversed(rounding):
        seen = _seen(piece, form)
        if form.rounds_layers or seen.factors:
            written = _write(piece.graph_module, sizes, OPSET, form, seen, contrib=contrib)
            apart.setdefault(_kinds(written), form)
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
) -> Model:
    """Write a piece.

    Args:
        piece: the piece.
        form: how it is written.
        shapes: of its inputs; None leaves free what can be.
        contrib: whether operators of ONNX Runtime's own may be written.

    Raises:
        CannotRun: it is larger than an ONNX model may be, or can't be written for these sizes.
    """
    if shapes is not None:
        return _model(piece, form, shapes, contrib)
    known = piece.notes.get((form, contrib))
    if not isinstance(known, Model):
        known = piece.notes[form, contrib] = _model(piece, form, None, contrib)
    return known


def _model(
    piece: Piece, form: OnnxForm, shapes: tuple[tuple[int, ...], ...] | None, contrib: bool
) -> Model:
    graph_module, sizes = _with_sizes(piece, shapes, contrib)
    written = _write(graph_module, sizes, OPSET, form, _seen(piece, form), contrib=contrib)
    if written.problems:
        raise CannotRun(str(written.problems[0]))
    made = model.model_of(written, "", form.value)
    constants = (value.const_value for value in made.graph.initializers.values())
    if sum(constant.nbytes for constant in constants if constant is not None) > _LARGEST:
        raise CannotRun("an ONNX model in memory holds no more than 2 GB")
    proto: Any = require("onnx_ir").to_proto(made)
    takes = Takes.of(graph_module, sizes.free)
    return Model(
        proto.SerializeToString(), _names(made.graph.inputs), _names(made.graph.outputs), takes
    )


def _with_sizes(
    piece: Piece, shapes: tuple[tuple[int, ...], ...] | None, contrib: bool
) -> tuple[fx.GraphModule, Shapes]:
    """The graph whose inputs have these shapes, and what follows of them.

    Raises:
        CannotRun: some sizes follow of the numbers in tensors then.
    """
    if shapes is not None and shapes != piece.shapes:
        resized = _resized(piece.graph_module, shapes)
        return resized, _shapes_of(resized)
    sizes = _shapes(piece, contrib)
    if shapes is not None:
        sizes = copy.copy(sizes)
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
