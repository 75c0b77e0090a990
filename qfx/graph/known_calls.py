"""Calls that are known to do nothing but what their names say, and whose they are."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

import torch
from torch import fx, nn

from qfx.graph import meta
from qfx.graph.containers import ContainerMaker
from qfx.graph.leaves import has_hooks
from qfx.graph.scripted import Scripted
from qfx.graph.source import torch_class
from qfx.torch_private import OVERLOAD, PACKET


def is_known(node: fx.Node) -> bool:
    """Whether a call is one of those that do nothing but what their name says."""
    if node.op == "call_method":
        return _is_known_method(str(node.target), node)
    if node.op != "call_module":
        return _is_known_function(node.target)
    module = module_of(node)
    if module is None or has_hooks(module):
        return False
    return torch_class(module) is not None or _is_own(type(module).__module__)


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that a ``call_module`` node calls; None if its graph belongs to none."""
    owner = node.graph.owning_module
    return None if owner is None else owner.get_submodule(str(node.target))


def makes_numbers(node: fx.Node) -> bool:
    """Whether a call makes a tensor of numbers and sizes, like ``torch.arange``."""
    if not node.op.startswith("call_") or not is_known(node):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.partition(".")[0] in _MAKERS


_MAKERS = frozenset(
    {
        *("zeros", "ones", "full", "empty", "arange", "linspace", "logspace", "eye", "tensor"),
        *("zeros_like", "ones_like", "full_like", "empty_like", "tril_indices", "triu_indices"),
        *("hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window"),
        *("fft_fftfreq", "fft_rfftfreq"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "scalar_tensor"),
    }
)

_BUILTINS: frozenset[Callable[..., Any]] = frozenset(
    {
        *(getattr, len, abs, min, max, sum, sorted, round, divmod, pow, isinstance, repr, hash),
        *(any, all),
    }
)

_PYTHON_OF_TORCH = frozenset(
    {"torch.nn.functional", "torch.functional", "torch._tensor", "torch.nn.init"}
)

_ACTING_METHODS = frozenset(
    {"backward", "retain_grad", "register_hook", "register_post_accumulate_grad_hook"}
)

_READING_METHODS = frozenset({"get", "keys", "values", "items", "index", "count", "copy"})
"""What containers can be asked for without changing."""

_IMMUTABLE = (int, float, str, torch.Size, torch.dtype, torch.device)


def _is_known_function(target: object) -> bool:
    if isinstance(target, Scripted):
        return False
    if isinstance(target, (type, ContainerMaker, OVERLOAD, PACKET)):
        return True
    if isinstance(target, (MethodDescriptorType, WrapperDescriptorType)):
        return _is_tensor_method(target.__name__)
    module = str(getattr(target, "__module__", None) or type(target).__module__)
    if isinstance(target, FunctionType):
        return module in _PYTHON_OF_TORCH or _is_own(module) or _asks_sizes(module, target)
    if not isinstance(target, BuiltinFunctionType):
        return _is_own(type(target).__module__)
    if module.partition(".")[0] == "torch":
        return hasattr(torch.ops.aten, target.__name__)
    return module in (operator.add.__module__, math.__name__) or target in _BUILTINS


def _is_own(module: str) -> bool:
    return module.partition(".")[0] in ("qfx", "qfx_passes")


def _asks_sizes(module: str, function: FunctionType) -> bool:
    """Whether ``function`` is one of torch's own about sizes and types, like ``torch.sym_max``."""
    return module == "torch" and function.__name__.startswith(("sym_", "is_"))


def _is_known_method(name: str, node: fx.Node) -> bool:
    receiver = node.args[0] if node.args else None
    value = meta.value_of(receiver) if isinstance(receiver, fx.Node) else None
    if isinstance(value, meta.TensorInfo):
        return _is_tensor_method(name)
    if value is not None:
        return name in _READING_METHODS
    return any(hasattr(kind, name) for kind in _IMMUTABLE)


def _is_tensor_method(name: str) -> bool:
    return hasattr(torch.Tensor, name) and name not in _ACTING_METHODS
