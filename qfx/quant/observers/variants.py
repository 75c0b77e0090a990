"""Classes of observers with other options: one class for equal options, which pickles as a call."""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from qfx.quant.observers.base import Observer

_ObserverT = TypeVar("_ObserverT", bound="Observer")


class _Variant(type):
    """The type of the classes that ``Observer.with_args`` makes: they pickle as that call."""


def _as_call(cls: _Variant) -> tuple[Any, ...] | str:
    if "_given" not in cls.__dict__:  # a subclass that has a name of its own
        return cls.__qualname__
    return variant, (cls.__dict__["_made_from"], cls.__dict__["_given"])


copyreg.pickle(_Variant, _as_call)

_VARIANTS: dict[tuple[object, ...], type[Observer]] = {}


def variant(cls: type[_ObserverT], options: tuple[tuple[str, object], ...]) -> type[_ObserverT]:
    """The one subclass of ``cls`` with ``options``, made when first asked for."""
    origin, before = cls.made_from()
    given = tuple(sorted({**dict(before), **dict(options)}.items()))
    text = ", ".join(f"{k}={v!r}" for k, v in given)
    body = {
        **dict(given),
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "_made_from": origin,
        "_given": given,
    }
    made = _Variant(f"{origin.__name__}({text})", (origin,), body)
    return _VARIANTS.setdefault((origin, given), made)  # type: ignore[arg-type, return-value]
