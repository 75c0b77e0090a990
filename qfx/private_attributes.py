"""Private attributes of PyTorch's objects: of modules, tensors, graphs and operators.

What a module holds has no other name that may be written to, and stands in every pickled model;
the test of this module says if a release renames it. The others have a way without them. Functions
of PyTorch that are private: :mod:`qfx.torch_private`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

OF_TENSORS = ("_parameters", "_buffers")
MODULES = "_modules"
REGISTRIES = (*OF_TENSORS, MODULES)
UNSAVED = "_non_persistent_buffers_set"
"""Where a module holds tensors and modules, by name, and which buffers no state has."""

FLAT_WEIGHTS = "_flat_weights"
"""Where a recurrent layer holds what its kernel takes."""

OF_GRAPH_MODULES = ("_boxed_call", "_prologue_start")
"""What PyTorch sets on graph modules later on, besides what each has from the start."""

OVERRIDDEN = ("_apply", "_load_from_state_dict", "_save_to_state_dict")
"""Methods of modules that classes override to have a say in what becomes of their tensors."""


COMPILED = "_orig_mod"
"""Where what torch.compile makes of a module holds it."""


# -- modules -------------------------------------------------------------------------------------
def parameters_held(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The parameters that a module holds itself, by name, to be read and written."""
    return module._parameters


def buffers_held(module: nn.Module) -> dict[str, Tensor | None]:
    """The buffers that a module holds itself, by name, to be read and written."""
    return module._buffers


def compiled_from(module: nn.Module) -> nn.Module | None:
    """The module that torch.compile was given to make this one; None of any other."""
    found = getattr(module, COMPILED, None)
    return found if isinstance(found, nn.Module) else None


def tensors_held(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and the buffers that a module holds itself, to be read and written."""
    return module._parameters, module._buffers


def registry_of(module: nn.Module, name: str) -> dict[str, Any]:
    """The parameters of a module, or its buffers: those among which it holds ``name``."""
    parameters, buffers = tensors_held(module)
    return parameters if name in parameters else buffers


def modules_held(module: nn.Module) -> dict[str, nn.Module | None]:
    """The modules that a module holds itself, by name, to be read and written."""
    return module._modules


def held_by(module: nn.Module, name: str, default: object = None) -> object:
    """What a module itself holds under a name, as a buffer, a module or a parameter."""
    if name in module._buffers:
        return module._buffers[name]
    if name in module._modules:
        return module._modules[name]
    return module._parameters.get(name, default)


def unsaved_buffers(module: nn.Module) -> set[str]:
    """The names of the buffers that ``state_dict`` leaves out, to be read and written."""
    return module._non_persistent_buffers_set


def forward_hooks(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks behind the forward of a module, to be read and written."""
    return getattr(module, "_forward_hooks", {})


def forward_pre_hooks(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks before the forward of a module, to be read and written."""
    return getattr(module, "_forward_pre_hooks", {})


def flat_weight_names(layer: nn.RNNBase) -> list[str]:
    """The weights of a recurrent layer, in the order in which its kernel takes them."""
    names: list[str] = layer._flat_weights_names
    return names


def gather_flat_weights(layer: nn.RNNBase) -> None:
    """Let a recurrent layer put together anew what its kernel takes."""
    layer._init_flat_weights()


def takes_uneven_inputs(ddp: object) -> bool:
    """Whether ranks of a DistributedDataParallel may be done before others."""
    return bool(getattr(getattr(ddp, "_join_config", None), "enable", False))


# -- tensors -------------------------------------------------------------------------------------
def version_of(value: object) -> int:
    """How often a tensor was written to; 0 for those of inference mode, and what is no tensor."""
    counts = isinstance(value, Tensor) and not value.is_inference()
    return int(getattr(value, "_version", 0)) if counts else 0


def wrapper(kind: type[Tensor], like: Tensor, device: torch.device) -> Any:
    """A tensor of class ``kind`` without memory, with the shape, strides and dtype of ``like``."""
    return Tensor._make_wrapper_subclass(
        kind, like.shape, strides=like.stride(), dtype=like.dtype, device=device
    )


# -- graphs --------------------------------------------------------------------------------------
def is_erased(node: fx.Node) -> bool:
    """Whether a node was taken out of its graph."""
    return bool(getattr(node, "_erased", False))


def set_arguments(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Set all arguments of a node that was made without.

    ``node.args = args`` would first take the node out of the table of its graph by what is called,
    and put it back, for which arguments are of no matter.
    """
    if args:
        _set_args(node, args)
    if kwargs:
        _set_kwargs(node, kwargs)


_set_args = fx.Node.args.__set__  # type: ignore[attr-defined]
_set_kwargs = fx.Node.kwargs.__set__  # type: ignore[attr-defined]


def code_of(graph: fx.Graph) -> CodeGen:
    """What writes the code of a graph."""
    found: CodeGen = getattr(graph, "_codegen", None) or CodeGen()
    return found


def tracer_of(graph: fx.Graph) -> type[fx.Tracer] | None:
    """The class of what traced a graph, which pickles name."""
    found: type[fx.Tracer] | None = getattr(graph, "_tracer_cls", None)
    return found


def set_tracer(graph: fx.GraphModule, kind: type[fx.Tracer]) -> None:
    """Let pickles of a graph module name another class of tracer."""
    graph._tracer_cls = kind


def look_for_wrapped(tracer: fx.Tracer, module: ModuleType) -> None:
    """Let a tracer record calls of wrapped functions that are found by way of ``module``."""
    tracer._autowrap_search.append(module)


# -- operators -----------------------------------------------------------------------------------
def schema_of(operator: object) -> Any:
    """The schema of an operator of ``torch.ops``; None of what is none."""
    return getattr(operator, "_schema", None)


def overload_name(operator: Any) -> str:
    """Which overload an operator is, of those under its name."""
    return str(operator.name().partition("::")[2].partition(".")[2] or "default")
