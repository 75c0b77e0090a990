"""A compiled model: called like the model that it was made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from qfx.engines.admission import Guards, UnknownArgument, asks_numbers, key_of
from qfx.engines.choose import EngineChoice
from qfx.engines.report import CompilationReport
from qfx.engines.request import CompileRequest
from qfx.engines.source import Source
from qfx.engines.trials import EngineTrial, trial_table
from qfx.errors import BackendError, ConfigError, FormatError, warn
from qfx.graph.in_place import hand_on_place
from qfx.graph.overlap import overwrite
from qfx.graph.steps import arguments_by_name
from qfx.graph.ways import ways_of
from qfx.runtime.dtypes import probe_conversion
from qfx.torch_private import pytree

_MOST_KEYS = 4096


class CompiledModel(nn.Module):
    """Runs a model on the engine that was chosen for it.

    Arguments and results are the model's; calls from many threads at once are right, and run at
    once. Where the engine can't run a call - sizes that it has no program for, or an error of its
    own - eager does, and ``report.eager`` says so. It is for inference: no gradient passes
    through it.

    Attributes:
        engine: name of the engine in use.
        trials: a row for each engine that was asked for.
        report: which pieces it runs, and what is outside of them and why.
        source, choice, request: what was compiled, what was made of it, and what was asked for.
    """

    engine: str
    source: Source
    choice: EngineChoice
    request: CompileRequest
    trials: tuple[EngineTrial, ...]
    report: CompilationReport
    _eager: Callable[..., Any]
    _forward: Callable[..., Any]

    def __init__(self, source: Source, choice: EngineChoice, request: CompileRequest) -> None:
        super().__init__()
        self.engine = choice.engine
        self.trials = choice.trials
        self.report = CompilationReport(choice.engine, choice.assembly)
        self.source, self.choice, self.request = source, choice, request
        own = {"_eager": source.eager, "_forward": choice.assembly.forward}
        self.__dict__.update(own)  # modules, but none of this one's
        self._plain = choice.assembly.is_plain
        self._writes = not self._plain and source.writes_inputs
        self._guards = Guards(source.reference)
        self._lock = threading.Lock()
        key = key_of(source.args, source.kwargs)
        self._routes: dict[Any, Callable[..., Any]] = {key: self._forward}
        self.training = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Raises:
            ConfigError: inputs that the model was not captured for, or of other sizes than those
                of the examples where it was compiled with ``dynamic=False``.
        """
        ways = ways_of(self)
        if ways is None:
            return self.alone(*args, **kwargs)
        return ways.answer((self.alone, *(each.alone for each in ways.others)), args, kwargs)

    def alone(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph, whatever other graphs of the same module there are."""
        try:
            key = key_of(args, kwargs)
            route = self._routes.get(key)
        except (UnknownArgument, TypeError):
            key, route = None, self._eager  # nothing is known of an argument
        if route is None:
            return self._first(key, args, kwargs)
        if torch.is_grad_enabled() and not (self._plain and route is self._forward):
            with torch.no_grad():
                return self._run(route, key, args, kwargs)
        return self._run(route, key, args, kwargs)

    def _run(
        self,
        route: Callable[..., Any],
        key: object,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if route is self._eager:
            return route(*args, **kwargs)
        before = _tensors(args, kwargs, copied=True) if self._writes else []
        try:
            return route(*args, **kwargs)
        except Exception as error:  # whatever an engine raises
            for tensor, value in zip(_tensors(args, kwargs), before, strict=False):
                overwrite(tensor, value)  # eager begins anew with what was given
            return self._without(key, args, kwargs, error)

    def _first(self, key: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call of a kind that was not seen before."""
        if not self.request.dynamic and not self._is_as_examples(args, kwargs):
            raise ConfigError(
                "compiled with dynamic=False, for "
                f"{_shapes(self.source.args, self.source.kwargs)} alone, and called with "
                f"{_shapes(args, kwargs)}. Compile with dynamic=True, or with these as "
                "example_inputs"
            )
        try:
            self._guards.check(args, kwargs)
        except ConfigError:
            raise
        except Exception as error:  # whatever guards raise, or TypeError of wrong arguments
            if not asks_numbers(error) or self.engine != "eager":
                return self._without(key, args, kwargs, error, keep=asks_numbers(error))
            self._routes[key] = self._eager  # which asks itself, in every call
            return self.alone(*args, **kwargs)
        with self._lock:
            if len(self._routes) > _MOST_KEYS:
                self._routes.clear()
            self._routes[key] = self._forward
        return self.alone(*args, **kwargs)

    def _is_as_examples(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the arguments are like the examples, by position or by name."""
        try:
            given = arguments_by_name(self.source.reference.graph, args, kwargs)
            return key_of((given,), {}) == key_of((dict(self.source.arguments),), {})
        except (UnknownArgument, TypeError):
            return False

    @torch.no_grad()
    def _without(
        self,
        key: object,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        error: Exception,
        *,
        keep: bool = True,
    ) -> Any:
        """What eager makes of a call that the engine failed on; its own error, if it raises."""
        made = self._eager(*args, **kwargs)
        if keep:
            self._routes[key] = self._eager
        text = f"{_shapes(args, kwargs)}: {str(error).partition(chr(10))[0]}"
        if self.report.note(text):
            warn(f"{self.engine} can't run {text}. Such calls run in eager")
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model: what a call of it does."""
        return self(*args, **kwargs)

    def __str__(self) -> str:
        return trial_table(self.trials, self.engine)

    def __repr__(self) -> str:
        return f"CompiledModel({self.engine}, of {type(self.source.model).__name__})"

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        """A copy; what was built is shared, since nothing changes it."""
        result = CompiledModel(self.source, self.choice, self.request)
        memo[id(self)] = result
        hand_on_place(self, result, memo)
        return result

    def __copy__(self) -> CompiledModel:
        return self.__deepcopy__({})

    def __reduce__(self) -> NoReturn:
        raise FormatError(
            "a compiled model can't be pickled (torch.save pickles). Use qfx.save and qfx.load"
        )

    def train(self, mode: bool = True) -> CompiledModel:
        """Refuse training; ``eval()`` changes nothing."""
        if mode:
            raise ConfigError(
                "a compiled model has nothing to train. Prepare the float model with method='qat'"
            )
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        made = probe_conversion(fn)
        if made is not None and made.device.type == "cpu" and made.dtype == torch.float32:
            return self
        where = "another device" if made is None else f"{made.device} ({made.dtype})"
        raise BackendError(
            f"a compiled model runs on the CPU in the dtypes that it was compiled with, and can't "
            f"be moved to {where}. Move or convert the float model, then quantize and compile it."
        )


def _tensors(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], *, copied: bool = False
) -> list[Tensor]:
    """The tensors among arguments, in order."""
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return [each.detach().clone() for each in found] if copied else found


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Arguments, tensors as dtype and shape."""
    named = [_shape(value) for value in args]
    named += [f"{name}={_shape(value)}" for name, value in kwargs.items()]
    return f"({', '.join(named)})"


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_shape, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_shape(v)}' for k, v in value.items())}}}"
    return repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__
