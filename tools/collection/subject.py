"""What a collection holds: entries by name, and the model and the calls that one is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Call:
    """Arguments that a model is called with.

    Attributes:
        label: what is special about them, as in "batch 3" or "padded".
        args: positional.
        kwargs: by keyword.
    """

    label: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None

    def of(self, model: Callable[..., Any]) -> Any:
        """Call ``model``, without gradients."""
        with torch.no_grad():
            return model(*self.args, **(self.kwargs or {}))


@dataclass(frozen=True)
class Subject:
    """A model in eval mode and what it is called with.

    Attributes:
        model: with random weights that mute nothing.
        calls: the first is the one to capture, the others differ from it in sizes or padding.
        calibration: as ``qfx.quantize`` takes them; empty when ``calls[0]`` will do.
    """

    model: nn.Module
    calls: tuple[Call, ...]
    calibration: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A model to try: built where it is tried, so that building may fail or not end.

    Attributes:
        library: "torchvision", "timm" or "transformers".
        name: the library's.
        method: of quantization.
        build: a function of a module, of the name.
    """

    library: str
    name: str
    method: str
    build: Callable[[str], Subject]

    @property
    def key(self) -> str:
        """One word: ``timm/resnet10t/static``."""
        return f"{self.library}/{self.name}/{self.method}"


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return standard-normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
