"""How the modules of a model are called while it runs on the example inputs.

One run of a copy tells all: hooks in front of every module keep what it is given. Of a module that
is called again and again, the first calls of different shapes are kept, a few of each form, and the
one with most in it. A model that generates makes a few tokens besides, as it calls its parts
otherwise when it does.
"""

from __future__ import annotations

import enum
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from qfx.capture.arguments import copy_tensors
from qfx.graph.copying import deep_copied, side_effects_undone
from qfx.graph.ways import CallForm, form_of
from qfx.private_attributes import version_of
from qfx.torch_private import pytree

MOST_KEPT = 5
"""Calls of a module that are kept of each form, beside the largest."""

MOST_FORMS = 8
"""Forms of calls of which some are kept."""

_TOKENS = 3
"""What is generated: from the prompt, and from one token and then two in a cache."""

_COUNT = "max_new_tokens"

_PLAIN = (Tensor, int, float, complex, bool, str, type(None), torch.dtype, torch.device, enum.Enum)
_CONTAINERS = (tuple, list, dict)

_Key: TypeAlias = "tuple[int, int]"


class RecordedCall(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def form(self) -> CallForm:
        """What tells it from calls in other ways."""
        return form_of(self.args, self.kwargs)

    @property
    def size(self) -> int:
        """How many numbers its tensors hold."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))


class Calls:
    """The calls of one module: some of them, the largest first, and how many there were.

    Attributes:
        count: how many.
        forms: how many of each form.
        odd: class name of an argument that is no data, and that no graph takes; "" if none was.
    """

    def __init__(self) -> None:
        self.count = 0
        self.forms: Counter[CallForm] = Counter()
        self.odd = ""
        self._kept: dict[CallForm, dict[object, RecordedCall]] = {}
        self._largest: RecordedCall | None = None

    @property
    def kept(self) -> list[RecordedCall]:
        """The largest call, and of each form the first of other shapes."""
        if self._largest is None:
            return []
        every = [call for calls in self._kept.values() for call in calls.values()]
        return [self._largest, *(call for call in every if call is not self._largest)]

    def add(self, call: RecordedCall) -> None:
        """Keep ``call`` if it tells something new."""
        self.forms[call.form] += 1
        if self._largest is None or call.size > self._largest.size:
            self._largest = call
        if len(self._kept) < MOST_FORMS:
            self._kept.setdefault(call.form, {})
        kept = self._kept.get(call.form, {})
        if len(kept) < MOST_KEPT:
            kept.setdefault(_shapes(call), call)


class Recording(NamedTuple):
    """What a run showed.

    Attributes:
        calls: of each module, by its path; the first path of one that has several.
        result: what the model yields.
        unheard: why generating made no tokens; "" if it did, or was not asked to.
    """

    calls: Mapping[str, Calls]
    result: Any
    unheard: str


def record(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Recording:
    """Run a copy of ``model`` on the example inputs and keep what its modules are given.

    Raises:
        Exception: whatever the model itself raises.
    """
    root = deep_copied(model)
    keep = _Copies()
    calls = {path: Calls() for path, _ in root.named_modules()}
    hooks = [
        module.register_forward_pre_hook(_hook(calls[path], keep), with_kwargs=True, prepend=True)
        for path, module in root.named_modules()
        if path and not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        with side_effects_undone(model):
            result = root(*copy_tensors(args), **copy_tensors(dict(kwargs)))
            unheard = _generate(root, args, kwargs) if generates(model) else ""
    finally:
        for hook in hooks:
            hook.remove()
    return Recording(calls, result, unheard)


def generates(model: nn.Module) -> bool:
    """Whether ``model`` has a ``generate`` that calls it.

    Models of transformers say so; of others, one that is asked for a number of new tokens.
    """
    if hasattr(model, "can_generate"):
        return generates_with_cache(model)
    generate = getattr(model, "generate", None)
    return inspect.ismethod(generate) and _COUNT in inspect.signature(generate).parameters


def generates_with_cache(model: nn.Module) -> bool:
    """Whether ``model`` generates as those of transformers do, a row at a time."""
    asked, generate = (getattr(model, name, None) for name in ("can_generate", "generate"))
    try:
        return callable(asked) and callable(generate) and asked() is True
    except TypeError:  # it wants arguments: some other method of that name
        return False


def _generate(root: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Let ``root`` generate from the example inputs; why it does not, if it raises on these."""
    generate: Any = root.generate
    prompt = {k: v for k, v in kwargs.items() if isinstance(v, Tensor) and not _is_target(k)}
    how: dict[str, Any] = {_COUNT: _TOKENS}
    if hasattr(root, "can_generate"):
        how["do_sample"] = False
    try:
        generate(*copy_tensors(args), **copy_tensors(prompt), **how)
    except Exception as error:  # what it takes is the user's affair; calls so far are kept
        return _UNHEARD.format(error=f"{type(error).__name__}: {error}".partition("\n")[0])
    return ""


_UNHEARD = (
    "generate() raised on the example inputs, so that calls which it alone makes were not seen, and"
    " run layer by layer where no graph takes them: {error}"
)


def _is_target(name: str) -> bool:
    """Whether an argument of forward is what generate makes."""
    return name == "labels" or name.startswith("decoder_")


def _hook(calls: Calls, keep: _Copies) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.count += 1
        calls.odd = calls.odd or _odd((args, kwargs))
        if not calls.odd:
            calls.add(RecordedCall(keep(args), keep(kwargs)))

    return hook


class _Copies:
    """Copies tensors as they are now; one that did not change since is copied once."""

    def __init__(self) -> None:
        self._made: dict[_Key, tuple[Tensor, Tensor]] = {}  # the original is kept, for its id

    def __call__(self, value: object) -> Any:
        return pytree.tree_map_only(Tensor, self._copy, value)

    def _copy(self, tensor: Tensor) -> Tensor:
        if tensor.is_inference():  # nobody counts what is written to it
            with torch.inference_mode(False):
                return tensor.clone()
        key = (id(tensor), version_of(tensor))
        if key not in self._made:
            self._made[key] = (tensor, tensor.detach().clone())
        return self._made[key][1]


def _odd(value: object) -> str:
    """Class name of what is no data; "" if all is."""
    if isinstance(value, _CONTAINERS):
        items = value.values() if isinstance(value, dict) else value
        return next(filter(None, map(_odd, items)), "")
    return "" if isinstance(value, _PLAIN) else type(value).__name__


def _shapes(call: RecordedCall) -> object:
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
    return str(spec), tuple(map(_leaf_shape, leaves))


def _leaf_shape(leaf: object) -> object:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype
    return type(leaf), leaf if isinstance(leaf, (bool, str)) else None
