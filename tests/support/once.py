"""What many tests ask for is made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def once(make: Callable[P, R]) -> Callable[P, R]:
    """``functools.cache``, of an exception, too: else each test would wait for it again."""

    @functools.cache
    def outcome(*args: P.args, **kwargs: P.kwargs) -> R | Exception:
        try:
            return make(*args, **kwargs)
        except Exception as error:
            return error

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        found = outcome(*args, **kwargs)
        if isinstance(found, Exception):
            raise found
        return found

    return made
