"""Which modules are recorded as one call, and which are traced through.

Modules of PyTorch are leaves, except those that only compose others (containers, transformers);
user modules are traced through. A module with hooks is a leaf, because tracing would run the hooks
once and lose them. What is hooked to the model itself is hooked to its graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

from qfx.graph.source import torch_class, type_name
from qfx.private_attributes import forward_hooks
from qfx.stubs import is_stub
from qfx.torch_private import HOOK_STATE, HOOKS

_COMPOSITIONS = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)
_TRACED_PACKAGES = ("torch.nn.utils.", "torch.nn.parallel.")


def copy_hooks(source: nn.Module, target: nn.Module) -> None:
    """Hook to ``target`` itself what is hooked to ``source`` itself."""
    for name in HOOK_STATE:
        held = source.__dict__[name]
        target.__dict__[name] = held.copy() if isinstance(held, dict) else held


def clear_hooks(module: nn.Module) -> None:
    """Forget all that is hooked to ``module`` itself."""
    for name in HOOKS:
        getattr(module, name).clear()


_RECORDERS = frozenset({("transformers.utils.output_capturing", "output_capturing_hook")})
"""Forward hooks, by module and name, that hand on what they see and do nothing else."""


def take_recorders(module: nn.Module) -> list[Callable[..., object]]:
    """Unhook from ``module`` itself the forward hooks that are known to record only.

    Libraries install them on the first call and leave them there. What they record belongs to what
    the model's Python does, which capture takes once.
    """
    hooks = forward_hooks(module)
    found = {key: hook for key, hook in hooks.items() if _records_only(hook)}
    for key in found:
        del hooks[key]
    return list(found.values())


def _records_only(hook: object) -> bool:
    return (getattr(hook, "__module__", ""), getattr(hook, "__name__", "")) in _RECORDERS


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is hooked to the forward or backward of ``module``."""
    return any(getattr(module, name, None) for name in HOOKS)


class LeafPolicy:
    """Decides what is a leaf.

    Args:
        more: a predicate ``(module, path) -> bool`` that adds leaves of the user's own.
    """

    def __init__(self, more: Callable[[nn.Module, str], bool] | None = None) -> None:
        self._more = more

    def is_leaf(self, module: nn.Module, path: str) -> bool:
        if has_hooks(module) or isinstance(module, torch.jit.ScriptModule) or is_stub(module):
            return True
        if self._more is not None and self._more(module, path):
            return True
        if isinstance(module, fx.GraphModule):
            return False
        kind = torch_class(module)
        if kind is None or kind.__module__.startswith(_TRACED_PACKAGES):
            return False
        return kind not in _COMPOSITIONS

    def note(self, module: nn.Module) -> str:
        """Why a leaf has to stay a call of its module; "" when it need not."""
        if has_hooks(module):
            return "the module has hooks, which only run if it is called as it is"
        if isinstance(module, torch.jit.ScriptModule):
            return "the module is compiled by TorchScript"
        if torch_class(module) is None and not is_stub(module):
            return f"{type_name(type(module))} was asked to be kept whole"
        return ""
