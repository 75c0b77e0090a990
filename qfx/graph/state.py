"""The state of a graph module that running its graph may write to."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from torch import Tensor, fx, nn

from qfx.graph.clone import is_opaque
from qfx.graph.effects import changing
from qfx.graph.layouts import are_equal
from qfx.graph.leaves import has_hooks
from qfx.graph.meta import wrote
from qfx.graph.overlap import memory_of, overwrite
from qfx.private_attributes import registry_of


def written_tensors(
    graph_module: fx.GraphModule, besides: tuple[type[nn.Module], ...] = ()
) -> dict[str, Tensor]:
    """Copies of the tensors that running the graph may write to, by qualified name.

    Buffers of modules that are called, unless all are layers of PyTorch at inference, and the
    parameters of those that were seen to write to some; if calls may write to what they are given,
    the buffers that the graph reads, too, and the parameters that these are given.

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
    found.update((name, p) for name, p in parameters if name in given)
    return copies_of(found)


def copies_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of each tensor, of one under several names the same."""
    made: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in made:
            made[id(tensor)] = tensor.detach().clone()
    return {name: made[id(tensor)] for name, tensor in tensors.items()}


def put_back(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers of ``module`` these values: new tensors where they were set."""
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        registry = registry_of(attrgetter(path)(module) if path else module, leaf)
        held = registry[leaf]
        if not isinstance(held, Tensor) or (held.shape, held.dtype) != (value.shape, value.dtype):
            registry[leaf] = value.clone()
        elif not are_equal(held, value):
            overwrite(held, value)


def _state_of_calls(
    graph_module: fx.GraphModule, besides: tuple[type[nn.Module], ...] = ()
) -> dict[str, Tensor]:
    """The tensors of modules that are called, which running these may write to.

    A module of someone's own, or a hook, may write to buffers of its parts, or of others that it
    knows: if there is any, all buffers count. Of parameters, those of modules that were seen to
    write to some.
    """
    called = dict.fromkeys(str(n.target) for n in graph_module.graph.nodes if n.op == "call_module")
    held = {path: graph_module.get_submodule(path) for path in called}
    run = {path: module for path, module in held.items() if not isinstance(module, besides)}
    found: dict[str, Tensor] = dict(parameters_of_writers(graph_module.graph, graph_module))
    if all(keeps_its_buffers(part) for module in run.values() for part in module.modules()):
        return found
    for path, module in run.items():
        named = module.named_buffers(remove_duplicate=False)
        found.update((f"{path}.{name}", buffer) for name, buffer in named)
    return found


def parameters_of_writers(graph: fx.Graph, root: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the modules of ``root`` that ``graph`` calls, and that write to some."""
    writers = dict.fromkeys(
        str(n.target) for n in graph.nodes if n.op == "call_module" and wrote(n)
    )
    return {
        f"{path}.{name}": parameter
        for path in writers
        for name, parameter in root.get_submodule(path).named_parameters(remove_duplicate=False)
    }


def keeps_its_buffers(module: nn.Module) -> bool:
    """Whether running ``module`` writes to none of its own: a layer of PyTorch at inference."""
    if not type(module).__module__.startswith("torch.nn.modules.") or "forward" in vars(module):
        return False
    return not (module.training or has_hooks(module) or _takes_statistics(module))


def _takes_statistics(module: nn.Module) -> bool:
    """Whether a norm that was told not to use its running statistics moves them at inference."""
    norms = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    return isinstance(module, norms) and not module.track_running_stats


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
