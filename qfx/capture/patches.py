"""Names that user code sees differently while it is traced.

Stand-ins are put among the globals of the modules that are traced, as ``torch.fx.wrap`` does, and
taken away again. Other threads that run the same code meanwhile notice nothing: of what is no
proxy, a stand-in makes what the built-in makes.
"""

from __future__ import annotations

import functools
import math
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import is_tensor_method_or_property

from qfx.capture.library_functions import FACTORIES, METHODS
from qfx.capture.stand_ins import CONVERSIONS, EVERYWHERE, Size, is_tensor, recorded
from qfx.graph.effects import random_functions

_OPAQUE = ("torch", "qfx", "qfx_passes", "builtins")
_RECORDED = (*FACTORIES, *(f for n, f in vars(math).items() if callable(f) and n[0] != "_"))
_STAND_INS = {function: recorded(function) for function in _RECORDED}
_STATE = ("is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled")


_LIBRARIES = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib")})


class _Change(NamedTuple):
    """A name among the globals of a module, and what it was; absent when it was not there."""

    names: dict[str, Any]
    name: str
    before: object
    after: object


_ABSENT = object()


class SeenThrough:
    """A block in which the packages shown to it see through proxies.

    Args:
        converting: globals of the modules in which ``int`` and ``float`` see through proxies, too.
        asked: called whenever someone asks for the state of torch, with the answer, the frame and
            what was asked; yields what to say.
    """

    def __init__(
        self, converting: Iterable[dict[str, Any]], asked: Callable[[bool, FrameType, str], bool]
    ) -> None:
        self._converting = list(converting)
        self._asked = asked
        self._packages: set[str] = set()
        self._changed: list[_Change] = []
        self._by_value: dict[int, Any] = {}

    def __enter__(self) -> SeenThrough:
        functions: dict[Any, Any] = dict(_STAND_INS)
        in_torch: dict[str, Any] = {"is_tensor": is_tensor, "Size": Size}
        in_torch.update((name, self._telling(getattr(torch, name))) for name in _STATE)
        functions.update((getattr(torch, name), made) for name, made in in_torch.items())
        self._by_value = {id(function): made for function, made in functions.items()}
        for name, made in in_torch.items():
            self._set(vars(torch), name, made)
        for names in self._converting:
            self._stand_in(names, CONVERSIONS)
        return self

    def replace(self, functions: Mapping[Any, object]) -> None:
        """Let what is shown from now on see other functions, by whatever name."""
        self._by_value.update((id(function), made) for function, made in functions.items())

    def _telling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*args: object) -> Any:
            return self._asked(function(*args), sys._getframe(1), f"torch.{function.__name__}()")

        return tell

    def show(self, module: nn.Module) -> None:
        """Let what ``module`` runs see through proxies: packages of its classes and functions.

        And the user's own packages that these name among their globals: ``from utils import crop``.
        """
        held = (value for value in vars(module).values() if isinstance(value, FunctionType))
        names = [each.__module__ for each in (*type(module).__mro__, *held)]
        pending = [name.partition(".")[0] for name in names if name]
        while pending:
            package = pending.pop()
            if package in self._packages or package in _OPAQUE:
                continue
            self._packages.add(package)
            is_users = _is_users(package)
            for shown in _modules_of(package):
                if is_users:
                    pending += _named(vars(shown))
                self._change(vars(shown))

    def _change(self, names: dict[str, Any]) -> None:
        self._stand_in(names, EVERYWHERE)
        known = self._by_value
        for name, value in [(n, v) for n, v in list(names.items()) if id(v) in known]:
            self._set(names, name, known[id(value)])

    def _stand_in(self, names: dict[str, Any], stand_ins: Mapping[str, object]) -> None:
        for name, made in stand_ins.items():
            if name not in names:
                self._set(names, name, made)

    def _set(self, names: dict[str, Any], name: str, made: object) -> None:
        self._changed.append(_Change(names, name, names.get(name, _ABSENT), made))
        names[name] = made

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for names, name, before, after in reversed(self._changed):
            if names.get(name) is not after:
                continue  # someone set it meanwhile
            if before is _ABSENT:
                del names[name]
            else:
                names[name] = before
        self._changed.clear()
        self._packages.clear()


def _modules_of(package: str) -> list[ModuleType]:
    """The modules of a package that are loaded by now: more may be imported while a model runs."""
    inside, loaded = f"{package}.", list(sys.modules.items())
    found = [held for name, held in loaded if name.startswith(inside) or name == package]
    return [held for held in found if isinstance(held, ModuleType)]  # None: is not to be imported


def _named(names: dict[str, Any]) -> set[str]:
    """The user's packages that the globals of a module name, or come from."""
    found = set()
    for value in list(names.values()):
        kind = type(value)
        if kind is FunctionType or kind is type:
            found.add(value.__module__)
        elif kind is ModuleType:
            found.add(value.__name__)
    return {p for p in {name.partition(".")[0] for name in found if name} if _is_users(p)}


def _is_users(package: str) -> bool:
    """Whether a package is neither Python's nor installed."""
    if package == "__main__":  # which has no file in notebooks
        return True
    file = getattr(sys.modules.get(package), "__file__", None)
    return file is not None and not file.startswith(_LIBRARIES)


@contextmanager
def draws_recorded(record: Callable[..., object]) -> Iterator[None]:
    """Functions of torch that draw random numbers go to ``record(function, args, kwargs)``.

    fx records a call for the proxies that it is given; ``torch.rand(3)`` is given none.
    """
    originals = {name: getattr(torch, name) for name in random_functions()}

    def recording(function: Callable[..., object]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> Any:
            return record(function, args, kwargs)

        return call

    try:
        for name, function in originals.items():
            setattr(torch, name, recording(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(torch, name, function)


@contextmanager
def methods_recorded(record: Callable[..., object]) -> Iterator[None]:
    """Methods of plain tensors that read numbers go to ``record(name, method, args, kwargs)``.

    Only a proxy records what it is asked for itself; ``torch.zeros(1, 8).expand(n, 8)`` is no
    method of one.
    """
    is_tensor_method_or_property(torch.Tensor.expand)  # fills a cache of torch with its methods
    before = {name: vars(torch.Tensor).get(name, _ABSENT) for name in METHODS}

    def recording(name: str, method: Callable[..., object]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: object, **kwargs: object) -> Any:
            return record(name, method, args, kwargs)

        return call

    try:
        for name in METHODS:
            setattr(torch.Tensor, name, recording(name, getattr(torch.Tensor, name)))
        yield
    finally:
        for name, own in before.items():
            if own is _ABSENT:  # inherited
                delattr(torch.Tensor, name)
            else:
                setattr(torch.Tensor, name, own)
