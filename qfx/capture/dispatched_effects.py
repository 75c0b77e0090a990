"""What an operation does while the example inputs run through it: seen at the dispatcher.

Every function of torch, however it is made of others, ends in operations whose schemas say what
they write to, and whose tags say that they may draw random numbers. Whether they did (attention
does with dropout only) shows in the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch

from qfx.graph.effects import is_random_operation
from qfx.private_attributes import schema_of, version_of
from qfx.torch_private import DispatchMode, pytree


class DispatchedEffects(NamedTuple):
    """What an operation did besides yielding a value.

    Attributes:
        drew: whether it drew random numbers.
        wrote: whether it wrote to the memory of what it was given, or of its own parameters.
    """

    drew: bool
    wrote: bool


class Witness(DispatchMode):  # type: ignore[misc]
    """A witness of what the operation that is watched draws and writes.

    Args:
        unwatched: called when random numbers are drawn by something else.
        unwatched_read: called with the tensors that something else reads.
    """

    supports_higher_order_operators = True
    """Those of ``torch.cond`` and the like, which have no schema and whose branches run unseen."""

    def __init__(
        self,
        unwatched: Callable[[], object] = bool,
        unwatched_read: Callable[[Iterable[torch.Tensor]], object] = bool,
    ) -> None:
        super().__init__()
        self._unwatched = unwatched
        self._unwatched_read = unwatched_read
        self._watched: _Watched | None = None

    @contextmanager
    def watching(self, operands: object) -> Iterator[Callable[[], DispatchedEffects]]:
        """Watch one operation on ``operands``; yields what tells what it did."""
        outer, self._watched = self._watched, _Watched(operands)
        try:
            yield self._watched.seen
        finally:
            self._watched = outer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler to keep it away, while capture patches torch."""
        return False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Yes: torch would never again compile what is first called under this mode.

        ``torch.cond`` compiles itself, and would from then on raise wherever it is called.
        """
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[object, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if self._watched is not None:
            self._watched.see(func, args, named)
        else:
            leaves = pytree.tree_leaves((args, named))
            self._unwatched_read(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
        if schema_of(func) is not None and not is_random_operation(func):
            result = func(*args, **named)
            torch.autograd.graph.increment_version(list(_moved_statistics(func, args, named)))
            return result
        before = torch.get_rng_state()
        result = func(*args, **named)
        if not _runs_on_cpu(result, named) or not torch.equal(before, torch.get_rng_state()):
            self._drawn()
        return result

    def _drawn(self) -> None:
        if self._watched is None:
            self._unwatched()
        else:
            self._watched.drew = True


class _Watched:
    """One operation that is watched."""

    def __init__(self, operands: object) -> None:
        self.drew = self._wrote = False
        self._tensors = [t for t in pytree.tree_leaves(operands) if isinstance(t, torch.Tensor)]
        self._versions = self._counters()
        self._memory = {address for t in self._tensors for address in _address(t)}

    def see(self, func: object, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
        schema = schema_of(func)
        if self._wrote or schema is None or not schema.is_mutable:
            return
        written = pytree.tree_leaves(list(_written(func, args, kwargs)))
        addresses = (a for t in written if isinstance(t, torch.Tensor) for a in _address(t))
        self._wrote = not self._memory.isdisjoint(addresses)

    def seen(self) -> DispatchedEffects:
        """What it did; of running statistics, no schema says that they change, but counters do."""
        return DispatchedEffects(self.drew, self._wrote or self._counters() != self._versions)

    def _counters(self) -> list[int]:
        return [version_of(tensor) for tensor in self._tensors]


def _written(func: object, args: tuple[object, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    for position, argument in enumerate(schema_of(func).arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        if argument.name in kwargs:
            yield kwargs[argument.name]
        elif position < len(args):
            yield args[position]


_RATES = frozenset({"momentum", "exponential_average_factor"})
_IN_TRAINING = frozenset({"training", "train", "use_input_stats"})


def _moved_statistics(
    func: object, args: tuple[object, ...], kwargs: dict[str, Any]
) -> Iterator[torch.Tensor]:
    """The running statistics that a norm moves, which neither its schema nor torch counts."""
    moved, flag = _statistics(func)
    given: dict[int | str, Any] = dict((*enumerate(args), *kwargs.items()))
    if not moved or (flag and not any(given.get(key) for key in flag)):
        return
    yield from (t for key in moved if isinstance(t := given.get(key), torch.Tensor))


@cache
def _statistics(func: object) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
    """Positions and names of the running statistics of a norm, and of what asks to move them."""
    names = [argument.name for argument in schema_of(func).arguments]
    if "running_mean" not in names or _RATES.isdisjoint(names):
        return (), ()

    def keys(wanted: Iterable[str]) -> tuple[int | str, ...]:
        return tuple(key for n in wanted if n in names for key in (names.index(n), n))

    return keys(("running_mean", "running_var")), keys(_IN_TRAINING)


def _runs_on_cpu(result: object, kwargs: dict[str, Any]) -> bool:
    """Whether an operation can have drawn from the generator of the CPU only."""
    tensors = (leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))
    return kwargs.get("generator") is None and all(t.device.type == "cpu" for t in tensors)


def _address(tensor: torch.Tensor) -> tuple[int, ...]:
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return ()
    address = tensor.untyped_storage().data_ptr()
    return (address,) if address else ()
