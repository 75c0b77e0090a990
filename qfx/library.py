"""Operations of the namespace ``qfx``: what torch.compile must take as one call, not look into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("qfx", "FRAGMENT")  # type: ignore[no-untyped-call]


def define(
    schema: str, kernel: Callable[..., object], fake: Callable[..., object], returns: str = "Tensor"
) -> Callable[..., Any]:
    """Define ``qfx::<schema>``; the function that calls it."""
    name = schema[: schema.index("(")]
    _library.define(f"{schema} -> {returns}")  # type: ignore[no-untyped-call]
    _library.impl(name, kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"qfx::{name}", fake, lib=_library)
    operation: Callable[..., Any] = getattr(torch.ops.qfx, name).default
    return operation
