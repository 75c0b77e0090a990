"""What a pass is: a frozen dataclass with a ``name``, whose fields are its options.

    class PlaceObservers(Pass):
        name = "place-observers"
        requires, produces = Level.STUBBED, Level.OBSERVED
        fake_quant: bool = False

        def run(self, graph, ctx): ...

    str(PlaceObservers(fake_quant=True)) == "place-observers{fake_quant=true}"

Subclassing makes the dataclass; ``@dataclass(frozen=True)`` may stand there, too.
A :class:`PatternPass` drives rules.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import ClassVar, NoReturn

from torch import fx
from typing_extensions import dataclass_transform

from qfx.errors import ConfigError
from qfx.framework import pass_text
from qfx.framework.levels import Level
from qfx.framework.option_types import check_options
from qfx.framework.pass_context import PassContext
from qfx.rewrite.call_patterns import CallPattern, Module
from qfx.rewrite.driver import drive
from qfx.rewrite.pattern import walk
from qfx.rewrite.rule import RewriteRule
from qfx.rewrite.surroundings import Analysis
from qfx.vocab import OpDef

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DECLARATIONS = ("name", "requires", "produces", "preserves", "keeps_values", "parts", "patterns")


def _check_declarations(cls: type[Pass]) -> None:
    """Fail when the class is made, not when a pipeline runs."""
    annotations = inspect.get_annotations(cls)
    for declared in _DECLARATIONS:
        if declared in annotations and "ClassVar" not in str(annotations[declared]):
            raise ConfigError(
                f"{cls.__name__}.{declared} is annotated as an option; write "
                f"`{declared} = ...` without an annotation"
            )
    name = cls.__dict__.get("name", "")
    if name and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ConfigError(
            f'{cls.__name__}.name is {name!r}; use lower-case words joined by dashes: "my-pass"'
        )
    for level in (cls.requires, cls.produces):
        if level is not None and not isinstance(level, Level):
            raise ConfigError(f"{cls.__name__} declares {level!r}, which is no qfx.Level")
    kept = cls.preserves
    if not isinstance(kept, tuple) or not all(_is_analysis(each) for each in kept):
        raise ConfigError(
            f"{cls.__name__}.preserves must be a tuple of qfx.Analysis classes, got {kept!r}"
        )
    patterns = cls.__dict__.get("patterns", ())
    if not isinstance(patterns, tuple) or not all(isinstance(r, RewriteRule) for r in patterns):
        raise ConfigError(
            f"{cls.__name__}.patterns must be a tuple of rules made with @qfx.rewrite(...), "
            f"got {patterns!r}"
        )


def _is_analysis(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Analysis)


class FrozenPassError(ConfigError, dataclasses.FrozenInstanceError):
    """The error of who tries to change a pass."""


def _let_be_decorated(cls: type[Pass]) -> None:
    """Let authors write ``@dataclass(frozen=True)`` themselves, over what is a dataclass by then.

    It refuses a class that has ``__setattr__`` of its own, and looks for fields in the class.
    """
    for name in ("__setattr__", "__delattr__"):  # those of Pass do
        delattr(cls, name)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        made = field.default_factory is not dataclasses.MISSING
        if made and field.name in inspect.get_annotations(cls):
            setattr(cls, field.name, field)


def _check_what_is_made(cls: type[Pass]) -> None:
    """Let options be checked where a pass is made."""
    init = cls.__init__
    taken = inspect.signature(init)

    @wraps(init)
    def checked(self: Pass, *args: object, **kwargs: object) -> None:
        try:
            taken.bind(self, *args, **kwargs)
        except TypeError as error:
            has = ", ".join(list(taken.parameters)[1:]) or "none"
            name = self.name or type(self).__name__
            message = f"pass {name}: {error}; its options are: {has}"
            raise ConfigError(message, pass_name=self.name or None) from None
        init(self, *args, **kwargs)
        check_options(self)

    cls.__init__ = checked  # type: ignore[assignment]


@dataclass_transform(frozen_default=True)
class Pass:
    """Base of all passes; see the module.

    Attributes:
        name: lower-case words joined by dashes, unique among installed passes.
        requires: the least level of the graph it runs on; None fits any.
        produces: the level it takes the graph to; None leaves it.
        preserves: analyses that hold after the pass as before it, whatever it changes.
        keeps_values: whether the graph computes the same after it, to rounding. Conversion holds a
            pass to it on the example inputs.
        parts: what of it can be left out, by name: ``pipeline.without(part)``. A pass that has
            parts has an option ``leave_out``, a tuple of such names.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[Level | None] = None
    produces: ClassVar[Level | None] = None
    preserves: ClassVar[tuple[type[Analysis], ...]] = ()
    keeps_values: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        _check_declarations(cls)
        dataclasses.dataclass(frozen=True, repr=False)(cls)
        _let_be_decorated(cls)
        _check_what_is_made(cls)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenPassError(
            f"a pass does not change, and {type(self).__name__} sets {name!r}. What to do: declare "
            f"the option as a field of the class, `{name}: {type(value).__name__} = {value!r}`, "
            "and write no __init__; what follows from options goes into run or a property."
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenPassError(f"a pass does not change: {name!r} can't be deleted")

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        """Transform ``graph`` in place, through ``ctx.rewriter``."""
        raise NotImplementedError(f"{type(self).__name__} defines no run(self, graph, ctx)")

    def without(self, part: str) -> Pass:
        """The same pass, that leaves out one of its ``parts``."""
        left_out: tuple[str, ...] = getattr(self, "leave_out", ())
        return dataclasses.replace(self, leave_out=(*left_out, part))  # type: ignore[type-var]

    def options(self) -> dict[str, object]:
        """The fields that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if not _is_default(field, getattr(self, field.name))
        }

    def __str__(self) -> str:
        options = ", ".join(f"{k}={pass_text.format_value(v)}" for k, v in self.options().items())
        return f"{self.name}{{{options}}}" if options else self.name

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self.options().items())
        return f"{type(self).__name__}({options})"


class PatternPass(Pass):
    """A pass that applies rules until none applies.

    Attributes:
        patterns: the rules; at one node the earlier goes first.
    """

    patterns: ClassVar[tuple[RewriteRule, ...]] = ()

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        ctx.near_misses.extend(drive(self.patterns, ctx.rewriter))


def as_pass(given: Pass | type[Pass]) -> Pass:
    """A pass from an instance, or from a class whose options all have defaults."""
    if isinstance(given, Pass):
        made = given
    elif isinstance(given, type) and issubclass(given, Pass):
        made = _instantiate(given)
    else:
        hint = f'; by name it is qfx.get_pass("{given}")' if isinstance(given, str) else ""
        raise ConfigError(f"expected a pass, got {given!r}{hint}")
    check_options(made)  # of a class that is decorated, nobody has
    if not made.name:
        raise ConfigError(f'{type(made).__name__} has no name; give it one: name = "my-pass"')
    return made


def _instantiate(kind: type[Pass]) -> Pass:
    try:
        return kind()
    except TypeError as error:
        raise ConfigError(f"pass {kind.name or kind.__name__} needs options: {error}") from error


def _is_default(field: dataclasses.Field[object], value: object) -> bool:
    default: object = field.default
    if field.default_factory is not dataclasses.MISSING:
        factory: Callable[[], object] = field.default_factory
        default = factory()
    return type(default) is type(value) and bool(default == value)


def works_as_written(step: Pass) -> bool:
    """Whether a pass works on the model as captured: before it is made of canonical operations."""
    if step.requires is not None:
        return step.requires is Level.CAPTURED
    if not isinstance(step, PatternPass):
        return False
    calls = [p for r in step.patterns for p in walk(r.pattern) if isinstance(p, CallPattern)]
    return any(isinstance(c, Module) for c in calls) or (
        bool(calls) and not any(isinstance(t, OpDef) for c in calls for t in c.targets)
    )
