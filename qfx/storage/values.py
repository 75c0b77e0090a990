"""Arguments and other plain values as JSON, each with its type.

None, flags, integers, finite floats and texts are themselves, and an array is a tuple. Anything
else is an object of one key that says what it is: ``{"list": [...]}``, ``{"dtype": "float32"}``,
``{"node": "conv1"}``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from qfx.errors import FormatError
from qfx.graph.modes import ModeFlag
from qfx.quant.qparams import QParams
from qfx.quant.spec import QuantSpec
from qfx.storage import limits
from qfx.storage.fields import Json, as_mapping

DTYPE_NAMES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}
_LAYOUTS = {
    "strided": torch.strided,
    "sparse_coo": torch.sparse_coo,
    "sparse_csr": torch.sparse_csr,
}
_FORMATS = {
    "contiguous": torch.contiguous_format,
    "preserve": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")

KeepTensor: TypeAlias = Callable[[Tensor], str]
FindTensor: TypeAlias = Callable[[str], Tensor]


@dataclass(frozen=True)
class Ref:
    """A node, by name, before there is one."""

    name: str


# -- writing -------------------------------------------------------------------------------------
def write_value(value: object, keep: KeepTensor | None = None) -> Json:
    """A value as JSON.

    Args:
        value: what nodes have as arguments.
        keep: takes a tensor to write it elsewhere, and gives its name.

    Raises:
        FormatError: a file has no way to say it.
    """
    if value is None or type(value) in (bool, int, str):
        return _checked(value)  # type: ignore[no-any-return]
    if isinstance(value, ModeFlag):
        return {"training": False}
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, torch.Size):
        return {"size": [int(n) for n in value]}
    if type(value) is tuple:
        return [write_value(item, keep) for item in value]
    if isinstance(value, list):
        return {"list": [write_value(item, keep) for item in value]}
    if isinstance(value, dict) and type(value) in (dict, fx.immutable_collections.immutable_dict):
        return {"dict": [[write_value(k), write_value(v, keep)] for k, v in value.items()]}
    return _write_object(value, keep)


def _checked(value: object) -> Any:
    if type(value) is int and not limits.INTEGERS[0] <= value <= limits.INTEGERS[1]:
        raise FormatError(f"an integer of more than 64 bits can't be written: {str(value)[:40]}")
    return value


def _write_object(value: object, keep: KeepTensor | None) -> Json:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, slice):
        return {"slice": [write_value(end) for end in (value.start, value.stop, value.step)]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, complex):
        return {"complex": [write_value(value.real), write_value(value.imag)]}
    for name, table in (("layout", _LAYOUTS), ("memory_format", _FORMATS)):
        known = [word for word, each in table.items() if each is value]
        if known:
            return {name: known[0]}
    if isinstance(value, QuantSpec):
        return {"spec": value.to_dict()}
    if isinstance(value, QParams):
        return {"qparams": _write_qparams(value, keep)}
    if isinstance(value, Tensor) and keep is not None:
        return {"tensor": keep(value)}
    kind = type(value)
    raise FormatError(f"a file has no way to write a {kind.__module__}.{kind.__qualname__}")


def _write_qparams(value: QParams, keep: KeepTensor | None) -> Json:
    parts = (value.scale, value.zero_point, value.dtype, value.quant_min, value.quant_max)
    return [write_value(part, keep) for part in (*parts, value.axis, value.group_size)]


# -- reading -------------------------------------------------------------------------------------
class ValueReader:
    """Reads values, and checks each.

    Args:
        find: gives the tensor of a name; None where tensors may not stand.
        node: whether a node of that name may be read; None where nodes may not stand.
    """

    def __init__(
        self, find: FindTensor | None = None, node: Callable[[str], bool] | None = None
    ) -> None:
        self._find = find
        self._node = node
        self._readers: dict[str, Callable[[Any, str, int], Any]] = {
            "list": self._list,
            "dict": self._dict,
            "node": self._ref,
            "slice": self._slice,
            "size": lambda v, at, d: torch.Size(_integers(v, at)),
            "range": self._range,
            "ellipsis": lambda v, at, d: Ellipsis,
            "float": lambda v, at, d: _word(v, _SPECIAL, at),
            "complex": self._complex,
            "dtype": lambda v, at, d: _word(v, DTYPE_NAMES, at),
            "layout": lambda v, at, d: _word(v, _LAYOUTS, at),
            "memory_format": lambda v, at, d: _word(v, _FORMATS, at),
            "device": lambda v, at, d: _device(v, at),
            "training": lambda v, at, d: ModeFlag(_no_longer_traced),
            "tensor": self._tensor,
            "qparams": self._qparams,
            "spec": lambda v, at, d: read_spec(v, at),
        }

    def read(self, value: Any, place: str, depth: int = 0) -> Any:
        """The value that JSON stands for; nodes come as :class:`Ref`."""
        kind = type(value)
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            return _integer(value, place)
        if depth >= limits.DEPTH:
            raise FormatError(f"{place} is nested more than {limits.DEPTH} deep")
        if kind is list:
            return tuple([self.read(item, place, depth + 1) for item in value])
        if len(value) != 1:
            raise FormatError(f"{place} holds an object that says not what it is")
        ((name, inner),) = value.items()
        reader = self._readers.get(name)
        if reader is None:
            raise FormatError(f"{place} holds a {name[:40]!r}, which this version does not know")
        return reader(inner, place, depth + 1)

    def _items(self, value: object, place: str, depth: int) -> list[Any]:
        return [self.read(item, place, depth) for item in _array(value, place)]

    def _list(self, value: object, place: str, depth: int) -> list[Any]:
        return self._items(value, place, depth)

    def _dict(self, value: object, place: str, depth: int) -> dict[Any, Any]:
        pairs = [self.read(pair, place, depth) for pair in _array(value, place)]
        for pair in pairs:
            if type(pair) is not tuple or len(pair) != 2 or not isinstance(pair[0], _KEYS):
                raise FormatError(f"{place} holds a dict whose entries are no pairs")
        return dict(pairs)

    def _ref(self, value: object, place: str, depth: int) -> Ref:
        if self._node is None or type(value) is not str or not self._node(value):
            raise FormatError(f"{place} reads {str(value)[:80]!r}, which no earlier node is called")
        return Ref(value)

    def _slice(self, value: object, place: str, depth: int) -> slice:
        ends = self._items(value, place, depth)
        if len(ends) != 3:
            raise FormatError(f"{place} holds a slice of {len(ends)} numbers")
        return slice(*ends)

    def _range(self, value: object, place: str, depth: int) -> range:
        numbers = _integers(value, place)
        if len(numbers) != 3 or not numbers[2]:
            raise FormatError(f"{place} holds no range")
        return range(*numbers)

    def _complex(self, value: object, place: str, depth: int) -> complex:
        parts = self._items(value, place, depth)
        if len(parts) != 2 or not all(type(part) in (int, float) for part in parts):
            raise FormatError(f"{place} holds no complex number")
        return complex(*parts)

    def _tensor(self, value: object, place: str, depth: int) -> Tensor:
        if self._find is None or type(value) is not str:
            raise FormatError(f"{place} holds a tensor where none may stand")
        return self._find(value)

    def _qparams(self, value: object, place: str, depth: int) -> QParams:
        parts = self._items(value, place, depth)
        if len(parts) != 7:
            raise FormatError(f"{place} holds no qparams")
        try:
            return QParams(*parts)
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise FormatError(f"{place}: {error}") from None


_KEYS = (str, int, float, bool, type(None))


def read_spec(value: object, place: str) -> QuantSpec:
    """What ``QuantSpec.to_dict`` wrote."""
    said = as_mapping(value, place)
    _word(said.get("dtype"), DTYPE_NAMES, place)
    _check_options(said.get("observer"), place)
    try:
        return QuantSpec.from_dict(said)
    except FormatError:
        raise
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        raise FormatError(f"{place}: {error}") from None


def _check_options(observer: object, place: str) -> None:
    """FormatError for options that would take memory of their own."""
    options = observer.get("options") if isinstance(observer, dict) else None
    values = options.values() if isinstance(options, dict) else ()
    if any(type(value) is int and abs(value) > limits.OPTION for value in values):
        raise FormatError(f"{place}: an option of an observer is beyond {limits.OPTION}")


def _no_longer_traced() -> None:
    """What a training flag tells while it is traced: nobody asks any more."""


def _integer(value: int, place: str) -> int:
    if not limits.INTEGERS[0] <= value <= limits.INTEGERS[1]:
        raise FormatError(f"{place} holds an integer of more than 64 bits")
    return value


def _array(value: object, place: str) -> list[Any]:
    if type(value) is not list:
        raise FormatError(f"{place} holds something else where a list should stand")
    return value


def _integers(value: object, place: str) -> list[int]:
    values = _array(value, place)
    if not all(type(each) is int for each in values):
        raise FormatError(f"{place} holds something else where integers should stand")
    return [_integer(each, place) for each in values]


def _word(value: object, known: dict[str, Any], place: str) -> Any:
    if type(value) is not str or value not in known:
        raise FormatError(f"{place} holds {str(value)[:40]!r}, which is none of the known words")
    return known[value]


_INDEX = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)


def _device(value: Any, place: str) -> torch.device:
    kind, _, index = value.partition(":") if type(value) is str else ("", "", "")
    if kind not in _DEVICES or not (index == "" or _INDEX.fullmatch(index)):
        raise FormatError(f"{place} names no device: {str(value)[:40]!r}")
    return torch.device(value)
