"""Modules whose parameters the graph reads itself: nobody calls them any more.

They keep their class and what it says of the layer, since training tells parameters apart by both:
no weight decay for norms, say, or ``isinstance(m, nn.Linear) and m.bias is not None``.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

from qfx.private_attributes import (
    OF_TENSORS,
    buffers_held,
    flat_weight_names,
    gather_flat_weights,
    modules_held,
    parameters_held,
    tensors_held,
)

_TREATMENT = (
    *("train", "to", "requires_grad_", "zero_grad", "state_dict", "load_state_dict"),
    *("named_parameters", "named_buffers", "named_modules", "named_children"),
    *("__getattr__", "__delattr__", "__reduce_ex__"),
)
"""How modules are treated by their owners; a class with ways of its own may need what is gone."""

_OF_TORCH_TOO = ("_apply", "__setattr__")
"""Those that PyTorch's recurrent layers have, for which all weights must be there."""

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


def take_after(shell: nn.Module, original: nn.Module) -> None:
    """Make a plain module one of the class of ``original``, if it can do without what it lacks."""
    if not _can_lack(shell, type(original), original):
        return
    try:
        shell.__class__ = type(original)
    except TypeError:  # a class with slots or a base of its own
        return
    for name, value in vars(original).items():
        if name not in shell.__dict__ and _is_plain(value):
            shell.__dict__[name] = value if isinstance(value, _PLAIN) else copy.deepcopy(value)
    for registry in OF_TENSORS:
        for name in getattr(original, registry).keys() - vars(shell).keys():
            getattr(shell, registry).setdefault(name, None)
    if isinstance(shell, nn.RNNBase):
        gather_flat_weights(shell)
    _settle_text(shell)


def take_away(owner: nn.Module, name: str) -> None:
    """Take a parameter, buffer or submodule from a module that nobody calls."""
    registries = tensors_held(owner)
    of_tensors = [registry for registry in registries if name in registry]
    delattr(owner, name)
    if not _can_lack(owner, type(owner), owner):
        owner.__class__ = nn.Module
        return
    for registry in of_tensors:
        registry[name] = None  # as PyTorch's layers do with a bias that they lack
    _settle_text(owner)


def _settle_text(shell: nn.Module) -> None:
    """Print nothing of a layer whose own text reads what is gone."""
    try:
        shell.extra_repr()
    except Exception:  # it is the user's code
        shell.extra_repr = _nothing  # type: ignore[method-assign]


def _can_lack(shell: nn.Module, kind: type[nn.Module], original: nn.Module) -> bool:
    """Whether a module of class ``kind`` that holds what ``shell`` does can be treated like any.

    It has the weights' names from ``original`` where it is a recurrent layer.
    """
    if issubclass(kind, (fx.GraphModule, torch.jit.ScriptModule)) or hasattr(kind, "__deepcopy__"):
        return False
    held = (*parameters_held(shell), *buffers_held(shell), *modules_held(shell))
    if any(hasattr(kind, name) for name in held):  # a property, as parametrized layers have
        return False
    if not _has_all_weights(shell, original) and any(
        getattr(kind, name) is not getattr(nn.Module, name) for name in _OF_TORCH_TOO
    ):
        return False
    return all(_is_torchs(getattr(kind, name)) for name in (*_TREATMENT, "__setstate__"))


def _has_all_weights(shell: nn.Module, original: nn.Module) -> bool:
    """Whether ``original`` is a recurrent layer, of which ``shell`` lacks nothing."""
    if not isinstance(original, nn.RNNBase):
        return False
    return all(parameters_held(shell).get(name) is not None for name in flat_weight_names(original))


def _is_torchs(method: object) -> bool:
    module = getattr(method, "__module__", None)  # Python's own have none
    return module is None or str(module).partition(".")[0] == "torch"


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _nothing() -> str:
    return ""
