"""The reference graph as a module that torch.export traces.

A copy of the graph is interpreted, so that PyTorch's tracer gives what it records the place that
each node comes from: the user's line as stack trace, the module path as its stack of modules, and
``custom`` metadata under the keys of ONNX files (``qfx.node``, ``qfx.module``, ``qfx.source``).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.export.problems import CannotWrite, Problem, problem
from qfx.export.pt2e.table import EMITTERS, Emitters
from qfx.graph import meta
from qfx.graph.clone import copy_graph
from qfx.graph.interpret import NamedInterpreter
from qfx.graph.working import WorkingGraphModule
from qfx.private_attributes import REGISTRIES
from qfx.vocab import bound, is_op


@dataclass
class Trace:
    """What is found as a program is traced.

    Attributes:
        problems: what can't be said.
        at: the node that is traced now, or None.
    """

    problems: list[Problem] = field(default_factory=list)
    at: fx.Node | None = None


class ProgramModule(nn.Module):
    """The module that is traced; it holds tensors under the names of the reference graph.

    It is no GraphModule, of which torch.export interprets the graph itself.

    Args:
        reference: the graph.
        trace: takes what is found.
        emitters: how operations of quantization are written; others compute what they do.
    """

    def __init__(
        self, reference: fx.GraphModule, trace: Trace, emitters: Emitters = EMITTERS
    ) -> None:
        super().__init__()
        written = WorkingGraphModule(_attributes(reference), _copy(reference.graph), "Program")
        for name in REGISTRIES:  # where torch.export puts stand-ins
            self.__dict__[name] = written.__dict__[name]
        self.training = False
        signature = inspect.signature(reference.forward)

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            return _Tracing(written, given.arguments, trace, emitters).run()

        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward


class _Tracing(NamedInterpreter):
    """Runs the graph, with operations of quantization as the table has them."""

    def __init__(
        self,
        written: fx.GraphModule,
        arguments: Mapping[str, Any],
        trace: Trace,
        emitters: Emitters,
    ) -> None:
        super().__init__(written, arguments)
        self.trace, self.emitters = trace, emitters

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and remember which."""
        self.trace.at = n
        made = super().run_node(n)
        self.trace.at = None
        return made

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call what the table has for an operation, or the operation itself."""
        emitter = self.emitters.get(target) if isinstance(target, vocab.OpDef) else None
        if emitter is None:
            return super().call_function(target, args, kwargs)
        try:
            return emitter(*args, **kwargs)
        except CannotWrite as found:
            assert self.trace.at is not None
            self.trace.problems.append(problem(self.trace.at, found))
            return target(*args, **kwargs)


def _copy(graph: fx.Graph) -> fx.Graph:
    copied = copy_graph(graph)
    for original, node in zip(graph.nodes, copied.nodes, strict=True):
        node.meta = {**node.meta, **_place(original)}
    return copied


def _place(node: fx.Node) -> dict[str, Any]:
    """Where a node comes from, as torch.export writes it down."""
    path, source, origins = meta.module_path(node), meta.source(node), meta.origins(node)
    said = {"qfx.node": node.name, "qfx.module": path, "qfx.source": source}
    stack = {"": ("", "qfx.QuantizedModel")}  # torch.export puts its name of the root before keys
    if path:
        stack[f".{path}"] = (path, origins[0].type_name)
    found: dict[str, Any] = {
        "custom": {key: value for key, value in said.items() if value},
        "nn_module_stack": stack,
    }
    file, _, line = source.rpartition(":")
    if file:
        found["stack_trace"] = f'File "{file}", line {line}, in {path or "forward"}'
    return found


def _attributes(reference: fx.GraphModule) -> dict[str, Any]:
    """What nodes read, by name; zero points of channels as int64, which is subtracted from codes.

    In their own dtype the difference would wrap.
    """
    nodes = [*reference.graph.nodes]
    names = [str(node.target) for node in nodes if node.op in ("get_attr", "call_module")]
    found = {name: attrgetter(name)(reference) for name in names}
    for name in filter(None, map(_zero_points, nodes)):
        if _is_integer(found[name]):
            found[name] = found[name].to(torch.int64)
    return found


def _zero_points(node: fx.Node) -> str | None:
    """The name of the zero points that a node reads, one a channel."""
    if not is_op(node, vocab.QUANTIZE, vocab.DEQUANTIZE):
        return None
    read = bound(node)["zero_point"]
    return str(read.target) if isinstance(read, fx.Node) and read.op == "get_attr" else None


def _is_integer(value: object) -> bool:
    return isinstance(value, Tensor) and not value.dtype.is_floating_point
