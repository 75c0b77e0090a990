"""The state of a graph module that running its graph may write to."""

from __future__ import annotations

from operator import attrgetter

from torch import Tensor, fx, nn

from qfx.graph.clone import is_opaque
from qfx.graph.effects import changing
from qfx.graph.leaves import has_hooks
from qfx.graph.overlap import memory_of


def written_tensors(
    graph_module: fx.GraphModule, besides: tuple[type[nn.Module], ...] = ()
) -> dict[str, Tensor]:
    """Copies of the tensors that running the graph may write to, by qualified name.

    Buffers of modules that are called, but for layers of PyTorch at inference; if calls may write
    to what they are given, the buffers that the graph reads, too, and the parameters that these are
    given.

    Args:
        graph_module: whose graph.
        besides: modules whose own buffers don't count.
    """
    found = _state_of_calls(graph_module, besides)
    memory = changing(graph_module.graph)
    if memory:
        read = {str(n.target) for n in graph_module.graph.nodes if n.op == "get_attr"}
        buffers = graph_module.named_buffers(remove_duplicate=False)
        found.update((n, b) for n, b in buffers if n in read and not is_opaque(b))
    given = _names(memory)
    parameters = graph_module.named_parameters(remove_duplicate=False) if given else ()
    found.update((name, p.detach()) for name, p in parameters if name in given)
    return {name: tensor.clone() for name, tensor in found.items()}


def _state_of_calls(
    graph_module: fx.GraphModule, besides: tuple[type[nn.Module], ...] = ()
) -> dict[str, Tensor]:
    """The buffers of modules that are called, which running these may write to."""
    called = dict.fromkeys(str(n.target) for n in graph_module.graph.nodes if n.op == "call_module")
    return {
        f"{path}.{inner}.{name}" if inner else f"{path}.{name}": buffer
        for path in called
        if not isinstance(graph_module.get_submodule(path), besides)
        for inner, part in graph_module.get_submodule(path).named_modules()
        if not keeps_its_buffers(part)
        for name, buffer in part.named_buffers(recurse=False)
    }


def keeps_its_buffers(module: nn.Module) -> bool:
    """Whether running ``module`` writes to none of its own: a layer of PyTorch at inference."""
    is_torch = type(module).__module__.startswith("torch.nn.modules.")
    return is_torch and not module.training and not has_hooks(module)


def held_by_calls(graph_module: fx.GraphModule) -> dict[str, list[object]]:
    """What each module that the graph calls holds: class, attributes, parts, tensors and hooks.

    The same objects are the same state, but for what is written into tensors.
    """
    called = dict.fromkeys(str(n.target) for n in graph_module.graph.nodes if n.op == "call_module")
    return {path: _held_by(graph_module.get_submodule(path)) for path in called}


def _held_by(module: nn.Module) -> list[object]:
    held: list[object] = []
    for part in module.modules():
        held.append(type(part))
        for value in vars(part).values():
            held.append(value)
            held.extend(value.values() if isinstance(value, dict) else ())
    return held


def written_names(graph: fx.Graph) -> set[str]:
    """The qualified names of what the graph reads as an attribute and may write to."""
    return _names(changing(graph))


def _names(memory: set[fx.Node]) -> set[str]:
    return {str(node.target) for node in memory if node.op == "get_attr"}


def may_write(graph_module: fx.GraphModule) -> bool:
    """Whether running the graph may write to its state or to what it is given."""
    kept = ("get_attr", "placeholder")
    memory = changing(graph_module.graph)
    return any(n.op in kept for n in memory) or bool(_state_of_calls(graph_module))


def written_memory(graph_module: fx.GraphModule) -> set[int]:
    """Where the tensors lie that the graph reads as attributes and may write to."""
    held = (attrgetter(name)(graph_module) for name in written_names(graph_module.graph))
    return {memory_of(value) for value in held if isinstance(value, Tensor)} - {0}
