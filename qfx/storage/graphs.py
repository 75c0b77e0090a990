"""A graph as JSON: its nodes in order, each with what it calls, reads and is known to be.

    {"name": "relu1", "op": "call", "target": "relu", "args": [{"node": "conv1"}], ...}

Reading has two steps. First every node becomes a :class:`StoredNode`: names are names, targets are
in the tables, arguments read earlier nodes only. Then :func:`build_graph` makes the graph of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx
from torch.fx.graph import CodeGen

from qfx.capture.signature import CalledByName, KeywordOnlyFrom
from qfx.errors import FormatError
from qfx.graph import meta
from qfx.private_attributes import code_of, set_arguments
from qfx.storage import limits
from qfx.storage.attributes import AttributeRecord, HeldRecords, ModuleRecord
from qfx.storage.facts import FACTS, FactReader, Facts, FactWriter
from qfx.storage.fields import ABSENT, Columns, Fields, Json
from qfx.storage.names import check_identifier, check_input, check_node, check_path, within
from qfx.storage.targets import Types, check_call, read_function, read_method, write_target
from qfx.storage.tensors import TensorStore
from qfx.storage.values import FindTensor, Ref, ValueReader, write_value
from qfx.vocab import OpDef
from qfx.vocab.nodes import bound_plainly

_OPS = {
    "input": "placeholder",
    "read": "get_attr",
    "call": "call_function",
    "method": "call_method",
    "module": "call_module",
    "output": "output",
}
"""What a file calls the operations of fx."""

_WORDS = {theirs: ours for ours, theirs in _OPS.items()}


# -- writing -------------------------------------------------------------------------------------
def write_graph(graph: fx.Graph, facts: FactWriter, store: TensorStore) -> dict[str, Json]:
    """A graph as JSON.

    Raises:
        FormatError: a node that a file can't say; the message names it.
    """
    written: dict[str, Json] = {"nodes": [_write_node(n, facts, store) for n in graph.nodes]}
    codegen = code_of(graph)
    if isinstance(codegen, KeywordOnlyFrom):
        written["keyword_only"] = codegen.first
    elif type(codegen) not in (CodeGen, CalledByName):
        raise FormatError(f"graphs whose code comes from a {type(codegen).__name__} can't be saved")
    return written


def _write_node(node: fx.Node, facts: FactWriter, store: TensorStore) -> Json:
    written: dict[str, Json] = {
        "name": check_node(node.name, "a node"),
        "op": _WORDS[node.op],
    }
    if node.op in ("call_function", "call_method"):
        written["target"] = write_target(node)
    elif node.op == "placeholder":
        target = _read_input(str(node.target), meta.where(node))
        written |= {} if target == node.name else {"target": target}
    elif node.op != "output":
        written["target"] = str(node.target)

    def keep(tensor: Any) -> str:
        return store.keep(tensor, f"constants.{node.name}")

    try:
        if node.args:
            written["args"] = [write_value(arg, keep) for arg in node.args]
        if node.kwargs:
            written["kwargs"] = {name: write_value(v, keep) for name, v in node.kwargs.items()}
    except FormatError as error:
        raise FormatError(f"{meta.where(node)}: {error}") from None
    return written | facts.write(node)


# -- reading -------------------------------------------------------------------------------------
class StoredNode(NamedTuple):
    """A node, checked.

    Attributes:
        name: its name.
        op: as fx has it.
        target: what it calls or reads.
        args, kwargs: with :class:`~qfx.storage.values.Ref` in place of nodes.
        facts: what is known of it.
    """

    name: str
    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    facts: Facts


@dataclass(frozen=True)
class GraphRecord:
    """A graph, checked.

    Attributes:
        nodes: in order.
        keyword_only: the first input that is given by keyword only, or "".
    """

    nodes: tuple[StoredNode, ...]
    keyword_only: str

    def targets(self, op: str) -> Iterator[str]:
        """What nodes of one kind read or call."""
        return (str(node.target) for node in self.nodes if node.op == op)


def read_graph(fields: Fields, facts: FactReader, types: Types, find: FindTensor) -> GraphRecord:
    """The graph that JSON describes.

    Raises:
        FormatError: it describes none.
    """
    found: dict[str, StoredNode] = {}
    reader = ValueReader(find, found.__contains__)
    for each in fields.records("nodes", limits.NODES):
        record = _read_node(each, facts, types, reader)
        if record.name in found:
            raise FormatError(f"{each.place}: two nodes are called {record.name!r}")
        found[record.name] = record
    nodes = tuple(found.values())
    keyword_only = fields.text("keyword_only", "")
    fields.close()
    if [n.op for n in nodes].count("output") != 1 or nodes[-1].op != "output":
        raise FormatError(f"{fields.place} has no output at its end")
    inputs = [n.target for n in nodes if n.op == "placeholder"]
    if len(inputs) != len(set(inputs)) or (keyword_only and keyword_only not in inputs):
        raise FormatError(f"{fields.place}: the inputs are no signature")
    return GraphRecord(nodes, keyword_only)


_NODE = Columns(*FACTS, name=str, op=str, target=object, args=[], kwargs=dict | None)


def _read_node(fields: Fields, facts: FactReader, types: Types, reader: ValueReader) -> StoredNode:
    name, op, target, args, kwargs = fields.columns(_NODE)
    place = f"{fields.place} ({check_node(name, fields.place)})"
    op = _OPS[fields.chosen("op", op, _OPS)]
    args = tuple([reader.read(arg, place) for arg in args])
    read = {}
    if kwargs:
        for key, value in kwargs.items():
            read[check_identifier(key, place)] = reader.read(value, place)
    target = _read_target(target, name, op, types, place)
    _check_arguments(op, target, args, read, place)
    return StoredNode(name, op, target, args, read, facts.read(fields))


def _read_target(target: object, name: str, op: str, types: Types, place: str) -> Any:
    is_absent = target is ABSENT or target is None
    if op == "output":
        if not is_absent:
            raise FormatError(f"{place} is the output, and calls something")
        return "output"
    if op == "placeholder":
        return _read_input(name if is_absent else target, place)
    if op == "call_function":
        return read_function(target, types, place)
    if op == "call_method":
        return read_method(target, place)
    if type(target) is not str:
        raise FormatError(f"{place} reads or calls what is named by no text")
    return check_path(target)


def _read_input(target: object, place: str) -> str:
    if type(target) is not str:
        raise FormatError(f"{place} is an input whose name is no text")
    if len(target) - len(check_input(target.lstrip("*"), place)) > len("**"):
        raise FormatError(f"{place}: {target[:80]!r} is no input")
    return target


def _check_arguments(
    op: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: str
) -> None:
    if op == "placeholder" and (len(args) > 1 or kwargs or any(map(refs_in, args))):
        raise FormatError(f"{place} has arguments that are no default")
    if op == "output" and (len(args) != 1 or kwargs):
        raise FormatError(f"{place} hands out no one value")
    if op == "get_attr" and (args or kwargs):
        raise FormatError(f"{place} has arguments, and only reads")
    if op == "call_method" and not args:
        raise FormatError(f"{place} calls a method of nothing")
    if op == "call_function":
        check_call(target, args, place)
        if "key" in kwargs and getattr(target, "__module__", "") == "builtins":
            raise FormatError(f"{place} hands {target.__name__} a function to call")
    if isinstance(target, OpDef) and bound_plainly(target, args, kwargs) is None:
        try:
            target.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise FormatError(f"{place}: {target.name}: {error}") from None


def refs_in(value: object) -> list[str]:
    """The nodes that an argument reads, by name."""
    found: list[str] = []
    mapped(value, lambda ref: found.append(ref.name))
    return found


def mapped(value: object, of: Callable[[Ref], Any]) -> Any:
    """A value with what ``of`` makes of each reference."""
    if isinstance(value, Ref):
        return of(value)
    if type(value) is tuple:
        return tuple([mapped(item, of) for item in value])
    if isinstance(value, list):
        return [mapped(item, of) for item in value]
    if isinstance(value, dict):
        return {key: mapped(item, of) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(mapped(end, of) for end in (value.start, value.stop, value.step)))
    return value


# -- putting together ----------------------------------------------------------------------------
def build_graph(record: GraphRecord) -> fx.Graph:
    """The graph of a record."""
    graph = fx.Graph()
    if record.keyword_only:
        graph.set_codegen(KeywordOnlyFrom(record.keyword_only))
    made: dict[str, fx.Node] = {}

    def node_of(ref: Ref) -> fx.Node:
        return made[ref.name]

    for each in record.nodes:
        # Arguments come afterwards: create_node searches them for symbolic numbers, at length.
        node = graph.create_node(each.op, each.target, name=each.name)
        kwargs = {name: mapped(value, node_of) for name, value in each.kwargs.items()}
        set_arguments(node, tuple([mapped(arg, node_of) for arg in each.args]), kwargs)
        if node.name != each.name:
            node.name = each.name  # fx counts up a name that looks counted
        each.facts.attach(node)
        made[each.name] = node
    return graph


def check_reads(graphs: Iterable[GraphRecord], held: HeldRecords) -> None:
    """FormatError if a graph reads or calls what a file does not hold."""
    modules = [each for each in held if isinstance(each, ModuleRecord)]
    called = {module.path for module in modules}
    names = {each.name for each in held if isinstance(each, AttributeRecord)}
    names |= {each.name for module in modules for each in module.state}
    for graph in graphs:
        for name in graph.targets("get_attr"):
            if name not in names:
                raise FormatError(f"the graph reads {name[:200]!r}, which the file has not")
        for path in graph.targets("call_module"):
            if path not in called and not within(path, called):
                raise FormatError(f"the graph calls {path[:200]!r}, which the file has not")
