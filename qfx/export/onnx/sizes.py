"""What sizes of the inputs that differ from run to run make of every shape.

The reference graph runs without data, on tensors that have a shape and no memory: with the sizes
of the examples, and with others. A size is free if the graph runs with another; what the model
checks (its guards) fails then as it would in use. A size that differs between the two runs depends
on the inputs', one that does not is a constant. Sizes are doubled or tripled, so that what depends
on them shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.errors import ConfigError
from qfx.export.onnx.free_sizes import (
    DynamicShapes,
    FreeSize,
    SizePlace,
    candidates,
    is_channels,
    named,
)
from qfx.export.onnx.packed_shapes import PackedShapes
from qfx.export.onnx.values import Dim, Info
from qfx.graph import meta
from qfx.graph.interpret import NamedInterpreter
from qfx.graph.meta import TensorInfo
from qfx.graph.shape_rules import told
from qfx.torch_private import pytree
from qfx.vocab import bound, is_op


class DecidedByData(Exception):  # noqa: N818 - control flow within the writer, never seen by users
    """An operation looks at numbers, of which there are none where shapes are followed.

    Attributes:
        node: the operation.
    """

    what = "sizes that the numbers in tensors decide, as nonzero's, are looked at by the model"

    def __init__(self, node: fx.Node, said: str) -> None:
        super().__init__(said)
        self.node = node


class Shapes:
    """The shapes of every node.

    Args:
        graph_module: whose graph is followed.
        given: arguments by name, of which numbers are taken.

    Attributes:
        inputs: what each input is given: shapes, and what is no tensor.
        free: the sizes that may differ.
        refusals: what the graph said where it did not run with another size, by the size's name.

    Raises:
        DecidedByData: some sizes follow of the numbers in tensors.
    """

    def __init__(
        self, graph_module: fx.GraphModule, given: Mapping[str, object] | None = None
    ) -> None:
        self._module = graph_module
        inputs = graph_module.graph.find_nodes(op="placeholder")
        self.inputs = {node: _with_number(node, given or {}) for node in inputs}
        self._base = _run(graph_module, self.inputs, shorter=0)
        packs = graph_module.graph.find_nodes(op="call_function", target=vocab.PACK_PADDED)
        self._fixed = _run(graph_module, self.inputs) if packs else self._base
        self._other = self._fixed
        self.free: tuple[FreeSize, ...] = ()
        self.refusals: dict[str, str] = {}

    def fix(self) -> None:
        """Let every size be that of the examples."""
        self.free, self._other = (), self._fixed

    def demand(self, wanted: DynamicShapes) -> None:
        """Let the sizes that a user names differ.

        Raises:
            ConfigError: an input or dim does not exist, or the graph can't run with another size.
        """
        self.fix()
        free = named(wanted, dict(self._tensors()))
        if not self._take(free):
            alone = next((f for f in free if not self._take((f,))), None)
            where = "these sizes" if alone is None else f"another size {alone.name!r}"
            said = self.refusals[free[0].name if alone is None else alone.name]
            raise ConfigError(
                f"the model does not run with {where} than that of its examples: {said} "
                "What to do: leave it out of dynamic_shapes, or capture the model with other inputs"
            )

    def find(self, *, batch_only: bool = False) -> None:
        """Free every size with which the graph runs: all at once, else those that do so alone."""
        self.fix()
        found = tuple(candidates(dict(self._tensors()), batch_only))
        likely = tuple(f for f in found if not is_channels(f, dict(self._tensors())))
        if self._take(likely):
            return
        alone = tuple(f for f in found if self._take((f,)))
        self.fix()
        if alone and not self._take(alone):
            self.fix()
            self._take(alone[:1])

    def info(self, node: fx.Node) -> Any:
        """What a node yields: :class:`Info` for each tensor, in the containers it yields."""
        names = {(f.example, f.other): f.name for f in self.free}
        return _paired(self._base[node], self._other[node], names)

    def _take(self, free: tuple[FreeSize, ...]) -> bool:
        """Run with other sizes; whether that went well."""
        sizes = {place: f.other for f in free for place in f.places}
        inputs = {n: _resized(_written(n), v, sizes) for n, v in self.inputs.items()}
        try:
            self._other = _run(self._module, inputs)
        except Exception as error:  # whatever the model raises for inputs that it does not take
            self.refusals.update({f.name: str(error).split("\n")[0] for f in free})
            return False
        self.free = free
        return True

    def _tensors(self) -> Iterator[tuple[SizePlace, TensorInfo]]:
        """Every dim of every input."""
        for node, value in self.inputs.items():
            for index, tensor in enumerate(_leaves(value)):
                yield from (
                    ((_written(node), index, dim), tensor) for dim in range(len(tensor.shape))
                )


def input_value(node: fx.Node) -> Any:
    """What a placeholder is given: shapes of tensors, what the model is made for, a default."""
    value = meta.value_of(node)
    if value is not None:
        return value
    checked = (bound(u)["expected"] for u in node.users if is_op(u, vocab.GUARD))
    return next(checked, node.args[0] if node.args else None)


def _with_number(node: fx.Node, given: Mapping[str, object]) -> Any:
    """What a placeholder is given, if that is a number."""
    value, own = input_value(node), given.get(_written(node))
    return own if isinstance(own, (int, float)) and not _leaves(value) else value


def _leaves(value: object) -> list[TensorInfo]:
    return [leaf for leaf in pytree.tree_leaves(value, is_leaf=_is_info) if _is_info(leaf)]


def _written(node: fx.Node) -> str:
    """What a model calls an input; a node's own name may differ."""
    return str(node.target).lstrip("*")


def _is_info(value: object) -> bool:
    return isinstance(value, TensorInfo)


def _resized(name: str, value: Any, sizes: Mapping[SizePlace, int]) -> Any:
    count = iter(range(len(_leaves(value))))

    def one(leaf: Any) -> Any:
        if not _is_info(leaf):
            return leaf
        index = next(count)
        shape = (sizes.get((name, index, d), size) for d, size in enumerate(leaf.shape))
        return TensorInfo(tuple(shape), leaf.dtype)

    return pytree.tree_map(one, value, is_leaf=_is_info)


# -- running without data --------------------------------------------------------------------------
class _Recorder(NamedInterpreter):
    """Runs a graph on tensors without memory, and keeps what every node yields."""

    def __init__(
        self, graph_module: fx.GraphModule, arguments: Mapping[str, object], shorter: int
    ) -> None:
        super().__init__(graph_module, arguments)
        self.seen: dict[fx.Node, Any] = {}
        self._packed = PackedShapes(shorter)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = super().get_attr(target, args, kwargs)
        return found.to("meta") if isinstance(found, Tensor) else found

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in vocab.RECURRENT:  # step by step takes long, and yields the same shapes
            kwargs = {name: value for name, value in kwargs.items() if name != "measured"}
        of_packed = self._packed.call(target, args, kwargs)
        if of_packed is not None:
            return of_packed[0]
        operands, options = pytree.tree_map(_described, (args, kwargs))
        by_rule = told(target, operands, options)
        if _are_tensors(by_rule):
            return pytree.tree_map(_empty, by_rule, is_leaf=_is_info)
        return super().call_function(target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return args[0] if target == "cpu" else super().call_method(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        try:
            made = super().run_node(n)
        except (NotImplementedError, RuntimeError) as error:
            raise DecidedByData(n, str(error)) from error
        self.seen[n] = pytree.tree_map(_described, made)
        return made


def _are_tensors(value: object) -> bool:
    """Whether a rule told of tensors, and of nothing else."""
    leaves = pytree.tree_leaves(value, is_leaf=_is_info)
    return bool(leaves) and all(map(_is_info, leaves))


def _described(value: object) -> Any:
    return meta.describe(value) if isinstance(value, Tensor) else value


def _run(
    graph_module: fx.GraphModule, inputs: Mapping[fx.Node, object], *, shorter: int = 1
) -> dict[fx.Node, Any]:
    """What every node yields; sequences that are packed have ``shorter`` steps less than others."""
    given = {
        _written(node): pytree.tree_map(_empty, value, is_leaf=_is_info)
        for node, value in inputs.items()
    }
    recorder = _Recorder(graph_module, given, shorter)
    with torch.no_grad(), torch.device("meta"):
        recorder.run()
    return recorder.seen


def _empty(value: Any) -> Any:
    if not _is_info(value):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


# -- two runs side by side -------------------------------------------------------------------------
def _paired(base: Any, other: Any, names: Mapping[tuple[int, int], str]) -> Any:
    if isinstance(base, TensorInfo):
        dims = zip(base.shape, other.shape, strict=True)
        shape = tuple(_dim(pair, names) for pair in dims)
        return Info(shape, base.shape, base.dtype)
    if isinstance(base, Mapping):
        return {key: _paired(value, other[key], names) for key, value in base.items()}
    if isinstance(base, (tuple, list)):
        return tuple(_paired(b, o, names) for b, o in zip(base, other, strict=True))
    return None


def _dim(pair: tuple[int, int], names: Mapping[tuple[int, int], str]) -> Dim:
    return pair[0] if pair[0] == pair[1] else names.get(pair, f"{pair[0]}|{pair[1]}")
