"""Every error and warning that qfx raises. A message says what was wrong, where, and what to do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx


class QfxError(Exception):
    """Base of all errors of qfx.

    Attributes:
        pass_name: the pass that was at work, if one was.
        rule: its rewrite rule that was at work, if one was.
        node: the name of the node at fault or at work, if known.
    """

    pass_name: str | None = None
    rule: str | None = None
    node: str | None = None

    def raised_in(self, step: str, pass_name: str, rule: str | None, node: str | None) -> None:
        """Say which pass was at work, in the message as well: notes need Python 3.11.

        Args:
            step: the pass with its options.
            pass_name: its name.
            rule: its rewrite rule, if one was at work.
            node: what that worked on.
        """
        at = f", rule {rule} at %{node}" if rule else ""
        self.args = (f"{self}\nRaised while running pass {step}{at}.", *self.args[1:])
        if self.pass_name is None:  # a pass may run passes: the innermost counts
            self.pass_name, self.rule, self.node = pass_name, rule, self.node or node


class CaptureError(QfxError):
    """The model could not be traced into a graph.

    Attributes:
        by_weights: whether that may be due to the values of its weights.
    """

    by_weights = True


class ConfigError(QfxError, ValueError):
    """An argument, option or configuration is wrong or contradicts another."""

    def __init__(self, *args: object, pass_name: str | None = None) -> None:
        super().__init__(*args)
        if pass_name is not None:
            self.pass_name = pass_name


class PatternError(QfxError):
    """A pattern or rewrite rule is malformed, or does not terminate."""

    def __init__(self, message: str, *, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


class VerifyError(QfxError):
    """A graph breaks an invariant of fx or of the level it claims to be at."""

    def __init__(self, message: str, *, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


class PassError(QfxError):
    """A pass raised, or left a graph that does not verify.

    Attributes:
        graph_module: the graph of the last valid stage; pickling leaves it out.
    """

    pass_name: str

    def __init__(
        self,
        message: str,
        *,
        pass_name: str,
        rule: str | None = None,
        node: str | None = None,
        graph_module: fx.GraphModule | None = None,
    ) -> None:
        super().__init__(message)
        self.pass_name = pass_name
        self.rule = rule
        self.node = node
        self.graph_module = graph_module

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(type(self), pass_name=self.pass_name, rule=self.rule, node=self.node)
        return make, self.args


class RuleError(PassError, PatternError):
    """A rewrite rule failed as one that is malformed, or that does not terminate."""


class CalibrationError(QfxError):
    """Calibration data is missing, empty, or holds values no scale can be derived from."""


class CoverageError(QfxError):
    """Less of the model was quantized than asked for, or nothing at all."""


class BackendError(QfxError):
    """A backend is unknown, unavailable on this machine, or cannot do what was asked."""


class FormatError(QfxError):
    """A file is not a qfx model, is damaged, or was made by an incompatible version."""


class ExportError(QfxError):
    """A format can't say what a model computes.

    Attributes:
        problems: one for each site, with ``node``, ``module_path``, ``source``, ``message`` and
            ``remedy``.
    """

    def __init__(self, message: str, problems: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class QfxWarning(UserWarning):
    """Something the user asked for had no effect, or only in part."""


_BETWEEN = ("qfx", "qfx_passes", "tqdm", "torch", "contextlib")  # the last decorates


def warn(message: str) -> None:
    """Issue a :class:`QfxWarning` that points at the user's line, however deep the call."""
    frame: FrameType | None = sys._getframe(1)
    depth = 2
    while frame is not None and _package(frame) in _BETWEEN:
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, QfxWarning, stacklevel=depth)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
