"""What qfx.compile was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Request:
    """How a model is to be compiled.

    Attributes:
        engines: names of those to choose from; None: all that build in seconds ("auto").
        threads: that an engine may use for a call; None: as many as PyTorch uses.
        dynamic: whether every size that the model takes is to work.
    """

    engines: tuple[str, ...] | None = None
    threads: int | None = None
    dynamic: bool = True

    @property
    def count(self) -> int:
        """The number of threads."""
        return torch.get_num_threads() if self.threads is None else self.threads
