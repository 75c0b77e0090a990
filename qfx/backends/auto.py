"""What ``backend="auto"`` stands for, of a model and a method."""

from __future__ import annotations

from torch import nn

from qfx.backends import for_few_rows, resolve_backend
from qfx.backends.base import Backend
from qfx.capture.regions.recording import generates_with_cache

_FEW_ROWS = (
    "backend='auto' is {chosen} for this model, which generates: where this CPU computes single "
    "rows, its linear layers are faster than those of {first} (backend={first!r} chooses these)"
)


def backend_for(
    model: nn.Module, method: str, backend: object, *, whole: bool
) -> tuple[Backend, str]:
    """The backend, and a word on it where "auto" is not what it is for other models.

    A model that generates with a cache computes a row at a time, once it has read the prompt.

    Args:
        model: what is quantized.
        method: how.
        backend: what was asked for: a name, "auto" or a Backend.
        whole: whether the model is captured whole, and not only what it calls to generate.
    """
    first = resolve_backend(backend)
    if backend != "auto" or method != "dynamic" or whole or not generates_with_cache(model):
        return first, ""
    chosen = for_few_rows(model)
    return chosen, "" if chosen is first else _FEW_ROWS.format(chosen=chosen.name, first=first.name)
