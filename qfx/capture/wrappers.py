"""What people wrap models in, and what is in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qfx.private_attributes import compiled_from

_COMPILED = (
    "the model was under torch.compile, and is quantized without: compile the result, by "
    "qfx.compile or torch.compile"
)
_PARALLEL = "the model was in {kind}, and its .module is quantized: wrap the result if it is to be"
_EXPORTED = "the model was an ExportedProgram, and its .module() is quantized"


def unwrapped(
    model: nn.Module | torch.export.ExportedProgram,
) -> tuple[nn.Module, tuple[str, ...]]:
    """The module in wrappers that stand for it, and a note of each that was taken off."""
    notes: list[str] = []
    found: Any = model
    while True:
        inner = compiled_from(found) if isinstance(found, nn.Module) else None
        if inner is not None:
            found, note = inner, _COMPILED
        elif isinstance(found, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            found, note = found.module, _PARALLEL.format(kind=type(found).__name__)
        elif isinstance(found, torch.export.ExportedProgram):
            found, note = found.module(), _EXPORTED
        else:
            return found, tuple(notes)
        notes.append(note)
