"""What classes of users' own may get wrong is told with the class: how they start, record, range.

What raises within an observer is no fault of the data, and no ``AttributeError`` of a module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qfx.errors import CalibrationError, ConfigError, QfxError
from qfx.private_attributes import version_of

if TYPE_CHECKING:
    from qfx.quant.observers.base import Observer
    from qfx.quant.spec import QuantSpec


def made(kind: type[Observer], spec: QuantSpec) -> Observer:
    """A new observer of a class.

    Raises:
        ConfigError: it can't be made, or does not start as observers do.
    """
    name = kind.__name__
    try:
        observer = kind(spec)
    except QfxError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the observer {name} can't be made: {_told(error)}. It is made of the spec alone, "
            "__init__(self, spec), which calls super().__init__(spec) first"
        ) from error
    if not isinstance(getattr(observer, "recording", None), Tensor):
        raise ConfigError(f"{name}.__init__(self, spec) does not call super().__init__(spec)")
    return observer


def check_options(kind: type[Observer]) -> None:
    """ConfigError where an option that was given is no number, and the class has one there."""
    origin, given = kind.made_from()
    for name, value in given:
        usual = getattr(origin, name, None)
        if _is_number(usual) and not _is_number(value):
            raise ConfigError(
                f"{origin.__name__}.with_args({name}={value!r}): give a number, as {usual!r}"
            )


def record(observer: Observer, x: Tensor) -> None:
    """Let ``observer`` record ``x``, which the model reads afterwards.

    Raises:
        ConfigError: it raised, or wrote to ``x``; nothing tells that of tensors of inference mode.
    """
    if torch.compiler.is_compiling():
        observer.record(x)
        return
    name, version = type(observer).__name__, version_of(x)
    try:
        observer.record(x)
    except QfxError:
        raise
    except Exception as error:
        shape = tuple(x.shape)
        raise ConfigError(
            f"{name}.record() raised {_told(error)}, given float32 values of shape {shape}"
        ) from error
    if version_of(x) != version:
        raise ConfigError(
            f"{name}.record() wrote to the tensor that it was shown, which the model reads on: "
            "let it compute new ones, or write to x.clone()"
        )


def ends(observer: Observer) -> tuple[Tensor, Tensor]:
    """What ``range()`` gives: 0-dim per tensor, (C,) per channel, (C, G) with groups.

    Numbers stand for 0-dim tensors. No value is asked for, so that devices need not be waited for.

    Raises:
        CalibrationError: it raised, or gave anything else.
    """
    if torch.compiler.is_compiling():
        return observer.range()
    spec, name = observer.spec, type(observer).__name__
    try:
        found: object = observer.range()
    except QfxError:
        raise
    except Exception as error:
        raise CalibrationError(f"{name}.range() raised {_told(error)}") from error
    pair = found if isinstance(found, tuple) and len(found) == 2 else ()
    low, high = (_tensor(end, observer) for end in pair or (None, None))
    if low is None or high is None:
        raise CalibrationError(f"{name}.range() gave {found!r}, not (smallest, largest)")
    shapes = tuple(low.shape), tuple(high.shape)
    if not spec.per_channel and low.numel() == high.numel() == 1:
        return low.reshape(()), high.reshape(())
    dims = 0 if not spec.per_channel else 1 if spec.group_size is None else 2
    if shapes[0] != shapes[1] or len(shapes[0]) != dims:
        wanted = ("one number each", "(channels,) each", "(channels, groups) each")[dims]
        raise CalibrationError(
            f"{name}.range() gave tensors of shapes {shapes[0]} and {shapes[1]}; {spec} takes "
            f"{wanted}"
        )
    return low, high


def checked_ends(observer: Observer) -> tuple[Tensor, Tensor]:
    """:func:`ends`, of which each must be a finite number, and the smallest no larger.

    Raises:
        CalibrationError: it names the first that are not so.
    """
    low, high = ends(observer)
    fine = (low <= high) & low.isfinite() & high.isfinite()
    if bool(fine.all()):
        return low, high
    wrong = [float(end[~fine].flatten()[0]) for end in (low, high)]
    raise CalibrationError(
        f"{type(observer).__name__}.range() gave {wrong[0]:g} as smallest and {wrong[1]:g} as "
        "largest value"
    )


def unwritten(observer: Observer) -> list[str]:
    """Which plain attributes are other than those of a new one: ``state_dict`` has buffers only."""
    fresh = vars(made(type(observer), observer.spec))
    passing = {*vars(nn.Module()), "failed", "_kept"}
    return [
        name
        for name, value in vars(observer).items()
        if name not in passing and not _alike(value, fresh.get(name))
    ]


def _alike(value: object, other: object) -> bool:
    if isinstance(value, Tensor) or isinstance(other, Tensor):
        return value is other
    try:
        return bool(value == other)
    except Exception:  # of arrays, say, whose equality is none
        return False


def _tensor(end: object, observer: Observer) -> Tensor | None:
    if isinstance(end, Tensor):
        return end
    if not _is_number(end):
        return None
    return torch.tensor(end, dtype=torch.float32, device=observer.recording.device)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
