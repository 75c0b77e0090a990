"""Several graphs of one module: it is called in several ways, and a graph holds one way through it.

Which graph takes a call, its guards say. Calls of the same form (ranks and dtypes of tensors, None,
flags) go first to the graph that took one of them. What no graph takes, the module itself computes,
as it is written: that is what ``inside`` is for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from torch import Tensor, nn

from qfx.errors import ConfigError, QfxError

CallForm: TypeAlias = Hashable
Graph = TypeVar("Graph", bound=nn.Module)

WAYS = "_ways"
"""Key of ``vars(graph_module)``: the ways of the module in whose place it is."""

MOST_WAYS = 4
"""Graphs of one module."""

_MOST_FORMS = 256
_NUMBER = "#"


def way_name(region: str, at: int) -> str:
    """The name of a graph of a region: the first has that of the region."""
    return f"{region}{_NUMBER}{at + 1}" if at else region


def region_of(name: str) -> str:
    """The region that a graph of this name is one of."""
    return name.partition(_NUMBER)[0]


def form_of(args: Sequence[object], kwargs: Mapping[str, object]) -> CallForm:
    """What tells calls apart that guards tell apart: ranks, dtypes, None, flags, structure."""
    return (*map(_form, args), *((name, _form(kwargs[name])) for name in sorted(kwargs)))


def _form(value: object) -> CallForm:
    if isinstance(value, Tensor):
        return value.dim(), value.dtype
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (tuple, list)):
        return (type(value), *map(_form, value))
    if isinstance(value, dict):
        return (dict, *((key, _form(item)) for key, item in value.items()))
    return cast(Hashable, type(value))


class Ways(Generic[Graph]):
    """How the calls of one module are answered.

    Attributes:
        others: its graphs, beside the one that holds this.
        forms: which graph took calls of a form; 0 is the one that holds this.
        inside: the module as it is written, for calls that no graph takes; None if nothing may.
        outdated: the attribute that was set since the graphs were made; "" if none was.
        fallen: how many calls ``inside`` has answered.
        why: what the first graph said to the last of them.
    """

    def __init__(
        self,
        others: Sequence[Graph] = (),
        forms: Mapping[CallForm, int] | None = None,
        inside: nn.Module | None = None,
    ) -> None:
        self.others = tuple(others)
        self.forms = dict(forms or {})
        self.inside = inside
        self.outdated = ""
        self.fallen = 0
        self.why = ""

    def answer(
        self,
        calls: Sequence[Callable[..., Any]],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """What the first graph yields that takes a call, or the module.

        Args:
            calls: run the graphs, in order.
            args: the arguments.
            kwargs: those by keyword.

        Raises:
            Exception: what the first graph says, if none takes it and nothing else may.
        """
        told: Exception | None = None
        form = form_of(args, kwargs) if self.others else None
        for at in () if self.outdated else self._order(form):
            try:
                found = calls[at](*args, **kwargs)
            except Exception as error:  # a guard's, or whatever its operations raise before one
                if _is_final(error):
                    raise
                told = told or error
                continue
            if self.others and len(self.forms) < _MOST_FORMS:
                self.forms[form] = at
            return found
        return self.fall(told, args, kwargs)

    def fall(self, told: Exception | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the module itself yields, where no graph takes a call.

        Args:
            told: what the first graph said; None if none was asked.
            args: the arguments.
            kwargs: those by keyword.

        Raises:
            Exception: ``told``, if nothing may answer.
        """
        if told is not None and (self.inside is None or _is_final(told)):
            raise told
        assert self.inside is not None
        self.fallen += 1
        self.why = f"{self.outdated!r} was set" if told is None else str(told).partition("\n")[0]
        return self.inside(*args, **kwargs)

    def _order(self, form: CallForm) -> Sequence[int]:
        """The graphs, most likely first."""
        first = self.forms.get(form, 0)
        return (first, *(at for at in range(len(self.others) + 1) if at != first))


def instead(
    ways: Ways[Any] | None, told: Exception, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """What the module yields in whose place a graph is that raised ``told``; else that is raised.

    Args:
        ways: of the module; None if there is none.
        told: what the graph raised.
        args: the arguments.
        kwargs: those by keyword.
    """
    if ways is None:
        raise told
    return ways.fall(told, args, kwargs)


def _is_final(error: Exception) -> bool:
    """Whether nothing else may answer."""
    return isinstance(error, QfxError) and not isinstance(error, ConfigError)


def ways_of(graph_module: nn.Module) -> Ways[Any] | None:
    """The ways of the module in whose place ``graph_module`` is, if that is known."""
    found: Ways[Any] | None = vars(graph_module).get(WAYS)
    return found


def apply_to_ways(graph_module: nn.Module, convert: Callable[[Tensor], Tensor]) -> None:
    """Convert the tensors of the other graphs of a module, and those of the module itself."""
    ways = ways_of(graph_module)
    for each in () if ways is None else (*ways.others, ways.inside):
        if each is not None:
            each._apply(convert)
