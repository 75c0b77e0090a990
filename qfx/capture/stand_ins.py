"""What user code calls in place of built-in functions while it is traced.

Some built-ins never ask their argument in a way that a proxy could answer: ``isinstance`` and
``type`` look at its class, ``len``, ``int`` and ``float`` insist on numbers of Python, ``max``
takes decisions. Their stand-ins see through proxies, record what stays symbolic, and do for
everything else what the built-in does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from qfx.capture.proxy import ValueProxy
from qfx.graph.containers import ContainerMaker


def _symbolic(value: object, kinds: Any) -> bool:
    """Whether ``value`` is a proxy, of the capture that is under way, for one of ``kinds``."""
    if type(value) is not ValueProxy or value.tracer.is_done:
        return False
    return isinstance(value.example, kinds)


# -- functions -----------------------------------------------------------------------------------
def is_instance(value: object, kinds: Any) -> bool:
    """``isinstance``, that sees what a proxy stands for.

    A proxy can't claim to be a tensor to everyone: PyTorch itself would take its memory for one.
    """
    return isinstance(value, kinds) or _symbolic(value, kinds)


def is_tensor(value: object) -> bool:
    """``torch.is_tensor``, that sees what a proxy stands for."""
    return is_instance(value, torch.Tensor)


def is_callable(value: object, /) -> bool:
    """``callable``, that sees what a proxy stands for: proxies themselves can be called."""
    return callable(value.example if _symbolic(value, object) else value)  # type: ignore[attr-defined]


def length(value: Any, /) -> Any:
    """``len``, which of a tensor is a size like any other."""
    return value.tracer.call(len, value) if _symbolic(value, torch.Tensor) else len(value)


def _picking(function: Callable[..., object]) -> Callable[..., Any]:
    """``max`` or ``min``, which of sizes is a size."""

    @functools.wraps(function)
    def pick(*values: Any, **options: Any) -> Any:
        only = values[0] if len(values) == 1 else None
        if only is not None and not options and not isinstance(only, (tuple, list, ValueProxy)):
            only = list(only)  # of a generator, say
            values = (only,)
        among = values if only is None else only.example if _symbolic(only, tuple) else only
        proxies = [v for v in (*values, *among) if type(v) is ValueProxy] if not options else []
        if proxies and all(type(v) in (int, float) or _symbolic(v, (int, float)) for v in among):
            return proxies[0].tracer.call(function, *values)
        return function(*values, **options)

    return pick


def recorded(function: Callable[..., object]) -> Callable[..., Any]:
    """``function`` of numbers, recorded where one is a proxy."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = next((v for v in (*args, *kwargs.values()) if _symbolic(v, object)), None)
        if found is None:
            return function(*args, **kwargs)
        return found.tracer.create_proxy("call_function", function, args, kwargs)

    return call


# -- classes -------------------------------------------------------------------------------------
class _Standing(type):
    """The class of a class that stands in for a built-in one: equal to it, with its instances."""

    original: type

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        proxy = args[0] if len(args) == 1 and not kwargs else None
        if type(proxy) is not ValueProxy or proxy.tracer.is_done:
            return cls.original(*args, **kwargs)
        return cls._see(proxy)

    def _see(cls, proxy: ValueProxy) -> Any:
        raise NotImplementedError

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.original)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.original)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.original

    def __hash__(cls) -> int:
        return hash(cls.original)

    def __repr__(cls) -> str:
        return repr(cls.original)


class _StandingNumber(_Standing):
    def _see(cls, proxy: ValueProxy) -> Any:
        if type(proxy.example) is cls.original:
            return proxy
        return proxy.tracer.call(cls.original, proxy)


class _StandingType(_Standing):
    standing: Mapping[type, type] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs:
            return type(*args, **kwargs)
        value = args[0]
        found = type(value.example if _symbolic(value, object) else value)
        return cls.standing.get(found, found)


class _StandingSize(_Standing):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or isinstance(args[0], torch.Tensor):
            return cls.original(*args, **kwargs)
        whole = args[0] if _symbolic(args[0], (tuple, list)) else list(args[0])
        found = next((v for v in (whole, *whole) if _symbolic(v, object)), None)
        if found is None:
            return cls.original(whole)
        make = ContainerMaker(cls.original)
        return found.tracer.create_proxy("call_function", make, (whole, {}), {})


class Size(tuple[int, ...], metaclass=_StandingSize):
    """``torch.Size``, which of sizes that stay symbolic is one itself."""

    original = torch.Size


def _number(original: type) -> type:
    names = {"original": original, "__module__": "builtins", "__qualname__": original.__qualname__}
    return _StandingNumber(original.__name__, (original,), names)


_INT, _FLOAT = _number(int), _number(float)


class _Type(type, metaclass=_StandingType):
    original = type
    standing = {Size.original: Size}  # noqa: RUF012 - a class attribute of the metaclass's


class _TypeOfNumbers(type, metaclass=_StandingType):
    """``type`` where ``int`` and ``float`` have stand-ins: ``type(3) is int``."""

    original = type
    standing = {**_Type.standing, int: _INT, float: _FLOAT}  # noqa: RUF012


EVERYWHERE: Mapping[str, Any] = {
    "callable": is_callable,
    "isinstance": is_instance,
    "len": length,
    "max": _picking(max),
    "min": _picking(min),
    "type": _Type,
}
"""Stand-ins by the name of the built-in, for all modules of a package that is traced."""

CONVERSIONS: Mapping[str, Any] = {"int": _INT, "float": _FLOAT, "type": _TypeOfNumbers}
"""Stand-ins for modules that make numbers of Python from sizes.

For these only: what is a class elsewhere (``dtype=int``) should be the built-in one.
"""
