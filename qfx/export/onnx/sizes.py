"""Which sizes of the inputs may differ from run to run, and what that makes of every shape.

The reference graph runs without data, on tensors that have a shape and no memory: with the sizes
of the examples, and with others. A size is free if the graph runs with another; what the model
checks (its guards) fails then as it would in use. A size that differs between the two runs depends
on the inputs', one that does not is a constant. Sizes are doubled or tripled, so that what depends
on them shows.

Sizes of several inputs that are equal, in the same dim, are taken as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qfx import vocab
from qfx.errors import ConfigError
from qfx.export.onnx.values import Dim, Info
from qfx.graph import meta
from qfx.graph.interpret import NamedInterpreter
from qfx.graph.meta import TensorInfo
from qfx.graph.shape_rules import told

Place: TypeAlias = "tuple[str, int, int]"
"""An input, its tensor among those of the input, and a dim."""

DynamicShapes: TypeAlias = "Mapping[str, Mapping[int, Any] | Sequence[Any] | None]"


@dataclass(frozen=True)
class FreeSize:
    """A size that may differ from run to run.

    Attributes:
        name: of the size in the file.
        places: where it stands.
        example, other: with the example inputs, and in the other run.
    """

    name: str
    places: tuple[Place, ...]
    example: int
    other: int


class Shapes:
    """The shapes of every node.

    Attributes:
        free: the sizes that may differ.
        refusals: what the graph said where it did not run with another size, by the size's name.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._module = graph_module
        self._inputs = {n: input_value(n) for n in graph_module.graph.find_nodes(op="placeholder")}
        self._base = _run(graph_module, self._inputs)
        self._other = self._base
        self.free: tuple[FreeSize, ...] = ()
        self.refusals: dict[str, str] = {}

    def fix(self) -> None:
        """Let every size be that of the examples."""
        self.free, self._other = (), self._base

    def demand(self, wanted: DynamicShapes) -> None:
        """Let the sizes that a user names differ.

        Raises:
            ConfigError: an input or dim does not exist, or the graph can't run with another size.
        """
        self.fix()
        free = _named(wanted, dict(self._tensors()))
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
        candidates = tuple(_candidates(dict(self._tensors()), batch_only))
        likely = tuple(f for f in candidates if not _is_channels(f, dict(self._tensors())))
        if self._take(likely):
            return
        alone = tuple(f for f in candidates if self._take((f,)))
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
        inputs = {n: _resized(n.name, v, sizes) for n, v in self._inputs.items()}
        try:
            self._other = _run(self._module, inputs)
        except Exception as error:  # whatever the model raises for inputs that it does not take
            self.refusals.update({f.name: str(error).split("\n")[0] for f in free})
            return False
        self.free = free
        return True

    def _tensors(self) -> Iterator[tuple[Place, TensorInfo]]:
        """Every dim of every input."""
        for node, value in self._inputs.items():
            for index, tensor in enumerate(_leaves(value)):
                yield from (((node.name, index, dim), tensor) for dim in range(len(tensor.shape)))


def input_value(node: fx.Node) -> Any:
    """What a placeholder is given: shapes of tensors, or its default if it takes none."""
    value = meta.value_of(node)
    return value if value is not None or not node.args else node.args[0]


def _leaves(value: object) -> list[TensorInfo]:
    return [leaf for leaf in pytree.tree_leaves(value, is_leaf=_is_info) if _is_info(leaf)]


def _is_info(value: object) -> bool:
    return isinstance(value, TensorInfo)


def _resized(name: str, value: Any, sizes: Mapping[Place, int]) -> Any:
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

    def __init__(self, graph_module: fx.GraphModule, arguments: Mapping[str, object]) -> None:
        super().__init__(graph_module, arguments)
        self.seen: dict[fx.Node, Any] = {}

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = super().get_attr(target, args, kwargs)
        return found.to("meta") if isinstance(found, Tensor) else found

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in vocab.RECURRENT:  # step by step takes long, and yields the same shapes
            kwargs = {name: value for name, value in kwargs.items() if name != "measured"}
        operands, options = pytree.tree_map(_described, (args, kwargs))
        by_rule = told(target, operands, options)
        if _are_tensors(by_rule):
            return pytree.tree_map(_empty, by_rule, is_leaf=_is_info)
        return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        self.seen[n] = pytree.tree_map(_described, made)
        return made


def _are_tensors(value: object) -> bool:
    """Whether a rule told of tensors, and of nothing else."""
    leaves = pytree.tree_leaves(value, is_leaf=_is_info)
    return bool(leaves) and all(map(_is_info, leaves))


def _described(value: object) -> Any:
    return meta.describe(value) if isinstance(value, Tensor) else value


def _run(graph_module: fx.GraphModule, inputs: Mapping[fx.Node, object]) -> dict[fx.Node, Any]:
    given = {
        str(node.target).lstrip("*"): pytree.tree_map(_empty, value, is_leaf=_is_info)
        for node, value in inputs.items()
    }
    recorder = _Recorder(graph_module, given)
    with torch.no_grad(), torch.device("meta"):
        recorder.run()
    return recorder.seen


def _empty(value: Any) -> Any:
    if not _is_info(value):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


# -- which sizes -----------------------------------------------------------------------------------
def _candidates(tensors: Mapping[Place, TensorInfo], batch_only: bool) -> Iterator[FreeSize]:
    """Every size of the inputs; those that are equal, in the same dim, as one."""
    groups: dict[tuple[int, int], list[Place]] = {}
    taken: set[str] = set()
    for place, tensor in tensors.items():
        if place[2] == 0 or not batch_only:
            groups.setdefault((place[2], tensor.shape[place[2]]), []).append(place)
    for number, ((dim, size), places) in enumerate(groups.items()):
        name = _name(places[0], tensors[places[0]])
        name = f"{places[0][0]}_{name}" if name in taken else name
        taken.add(name)
        yield FreeSize(name, tuple(places), size, _another(dim, size, number))


def _another(dim: int, size: int, number: int) -> int:
    return size + 1 if dim == 0 else size * (2 + number % 2)


def _name(place: Place, tensor: TensorInfo) -> str:
    name, _, dim = place
    from_end = dim - len(tensor.shape)
    if dim == 0:
        return "batch"
    if tensor.dtype.is_floating_point and len(tensor.shape) == 4 and from_end >= -2:
        return ("height", "width")[from_end]
    return f"{name}_{dim}"


def _is_channels(size: FreeSize, tensors: Mapping[Place, TensorInfo]) -> bool:
    """Whether a size is likely to be that of channels, which layers fix."""
    place = size.places[0]
    tensor = tensors[place]
    rank = len(tensor.shape)
    channels = 1 if rank > 2 else rank - 1
    return tensor.dtype.is_floating_point and place[2] == channels and rank > 1


def _named(wanted: DynamicShapes, tensors: Mapping[Place, TensorInfo]) -> tuple[FreeSize, ...]:
    """The sizes that a user names."""
    inputs = {place[0] for place in tensors}
    _check_form(wanted, inputs)
    unknown = [name for name in wanted if name not in inputs]
    if unknown:
        raise ConfigError(
            f"dynamic_shapes names {unknown[0]!r}; the inputs are {', '.join(sorted(inputs))}"
        )
    groups: dict[str, list[Place]] = {}
    for name, dims in wanted.items():
        pairs = dims.items() if isinstance(dims, Mapping) else enumerate(dims or ())
        for dim, given in pairs:
            if (name, 0, dim) not in tensors:
                _check_dim(given, name, dim)
                continue
            label = _label(given, name, dim, tensors[name, 0, dim].shape[dim])
            if label is not None:
                groups.setdefault(label, []).append((name, 0, dim))
    return tuple(_group(n, label, tuple(p), tensors) for n, (label, p) in enumerate(groups.items()))


def _check_form(wanted: object, inputs: Iterable[str]) -> None:
    """ConfigError that shows how to write it, if ``wanted`` is no :data:`DynamicShapes`."""
    if isinstance(wanted, Mapping) and all(map(_are_dims, wanted.values())):
        return
    example = {name: {0: "batch"} for name in sorted(inputs)}
    raise ConfigError(
        f"dynamic_shapes is {wanted!r}; it takes a mapping from inputs to dims and their names, as "
        f"in {example}"
    )


def _are_dims(dims: object) -> bool:
    if isinstance(dims, Mapping):
        return all(isinstance(dim, int) for dim in dims)
    return dims is None or isinstance(dims, (tuple, list))


def _check_dim(given: object, name: str, dim: int) -> None:
    if given is not None:
        raise ConfigError(
            f"dynamic_shapes names dim {dim} of {name!r}, which has none of that number"
        )


def _label(given: object, name: str, dim: int, size: int) -> str | None:
    """The name of a size: a string, or what ``torch.export.Dim`` makes; None if it stays fixed."""
    dims = torch.export.Dim
    if given is None or given is dims.STATIC or (type(given) is int and given == size):
        return None
    if given is dims.AUTO or given is dims.DYNAMIC:
        return f"{name}_{dim}"
    label = given if isinstance(given, str) else getattr(given, "__name__", "")
    if isinstance(given, (str, dims)) and label.isidentifier():
        return label
    raise ConfigError(
        f"dynamic_shapes gives {given!r} for dim {dim} of {name!r}; it takes a name as of a "
        f"variable, a torch.export.Dim, or None for the size of the examples, {size}"
    )


def _group(
    number: int, label: str, places: tuple[Place, ...], tensors: Mapping[Place, TensorInfo]
) -> FreeSize:
    sizes = {tensors[place].shape[place[2]] for place in places}
    if len(sizes) > 1:
        raise ConfigError(
            f"dynamic_shapes gives the name {label!r} to sizes that differ: {sorted(sizes)}"
        )
    size = sizes.pop()
    return FreeSize(label, places, size, _another(places[0][2], size, number))


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
