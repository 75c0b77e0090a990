"""How one tensor is quantized (QuantSpec), and one operation (QConfig): frozen, checked when made.

A contradiction is a :class:`~qfx.errors.ConfigError` at construction, never a surprise at
conversion. What is left open takes the only value that fits: bounds are those of the dtype, the
observer is "per_channel_minmax" where there is a scale per channel and "minmax" elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from qfx.errors import ConfigError
from qfx.quant.observers import guarding, registry
from qfx.quant.observers.base import Observer

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)
_INSTEAD = {
    "torch.quint8": "use torch.uint8",
    "torch.qint8": "use torch.int8",
    "torch.qint32": "use torch.int32",
    "torch.quint4x2": "use torch.uint8 with quant_min=0, quant_max=15",
    "torch.int4": "use torch.int8 with quant_min=-8, quant_max=7",
    "torch.uint4": "use torch.uint8 with quant_min=0, quant_max=15",
}

_PLACEHOLDER = "placeholder"

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, repr=False)
class QuantSpec:
    """How one tensor is quantized.

    Attributes:
        dtype: torch.uint8, int8, int16 or int32; torch.float16 keeps weights as halves.
        symmetric: zero point in the middle (0 for signed codes) instead of fitted to the data.
        per_channel: one scale per channel along ``axis``.
        observer: class or registered name; None stands for the plain min/max one, and for
            "placeholder" where nothing is observed (``dynamic``, torch.float16).
        axis: channel axis; None leaves it to the operation (0 for most weights).
        group_size: so many consecutive values of a channel share a scale; needs ``per_channel``.
        dynamic: qparams are measured at run time, for every input anew; activations only.
        quant_min, quant_max: bounds of the codes; None stands for those of ``dtype``. 4 bits are
            torch.int8 with [-8, 7], or torch.uint8 with [0, 15].
        power_of_two: scales are rounded up to powers of two.
        offset: the zero point is any number, so that the range of a channel need not hold 0.0; for
            weights. None leaves it to the operation (yes for affine rows of embeddings).

    Raises:
        ConfigError: the fields contradict each other; the message says what to change.
    """

    dtype: torch.dtype
    symmetric: bool = False
    per_channel: bool = False
    observer: type[Observer] | str | None = None
    axis: int | None = None
    group_size: int | None = None
    dynamic: bool = False
    quant_min: int | None = None
    quant_max: int | None = None
    power_of_two: bool = False
    offset: bool | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.is_unobserved:
            self._settle_placeholder()
        if self.dtype == torch.float16:
            self._check_half()
            return
        if self.dtype not in _INTEGERS:
            remedy = _INSTEAD.get(str(self.dtype), "choose torch.uint8, int8, int16 or int32")
            raise ConfigError(f"can't quantize to {self.dtype}; {remedy}")
        self._settle_bounds()
        self._check_granularity()
        self._settle_observer()

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest code, inclusive; ConfigError for float16, which has none."""
        if self.quant_min is None or self.quant_max is None:
            raise ConfigError(f"{self} is no integer spec: it has no bounds")
        return self.quant_min, self.quant_max

    @property
    def channel_axis(self) -> int | None:
        """``axis``, 0 where it was left open; None for a per-tensor spec."""
        return (self.axis or 0) if self.per_channel else None

    @property
    def is_unobserved(self) -> bool:
        """Whether no observer could find qparams: they are measured at run time, or not needed."""
        return self.dynamic or self.dtype == torch.float16

    @property
    def observer_class(self) -> type[Observer]:
        """The class of ``observer``, the placeholder where nothing is observed."""
        return registry.observer_class(self.observer or _PLACEHOLDER)

    def make_observer(self) -> Observer:
        """A new observer for a tensor quantized this way."""
        return guarding.made(self.observer_class, self)

    def to_dict(self) -> dict[str, Json]:
        """Plain JSON types, only what differs from the defaults; see :meth:`from_dict`."""
        written: dict[str, Json] = {"dtype": _name(self.dtype)}
        for name, value in self._told().items():
            written[name] = registry.describe(value) if name == "observer" else value  # type: ignore[assignment, arg-type]
        return written

    @classmethod
    def from_dict(cls, data: Mapping[str, Json]) -> QuantSpec:
        """The spec that :meth:`to_dict` wrote; ConfigError if it is none."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown or not isinstance(data.get("dtype"), str):
            raise ConfigError(f"not a QuantSpec: unknown fields {unknown} in {dict(data)}")
        fields: dict[str, object] = dict(data)
        dtype = getattr(torch, str(fields.pop("dtype")), None)
        if "observer" in fields:
            fields["observer"] = registry.from_description(fields["observer"])
        return cls(dtype, **fields)  # type: ignore[arg-type]

    def _told(self) -> dict[str, object]:
        """The fields that differ from what would be settled without them."""
        told: dict[str, object] = {}
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                told[field.name] = value
        if told.get("observer") == _default_observer(self.per_channel):
            del told["observer"]
        if self.dtype in _INTEGERS:
            info = torch.iinfo(self.dtype)
            for name, bound in (("quant_min", info.min), ("quant_max", info.max)):
                if told.get(name) == bound:
                    del told[name]
        return told

    def __repr__(self) -> str:
        parts = [str(self.dtype)]
        for name, value in self._told().items():
            text = value.__name__ if isinstance(value, type) else repr(value)
            parts.append(f"{name}={text}")
        return f"QuantSpec({', '.join(parts)})"

    def _check_types(self) -> None:
        if not isinstance(self.dtype, torch.dtype):
            raise ConfigError(
                f"dtype must be a torch.dtype such as torch.uint8, not {self.dtype!r}"
            )
        for name in ("symmetric", "per_channel", "dynamic", "power_of_two"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be True or False, not {value!r}")
        if self.offset is not None and not isinstance(self.offset, bool):
            raise ConfigError(f"offset must be True, False or None, not {self.offset!r}")
        for name in ("axis", "group_size", "quant_min", "quant_max"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ConfigError(f"{name} must be an integer or None, not {value!r}")

    def _check_half(self) -> None:
        set_anyway = [
            f.name
            for f in dataclasses.fields(self)[1:]
            if f.name != "dynamic" and getattr(self, f.name) != f.default
        ]
        if set_anyway:
            raise ConfigError(
                f"torch.float16 has no scale, so {', '.join(set_anyway)} means nothing there;"
                " leave it out, or choose torch.int8"
            )

    def _settle_bounds(self) -> None:
        info = torch.iinfo(self.dtype)
        low = info.min if self.quant_min is None else self.quant_min
        high = info.max if self.quant_max is None else self.quant_max
        if not info.min <= low < high <= info.max:
            raise ConfigError(
                f"quant_min={low}, quant_max={high} is no range within {self.dtype};"
                f" choose {info.min} <= quant_min < quant_max <= {info.max}"
            )
        if self.symmetric and info.min < 0 and not low < 0 < high:
            raise ConfigError(
                f"symmetric {self.dtype} codes need quant_min < 0 < quant_max, not [{low}, {high}];"
                " choose bounds around 0, or symmetric=False"
            )
        object.__setattr__(self, "quant_min", low)
        object.__setattr__(self, "quant_max", high)

    def _check_granularity(self) -> None:
        if self.axis is not None and not self.per_channel:
            raise ConfigError(f"axis={self.axis} means nothing per tensor; set per_channel=True")
        if self.group_size is not None and not self.per_channel:
            raise ConfigError(
                f"group_size={self.group_size} splits channels; set per_channel=True with it"
            )
        if self.group_size is not None and self.group_size < 1:
            raise ConfigError(f"group_size must be at least 1, not {self.group_size}")
        if self.offset and (self.symmetric or not self.per_channel):
            raise ConfigError(
                "offset=True gives every channel a range of its own; set per_channel=True and"
                " symmetric=False"
            )
        if self.dynamic and self.per_channel:
            raise ConfigError(
                "dynamic=True measures whole tensors at run time; set per_channel=False"
            )

    def _settle_placeholder(self) -> None:
        """None is how the placeholder is written down."""
        if self.observer is None:
            return
        if registry.observer_class(self.observer).measures:
            why = "measures at run time" if self.dynamic else "has no scale"
            what = "dynamic=True" if self.dynamic else str(self.dtype)
            raise ConfigError(
                f"{what} {why}, so an observer would never be asked; leave observer out"
            )
        object.__setattr__(self, "observer", None)

    def _settle_observer(self) -> None:
        if self.is_unobserved:
            return
        observer = self.observer
        if observer is None:
            observer = _default_observer(self.per_channel)
        chosen = registry.observer_class(observer)
        object.__setattr__(self, "observer", registry.name_or_class(chosen))
        chosen.check_methods()
        chosen.check(self)
        guarding.check_options(chosen)


@dataclass(frozen=True, repr=False)
class QConfig:
    """How one operation is quantized; None leaves that side float.

    Attributes:
        activation: inputs and results.
        weight: constant weights.
        rows: weights of embeddings, unless a layer shares them; None: as ``weight``.
    """

    activation: QuantSpec | None = None
    weight: QuantSpec | None = None
    rows: QuantSpec | None = None

    def __post_init__(self) -> None:
        for name in ("activation", "weight", "rows"):
            side = getattr(self, name)
            if side is not None and not isinstance(side, QuantSpec):
                raise ConfigError(f"QConfig.{name} must be a QuantSpec or None, not {side!r}")
        if any(side is not None and side.dynamic for side in (self.weight, self.rows)):
            raise ConfigError(
                "weights don't change at run time: dynamic=True belongs to the activation spec"
            )
        if self.activation is not None:
            self._check_halves(self.activation)

    def _check_halves(self, activation: QuantSpec) -> None:
        half = activation.dtype == torch.float16
        if half and not activation.dynamic:
            raise ConfigError(
                "torch.float16 activations are made at run time; set dynamic=True on the activation"
            )
        if self.weight is not None and half != (self.weight.dtype == torch.float16):
            raise ConfigError(
                f"{activation.dtype} activations and {self.weight.dtype} weights don't multiply;"
                " make both torch.float16 or both integer, or leave activation=None (weight-only)"
            )

    def __repr__(self) -> str:
        rows = "" if self.rows is None else f", rows={self.rows!r}"
        return f"QConfig(activation={self.activation!r}, weight={self.weight!r}{rows})"

    @property
    def method(self) -> str:
        """What it asks for: "static", "dynamic" or "weight_only"."""
        if self.activation is None:
            return "weight_only"
        return "dynamic" if self.activation.dynamic else "static"

    def to_dict(self) -> dict[str, Json]:
        """Plain JSON types; see :meth:`from_dict`."""
        sides = {"activation": self.activation, "weight": self.weight, "rows": self.rows}
        if self.rows is None:
            del sides["rows"]
        return {name: None if side is None else side.to_dict() for name, side in sides.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Json]) -> QConfig:
        """The configuration that :meth:`to_dict` wrote; ConfigError if it is none."""
        names = ("activation", "weight", "rows")
        if set(data) - set(names):
            raise ConfigError(f"not a QConfig: {dict(data)}")
        sides: list[QuantSpec | None] = []
        for name in names:
            side = data.get(name)
            if side is not None and not isinstance(side, Mapping):
                raise ConfigError(f"not a QConfig: {name} is {side!r}")
            sides.append(None if side is None else QuantSpec.from_dict(side))
        return cls(*sides)


def _default_observer(per_channel: bool) -> str:
    return "per_channel_minmax" if per_channel else "minmax"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
