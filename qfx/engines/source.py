"""What is compiled: a graph that means the model, a callable that eager runs, and examples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from qfx.capture.arguments import copy_tensors
from qfx.capture.capture import capture
from qfx.errors import ConfigError
from qfx.export.onnx.arguments import by_name, of_model
from qfx.export.onnx.trials import example_arguments
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_context import PassContext
from qfx.framework.pipeline import Pipeline
from qfx.framework.registry import get_pass
from qfx.graph.copying import deep_copied, side_effects_undone
from qfx.graph.effects import changing
from qfx.graph.overlap import overwrite
from qfx.graph.state import written_names
from qfx.graph.steps import called_with, state_kept
from qfx.history.history import History
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel

_FLOAT_PASSES = ("canonicalize", "fold-constants", "fuse-conv-bn")
"""What brings a float model into the form that engines are given."""


@dataclass(frozen=True)
class Source:
    """A model to compile.

    Attributes:
        model: as it was given; a copy of one that is float, or that keeps state.
        reference: the graph that it means.
        eager: runs it with the kernels of PyTorch.
        arguments: copies of the examples, by name.
        args, kwargs: the same as a call; :meth:`fresh` is what models are run on.
        made_up: whether the examples are random numbers of recorded shapes.
    """

    model: nn.Module
    reference: fx.GraphModule
    eager: Callable[..., Any]
    arguments: Mapping[str, Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    made_up: bool

    @property
    def written(self) -> list[str]:
        """The buffers that running it writes to."""
        return sorted(written_names(self.reference.graph))

    @property
    def writes_inputs(self) -> bool:
        """Whether running it writes to tensors that it is given."""
        return any(node.op == "placeholder" for node in changing(self.reference.graph))

    def call(self) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The examples as a call, for what writes to none of them."""
        return self.args, self.kwargs

    def fresh(self) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The examples as a call, of tensors that a model may write to."""
        return copy_tensors(self.args), copy_tensors(self.kwargs)

    def fresh_arguments(self) -> Mapping[str, Any]:
        """The examples by name, of tensors that a model may write to."""
        made: Mapping[str, Any] = copy_tensors(self.arguments)
        return made

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Whatever runs in here, the state of the model is afterwards as it was."""
        held = dict(self.model.named_buffers()) if self.written else {}
        before = {name: buffer.clone() for name, buffer in held.items()}
        with state_kept(self.reference):
            try:
                yield
            finally:
                for name, buffer in held.items():
                    overwrite(buffer, before[name])


def source_of(model: object, example_inputs: object) -> Source:
    """What is compiled; the model and the examples stay the caller's.

    Raises:
        ConfigError: an argument is wrong.
        CaptureError: a float model can't be traced.
    """
    if isinstance(model, PreparedModel):
        raise ConfigError(
            "compile takes no prepared model: call qfx.convert(prepared) first, and give it what "
            "that returns"
        )
    if not isinstance(model, nn.Module):
        raise ConfigError(f"compile takes a model, not {type(model).__name__}")
    if isinstance(model, QuantizedModel):
        keeps_state = bool(written_names(model.reference.graph))
        kept = copy.deepcopy(model) if keeps_state else model
        return _source(kept, model.reference, example_inputs)
    if model.training:
        raise ConfigError("the model is in training mode; call model.eval(), then compile it")
    _check_device(model)
    if example_inputs is None:
        raise ConfigError(
            f"compile needs example_inputs for {type(model).__name__}, which keeps no shapes of "
            "its inputs; give a tensor, a tuple of positional arguments, or a mapping by name"
        )
    args, kwargs = copy_tensors(call_of(example_inputs))
    reference = _graph_of(model, args, kwargs)
    return _source(deep_copied(model), reference, example_inputs)


def _source(model: nn.Module, reference: fx.GraphModule, example_inputs: object) -> Source:
    made_up = example_inputs is None
    given: Any = _made_up(reference) if made_up else copy_tensors(example_inputs)
    arguments = by_name(reference, given, called="example_inputs", takes=of_model(reference))
    is_named = isinstance(given, Mapping)
    args, kwargs = called_with(reference.graph, given) if is_named else call_of(given)
    return Source(model, reference, model, arguments, args, kwargs, made_up)


def _made_up(reference: fx.GraphModule) -> dict[str, Any]:
    """Random numbers of the shapes that a quantized model was captured with."""
    names = [str(node.target) for node in reference.graph.find_nodes(op="placeholder")]
    if any(name.startswith("*") for name in names):
        raise ConfigError(
            "compile needs example_inputs for a model that takes any number of arguments"
        )
    return example_arguments(reference)


def call_of(example_inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _graph_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> fx.GraphModule:
    """A float model, canonical and with batch-norms folded."""
    with side_effects_undone(model):
        graph_module = capture(model, args, kwargs)
    ctx = PassContext(graph_module, example_inputs=args, example_kwargs=dict(kwargs))
    passes = tuple(get_pass(name)() for name in _FLOAT_PASSES)
    return run_pipeline(graph_module, Pipeline(passes), ctx, History())


def _check_device(model: nn.Module) -> None:
    held = (*model.parameters(), *model.buffers())
    away = next((t.device for t in held if t.device.type != "cpu"), None)
    if away is not None:
        raise ConfigError(f"compile takes models on the CPU, and this is on {away}: model.cpu()")
