"""Running a graph node by node, with every value at hand while somebody needs it.

State of the model, of its arguments and of the random generators is afterwards as it was: tensors
that the graph may write to are copies, arguments too, and each node draws its random numbers from
the same seed, so that two graphs with the same node draw the same.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from qfx.graph.copying import side_effects_undone
from qfx.graph.interpret import NamedInterpreter
from qfx.graph.layouts import are_equal
from qfx.graph.state import copies_of, put_back, written_tensors
from qfx.torch_private import pytree

_KINDS = {"**": inspect.Parameter.VAR_KEYWORD, "*": inspect.Parameter.VAR_POSITIONAL}


def arguments_by_name(
    graph: fx.Graph, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> dict[str, Any]:
    """The value of each input of ``graph``, defaults included; no code is generated.

    Raises:
        TypeError: the arguments do not fit.
    """
    bound = signature_of(graph).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def called_with(
    graph: fx.Graph, named: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, Any]]:
    """Arguments by name as a call gives them: what ``*args`` and ``**kwargs`` take, too.

    Those may be given by their own names, as a sequence and a mapping.
    """
    kwargs: dict[str, Any] = dict(named)
    args: tuple[object, ...] = ()
    parameters = list(signature_of(graph).parameters.values())
    for place, parameter in enumerate(parameters):
        value = kwargs.get(parameter.name)
        if parameter.kind is parameter.VAR_KEYWORD and isinstance(value, Mapping):
            kwargs |= kwargs.pop(parameter.name)
        if parameter.kind is parameter.VAR_POSITIONAL and isinstance(value, (tuple, list)):
            before = [p.name for p in parameters[:place]]
            if all(name in kwargs for name in before):
                args = (*(kwargs.pop(name) for name in before), *kwargs.pop(parameter.name))
    return args, kwargs


def signature_of(graph: fx.Graph) -> inspect.Signature:
    """How ``graph`` is called; no code is generated."""
    return inspect.Signature(
        [_parameter(node) for node in graph.nodes if node.op == "placeholder"],
        __validate_parameters__=False,
    )


def _parameter(node: fx.Node) -> inspect.Parameter:
    target = str(node.target)
    stars = target[: len(target) - len(target.lstrip("*"))]
    kind = _KINDS.get(stars, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    default = node.args[0] if node.args else inspect.Parameter.empty
    return inspect.Parameter(target.lstrip("*"), kind, default=default)


class Steps(NamedInterpreter):
    """Runs one graph step by step.

    Args:
        graph_module: whose graph to run.
        arguments: as of :func:`arguments_by_name`; they are not copied again.
        wanted: how often each node's value is asked for by :meth:`run_to`.
        seed: of the random numbers of each node.
        buffers: what tensors that the graph may write to hold at first, by name; what they hold now
            when left out.

    Attributes:
        idle: modules that are not run.

    Enter :func:`state_kept` around all steps.
    """

    idle: ClassVar[tuple[type[nn.Module], ...]] = ()

    def __init__(
        self,
        graph_module: fx.GraphModule,
        arguments: Mapping[str, object],
        wanted: Mapping[fx.Node, int] | None = None,
        *,
        seed: int = 0,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(graph_module, arguments, drops=False)  # it drops them itself
        self._seed = seed
        self._left = Counter(wanted or {})
        for node in graph_module.graph.nodes:
            self._left.update(node.all_input_nodes)
        self._first = written_tensors(graph_module, self.idle)
        self._first.update((n, b) for n, b in (buffers or {}).items() if n in self._first)
        self._copies = copies_of(self._first)
        self._ahead = iter(graph_module.graph.nodes)

    def fetch_attr(self, target: str) -> Any:
        """A parameter, buffer or module; of what the graph may write to, a copy."""
        return self._copies[target] if target in self._copies else super().fetch_attr(target)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a module yields that holds the copies, and keeps what it sets anew among them."""
        inside, module = f"{target}.", self.fetch_attr(str(target))
        names = [n.removeprefix(inside) for n in self._copies if n.startswith(inside)]
        held = {name: self._copies[inside + name] for name in names}
        if not held:
            return super().call_module(target, args, kwargs)
        if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
            put_back(module, held)  # nothing can be held in the place of theirs
            value = super().call_module(target, args, kwargs)
            held = copies_of({name: attrgetter(name)(module) for name in names})
        else:
            value = torch.func.functional_call(module, held, args, kwargs)
        set_to = ((inside + name, tensor) for name, tensor in held.items())
        self._copies.update((n, tensor) for n, tensor in set_to if isinstance(tensor, Tensor))
        return value

    def run_node(self, n: fx.Node) -> Any:
        """What ``n`` yields; unlike fx, without notes for those who trace what is run."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)

    def step(self, node: fx.Node) -> Any:
        """Run the next node, whose inputs have been run, and return what it yields."""
        torch.default_generator.manual_seed(self._seed)
        value = self.env[node] = self.run_node(node)
        for read in (*node.all_input_nodes, *(() if self._left[node] else (node,))):
            self._release(read)
        return value

    def run_to(self, node: fx.Node) -> Any:
        """The value of ``node``, after all nodes up to it were run, as often as it was wanted."""
        while node not in self.env:
            self.step(next(self._ahead))
        value = self.env[node]
        self._release(node)
        return value

    def run_to_end(self) -> Any:
        """Run what is left; what the graph returns."""
        result = None
        for node in self._ahead:
            result = self.step(node)
        return result

    def written(self) -> dict[str, Tensor]:
        """The tensors that the graph reads and has changed by now, by name.

        Their order is that of their names, wherever these are cut by dots: so it stays when a pass
        gives each a name at the root.
        """
        return {
            name: self._copies[name]
            for name in sorted(self._copies, key=_flat)
            if not are_equal(self._copies[name], self._first[name])
        }

    def changed(self, given: Mapping[str, object]) -> dict[str, Any]:
        """The arguments that running the graph has changed by now; they were ``given`` by name."""
        return {
            name: value
            for name, value in self._arguments.items()
            if not _is_unchanged(value, given[name])
        }

    def _release(self, node: fx.Node) -> None:
        self._left[node] -= 1
        if self._left[node] <= 0:
            self.env.pop(node, None)


def _flat(name: str) -> tuple[str, int]:
    return name.replace(".", "_"), name.count(".")


def _is_unchanged(value: object, before: object) -> bool:
    ours, form = pytree.tree_flatten(value)
    theirs, form_before = pytree.tree_flatten(before)
    pairs = zip(ours, theirs, strict=False)
    return form == form_before and all(
        are_equal(one, other) for one, other in pairs if isinstance(one, Tensor)
    )


@contextmanager
def state_kept(
    graph_module: fx.GraphModule, idle: tuple[type[nn.Module], ...] = ()
) -> Iterator[None]:
    """No gradients; random state, and what the graph and the modules in it write, are put back.

    Args:
        graph_module: whose state.
        idle: modules that are not run.
    """
    before = written_tensors(graph_module, idle)
    with side_effects_undone(graph_module):
        try:
            yield
        finally:
            put_back(graph_module, before)
