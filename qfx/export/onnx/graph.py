"""From the reference graph to an ONNX graph: a walk that asks the table for each node.

What can't be written is collected, and the walk goes on; what only depends on that is passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.export.onnx import functions, packed, rounding
from qfx.export.onnx.forms import OnnxForm, post_ops
from qfx.export.onnx.quantization import known_bounds
from qfx.export.onnx.rows import OnRows, on_rows
from qfx.export.onnx.seen import SeenRanges
from qfx.export.onnx.sizes import Shapes
from qfx.export.onnx.table import row_of
from qfx.export.onnx.values import Dequantized, Info, Number, Operand
from qfx.export.onnx.writer import Writer
from qfx.export.problems import CannotWrite, Problem, problem
from qfx.graph.interpret import result_of, thawed
from qfx.graph.meta import TensorInfo
from qfx.semantics.post import Post
from qfx.torch_private import pytree

if TYPE_CHECKING:
    import onnx_ir as ir


class _Unwritten:
    """Stands for the value of a node that can't be written."""


@dataclass
class WrittenGraph:
    """An ONNX graph being written.

    Attributes:
        writer: what wrote it.
        inputs, outputs: of the graph, by name.
        problems: what can't be said.
    """

    writer: Writer
    inputs: list[ir.Value] = field(default_factory=list)
    outputs: list[ir.Value] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def write(
    graph_module: fx.GraphModule,
    shapes: Shapes,
    opset: int,
    form: OnnxForm,
    seen: SeenRanges | None = None,
    *,
    contrib: bool = False,
    rows: bool = False,
) -> WrittenGraph:
    """Write every node of a reference graph, in a form for which ranges may have been seen.

    With ``contrib``, operators of ONNX Runtime's own are written where the standard has none; with
    ``rows``, layers on images whose channels come last are written on rows.
    """
    writer = Writer(opset, form, seen or SeenRanges(), contrib=contrib)
    nodes = on_rows(graph_module.graph, shapes) if rows else frozenset()
    walk = _GraphWriter(graph_module, shapes, writer, nodes)
    for node in graph_module.graph.find_nodes(op="placeholder"):
        walk.visit(node)
    walk.keep_output_names()
    for node in graph_module.graph.nodes:
        if node.op != "placeholder":
            walk.visit(node)
    return walk.written


class _GraphWriter:
    def __init__(
        self,
        graph_module: fx.GraphModule,
        shapes: Shapes,
        writer: Writer,
        on_rows: frozenset[fx.Node],
    ) -> None:
        self.module = graph_module
        self.shapes = shapes
        self.w = writer
        self.written = WrittenGraph(writer)
        self.env: dict[fx.Node, Any] = {}
        self.rows = OnRows(writer, shapes, self.env, on_rows)
        self.kept: dict[str, str] = {}

    def keep_output_names(self) -> None:
        """Take the names of the outputs, before other values are called so."""
        (output,) = self.module.graph.find_nodes(op="output")
        self.kept = {name: self.w.name(name) for name, _ in named_outputs(output.args[0])}

    def visit(self, node: fx.Node) -> None:
        """Write one node."""
        self.w.node = node
        try:
            self.env[node] = self._value(node)
        except CannotWrite as found:
            self.written.problems.append(problem(node, found))
            self.env[node] = self._stand_in(self.rows.info(node))

    def _stand_in(self, info: object) -> Any:
        """Something in place of what can't be written, so that what reads it is looked at, too."""
        if isinstance(info, tuple):
            return tuple(map(self._stand_in, info))
        if not isinstance(info, Info) or not self.w.has(info.dtype):
            return _Unwritten()
        value = self.w.new_value(self.w.name())
        self.w.tell(value, info)
        return value

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._input(node)
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self.module)
        args, kwargs = fx.map_arg((node.args, node.kwargs), partial(self.rows.read, reader=node))
        args, kwargs = thawed(args), thawed(kwargs)
        leaves = _leaves((args, kwargs))
        if any(isinstance(leaf, _Unwritten) for leaf in leaves):
            return _Unwritten()
        if not packed.knows(node):
            args, kwargs = packed.as_values(self.w, args), packed.as_values(self.w, kwargs)
        if node.op == "output":
            return self._outputs(args[0])
        return self._call(node, args, kwargs, leaves)

    def _call(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Sequence[Any]
    ) -> Any:
        tensors = [leaf for leaf in leaves if _is_operand(leaf)]
        known = not any(isinstance(leaf, Number) for leaf in leaves)
        in_parts = any(isinstance(leaf, (packed.PackedRows, packed.StepSizes)) for leaf in leaves)
        if known and not in_parts and _is_constant(node, tensors):
            return _computed(node, args, kwargs)
        self.w.results = self.rows.info(node)
        if not isinstance(node.target, vocab.OpDef):
            made = functions.call(self.w, node, args, kwargs)
        elif known:
            made = self._operation(node, node.target, args, kwargs)
        else:
            made = self._with_sizes(node, node.target, args, kwargs)
        self._tell(made, self.w.results)
        self._bound(node, made, tensors)
        return rounding.result(self.w, node, made, tensors)

    def _with_sizes(
        self, node: fx.Node, op: vocab.OpDef, args: tuple[object, ...], kwargs: dict[str, Any]
    ) -> Any:
        """An operation that is given numbers which the graph computes: not all take these."""
        try:
            return self._operation(node, op, args, kwargs)
        except TypeError as error:
            what = f"{op.name} with a size or number that is computed from those of the inputs"
            raise CannotWrite(what, "Fix that size.", by_size=True) from error

    def _operation(
        self, node: fx.Node, op: vocab.OpDef, args: tuple[object, ...], kwargs: dict[str, Any]
    ) -> Any:
        emitter = row_of(op)
        given = _bound_arguments(op, args, kwargs)
        post: Post = given.pop("post", ())
        varied = given.pop("values", ()) if op.kind is vocab.Kind.QUERY else ()
        made = emitter.write(self.w, *varied, **given)
        to = rounding.codes_after(self.w, node)
        kept = post_ops(post, to)
        made = rounding.layer_result(self.w, node, made, kept, to)
        for post_op in kept:
            made = self._post(post_op, made)
        return made

    def _post(self, post_op: tuple[object, ...], made: ir.Value) -> Any:
        if post_op[0] == "dropout":
            return made
        op, operands, attributes = vocab.call_of_post_op(post_op)
        assert isinstance(self.w.results, Info)
        if not isinstance(made, Dequantized):
            self.w.tell(made, self.w.results)
        if operands:
            attributes = {"alpha": 1}
        return row_of(op).write(self.w, made, *operands, **attributes)

    # -- inputs and outputs -----------------------------------------------------------------------
    def _input(self, node: fx.Node) -> Any:
        value = self.shapes.inputs[node]
        infos = self.shapes.info(node)
        if isinstance(value, TensorInfo):
            return self._graph_input(self.w.claim(str(node.target)), infos)
        leaves, spec = pytree.tree_flatten(infos, is_leaf=lambda leaf: isinstance(leaf, Info))
        if not any(isinstance(leaf, Info) for leaf in leaves):
            return value
        names = _names_within(node, infos, len(leaves))
        made = [
            self._graph_input(self.w.claim(name), leaf) if isinstance(leaf, Info) else leaf
            for name, leaf in zip(names, leaves, strict=True)
        ]
        return pytree.tree_unflatten(made, spec)

    def _graph_input(self, name: str, info: Info) -> ir.Value:
        value = self.w.new_value(name)
        self.w.tell(value, info)
        self.written.inputs.append(value)
        return value

    def _outputs(self, returned: object) -> None:
        for name, operand in named_outputs(returned):
            self.written.outputs.append(self._output(name, operand))

    def _output(self, name: str, operand: Any) -> ir.Value:
        if not _is_operand(operand):
            raise CannotWrite(
                f"an output that is no tensor ({type(operand).__name__})", "Return tensors only."
            )
        value = self.w.value(operand)
        if value in self.written.outputs or value in self.written.inputs or value.is_initializer():
            named, value = value, self.w.op("Identity", value)
            self.w.tell(value, self.w.info(named))
        value.name = self.kept.pop(name, "") or self.w.name(name)
        return value

    # -- what is known of results -----------------------------------------------------------------
    def _tell(self, made: Any, info: Any) -> None:
        if isinstance(info, Info):
            if self.w.is_value(made) and not self.w.knows(made):
                self.w.tell(made, info)
        elif isinstance(info, tuple) and isinstance(made, (tuple, list)):
            for one, its in zip(made, info, strict=False):
                self._tell(one, its)

    def _bound(self, node: fx.Node, made: object, tensors: list[Operand]) -> None:
        if not isinstance(node.target, vocab.OpDef) or not self.w.is_value(made):
            return
        bounds = known_bounds(self.w, node, tensors)
        if bounds is not None:
            self.w.bounds[id(made)] = bounds


def _names_within(node: fx.Node, infos: object, count: int) -> list[str]:
    """What the tensors of an input are called: those of ``**kwargs`` by their keywords."""
    target = str(node.target)
    keywords = list(infos) if target.startswith("**") and isinstance(infos, dict) else []
    if len(keywords) == count:
        return keywords
    return [f"{target.lstrip('*')}_{index}" for index in range(count)]


def _bound_arguments(
    op: vocab.OpDef, args: tuple[object, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name, with defaults; those of functions of numbers as ``values``."""
    if op in vocab.SCALARS.values():
        return {"values": args, **kwargs}
    bound = op.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _is_operand(leaf: object) -> bool:
    return isinstance(leaf, (Tensor, Dequantized)) or type(leaf).__name__ == "Value"


def _leaves(value: object) -> list[Any]:
    """Everything inside arguments, within slices as well."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, dict):
        return _leaves(list(value.values()))
    if isinstance(value, slice):
        return _leaves([value.start, value.stop, value.step])
    return [value]


def _is_constant(node: fx.Node, tensors: Sequence[object]) -> bool:
    """Whether all that a node reads is known, and it makes no more of it: weights stay codes."""
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        return False
    return not vocab.is_op(node, vocab.DEQUANTIZE, vocab.EMBEDDING, vocab.GUARD)


def _computed(node: fx.Node, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return result_of(node, args, kwargs)


def named_outputs(returned: object, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of what a model returns, with a name."""
    if returned is None:
        return
    items = _items(returned)
    if items is None:
        yield name or "output", returned
        return
    for key, value in items:
        own = key if isinstance(key, str) else f"output_{key}"
        yield from named_outputs(value, f"{name}_{key}" if name else own)


def _items(returned: object) -> list[tuple[Any, Any]] | None:
    """What a container holds, by key; None for what is none."""
    if isinstance(returned, Mapping):
        return list(returned.items())
    if isinstance(returned, (tuple, list)):
        return list(enumerate(returned))
    if isinstance(returned, (type, Number, Dequantized)) or not dataclasses.is_dataclass(returned):
        return None
    return [(f.name, getattr(returned, f.name)) for f in dataclasses.fields(returned)]
