"""Passes in a file, as text: those of qfx, and those that a backend brings. No others are run."""

from __future__ import annotations

from collections.abc import Sequence

from qfx.backends.base import Backend
from qfx.errors import ConfigError, FormatError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.registry import builtin_pass, is_builtin, parse_pass

_MOST = 10_000
"""Characters of a pass."""

_FLAT = "flatten-constants"


def write_passes(passes: Sequence[Pass], backend: Backend) -> list[str]:
    """The text of each pass.

    Raises:
        FormatError: one is neither qfx's nor the backend's.
    """
    for step in passes:
        if step in backend.passes or is_builtin(step.name):
            continue
        raise FormatError(
            f"pass {step} is still to run on this model or lowers it, and a file can't name it: a "
            "file names passes of qfx, and those of the backend. Let it run before what is saved, "
            "or make it one of the passes of a qfx.Backend"
        )
    return [str(step) for step in passes]


def read_passes(texts: Sequence[str], backend: Backend, made_for: str) -> tuple[Pass, ...]:
    """The passes of those texts; those that another backend brought are left out."""
    own = {str(step): step for step in backend.passes}
    found = []
    for text in texts:
        if text in own:
            found.append(own[text])
        elif len(text) <= _MOST and is_builtin(text.partition("{")[0]):
            found.append(_parsed(text))
        elif backend.name == made_for:
            raise FormatError(f"the model names a pass {text[:80]!r}, which is unknown here")
    return tuple(found)


def read_lowering(texts: Sequence[str], backend: Backend, made_for: str) -> tuple[Pass, ...]:
    """The passes of those texts, which all work on the reference form or on kernels."""
    passes = with_flat_constants(read_passes(texts, backend, made_for), Level.REFERENCE)
    for step in passes:
        if not _works_on_kernels(step):
            raise FormatError(f"pass {step} does not lower models, and a file would have it do so")
    return passes


def with_flat_constants(passes: tuple[Pass, ...], start: Level) -> tuple[Pass, ...]:
    """``passes`` from ``start`` on, which end with ``flatten-constants`` if they quantize.

    Files that were written before there was this pass do not name it.
    """
    end = max((start, *(step.produces for step in passes if step.produces is not None)))
    known = any(step.name == _FLAT for step in passes)
    return passes if known or end < Level.REFERENCE else (*passes, builtin_pass(_FLAT)())


def _works_on_kernels(step: Pass) -> bool:
    """Whether a pass works on the reference form, or on what that is lowered to."""
    return step.produces is Level.LOWERED or (step.requires or Level.CAPTURED) >= Level.REFERENCE


def _parsed(text: str) -> Pass:
    try:
        return parse_pass(text, builtin_pass)
    except (ConfigError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise FormatError(f"{text[:80]!r} is no pass: {error}") from None
