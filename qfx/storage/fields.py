"""JSON, strictly: what is read has the type that is asked for, or the file is refused.

:class:`Fields` reads an object by its keys and says where in the file something is amiss. A key
that nobody asked for is refused, too, unless the file says that a newer version wrote it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar, get_args

from qfx.errors import FormatError
from qfx.storage import limits

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
T = TypeVar("T")


def render_json(value: object) -> bytes:
    """Compact and deterministic JSON."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii")


def parse_json(text: bytes, place: str) -> object:
    """What a text says.

    Raises:
        FormatError: it is no JSON, repeats a key, is nested too deeply, or holds an endless number.
    """
    decoder = _QUICK if sys.get_int_max_str_digits() else _CAREFUL
    try:
        return decoder.decode(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{place} is no JSON as qfx writes it: {error}") from None


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number without end")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object has a key twice")
    return made


def _integer(text: str) -> int:
    if len(text) > limits.DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


_QUICK = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite)
"""Where Python itself refuses integers of thousands of digits; readers have bounds of their own."""

_CAREFUL = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_constant=_constant,
    parse_float=_finite,
    parse_int=_integer,
)


ABSENT: Any = object()
"""Stands for what is not there, where null may be."""

_WORDS: Mapping[type, str] = {
    str: "text",
    bool: "true or false",
    int: "an integer",
    list: "a list",
    dict: "an object",
}
"""What is said of what should stand somewhere."""


class _Column(NamedTuple):
    name: str
    default: object
    kinds: tuple[type, ...]


class Columns:
    """What stands under the keys of objects that a file has thousands of.

    Args:
        besides: keys that somebody else reads.
        columns: by key the type of what must be there, or such a type ``| None``; what stands for
            it where it is absent, and is of its type; or ``object``, of whatever is there.
    """

    def __init__(self, *besides: str, **columns: object) -> None:
        self.names = frozenset((*besides, *columns))
        self.columns = tuple(_column(name, said) for name, said in columns.items())


def _column(name: str, said: object) -> _Column:
    if said is object:
        return _Column(name, ABSENT, ())
    if isinstance(said, UnionType):
        return _Column(name, None, get_args(said))
    if isinstance(said, type):
        return _Column(name, None, (said,))
    return _Column(name, said, (type(said),))


class Fields:
    """An object of a file.

    Args:
        value: what was read.
        place: where it stands, for messages.
        lenient: keep quiet about keys that nobody asked for.
    """

    def __init__(self, value: object, place: str, *, lenient: bool = False) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{place} is {_kind(value)} where an object should stand")
        self.place = place
        self._values: dict[str, Any] = value
        self._read: set[str] = set()
        self._lenient = lenient

    def names(self) -> list[str]:
        """All keys."""
        return list(self._values)

    def has(self, name: str) -> bool:
        """Whether the key is there, and is not null."""
        return self._values.get(name) is not None

    def lacks(self, names: frozenset[str]) -> bool:
        """Whether none of those keys is there."""
        return names.isdisjoint(self._values)

    def any(self, name: str) -> object:
        """Whatever stands there; None if nothing does."""
        self._read.add(name)
        return self._values.get(name)

    def columns(self, wanted: Columns) -> list[Any]:
        """What stands under each key of ``wanted``; FormatError for any other key."""
        if not wanted.names.issuperset(self._values):
            self._read |= wanted.names
            self.close()
        return self.some(wanted)

    def some(self, wanted: Columns) -> list[Any]:
        """What stands under each key of ``wanted``, among others."""
        found = []
        for name, default, kinds in wanted.columns:
            value = self._values.get(name, default)
            if kinds and type(value) not in kinds:
                value = self._of(kinds[0], name, default)  # null, or refused
            found.append(value)
        return found

    def text(self, name: str, default: str | None = None) -> str:
        return self._of(str, name, default)

    def flag(self, name: str, default: bool | None = None) -> bool:
        return self._of(bool, name, default)

    def integer(
        self, name: str, low: int = 0, high: int = limits.INTEGERS[1], default: int | None = None
    ) -> int:
        """An integer within bounds, inclusive."""
        value = self._of(int, name, default)
        if not low <= value <= high:
            self.refuse(name, f"{value} is not within {low} and {high}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number, or the text inf, -inf or nan."""
        value = self.any(name)
        if value is None and default is not None:
            return default
        if value in ("inf", "-inf", "nan"):
            return float(str(value))
        if type(value) is float or (type(value) is int and abs(value) <= limits.INTEGERS[1]):
            return float(value)
        self.refuse(name, f"is {_kind(value)} where a number should stand")

    def choice(self, name: str, known: Iterable[str], default: str | None = None) -> str:
        """One of some words."""
        return self.chosen(name, self.text(name, default), known)

    def chosen(self, name: str, value: str, known: Iterable[str]) -> str:
        """A text that stands under a key, which is one of some words."""
        if value not in known:
            self.refuse(name, f"{value[:80]!r} is none of {', '.join(sorted(known))[:400]}")
        return value

    def record(self, name: str) -> Fields:
        """An object."""
        return Fields(self.any(name), f"{self.place}.{name}", lenient=self._lenient)

    def items(self, name: str, most: int = limits.NODES) -> list[Any]:
        """A list; an absent one is empty."""
        value = self.any(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse(name, f"is {_kind(value)} where a list should stand")
        if len(value) > most:
            self.refuse(name, f"has {len(value)} entries; {most} are taken")
        return value

    def records(self, name: str, most: int = limits.NODES) -> list[Fields]:
        """A list of objects."""
        items = enumerate(self.items(name, most))
        return [Fields(v, f"{self.place}.{name}[{i}]", lenient=self._lenient) for i, v in items]

    def texts(self, name: str, most: int = limits.NODES) -> tuple[str, ...]:
        """A list of texts."""
        values = self.items(name, most)
        if not all(isinstance(value, str) for value in values):
            self.refuse(name, "is no list of texts")
        return tuple(values)

    def integers(self, name: str, low: int, high: int) -> list[int]:
        """A list of integers within bounds."""
        values = self.items(name)
        if not all(type(value) is int and low <= value <= high for value in values):
            self.refuse(name, f"is no list of integers from {low} to {high}")
        return values

    def sizes(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor."""
        return sizes(self.items(name), f"{self.place}.{name}")

    def close(self) -> None:
        """FormatError for a key that nobody asked for."""
        unknown = () if self._lenient else self._values.keys() - self._read
        if unknown:
            raise FormatError(
                f"{self.place} has a field {min(unknown)[:80]!r}, which means nothing"
            )

    def refuse(self, name: str, what: str) -> NoReturn:
        """Raise a FormatError about a key."""
        raise FormatError(f"{self.place}.{name}: {what}")

    def made(self, make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What ``make`` makes of what was read; a FormatError if it refuses."""
        try:
            return make(*args, **kwargs)
        except FormatError:
            raise
        except (ValueError, TypeError, RuntimeError, KeyError, ArithmeticError) as error:
            raise FormatError(f"{self.place}: {error}") from error

    def _of(self, kind: type[T], name: str, default: T | None) -> T:
        value = self.any(name)
        if value is None and default is not None:
            return default
        if type(value) is not kind:
            self.refuse(name, f"is {_kind(value)} where {_WORDS[kind]} should stand")
        return value


def sizes(values: list[Any], place: str) -> tuple[int, ...]:
    """Checked sizes of a tensor."""
    count = 1 if len(values) <= limits.DIMS else limits.NUMEL + 1
    for value in values:
        if type(value) is not int or value < 0 or count > limits.NUMEL:
            raise FormatError(f"{place} is no shape of a tensor")
        count *= value or 1
    if count > limits.NUMEL:
        raise FormatError(f"{place} is no shape of a tensor")
    return tuple(values)


def as_mapping(value: object, place: str) -> Mapping[str, Json]:
    """An object as it is, for readers of their own."""
    if not isinstance(value, dict):
        raise FormatError(f"{place} is {_kind(value)} where an object should stand")
    return value


def number(value: float) -> Json:
    """A float as JSON has it, or as text where JSON has none."""
    return value if math.isfinite(value) else str(value)


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "nothing"}
    return kinds.get(type(value), repr(value)[:40])
