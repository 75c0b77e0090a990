"""What qfx.compile was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qfx.engines.base import BuildSettings

FLOAT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""In what parts that are not in integers may be computed."""


@dataclass(frozen=True)
class CompileRequest:
    """How a model is to be compiled.

    Attributes:
        engines: names of those to choose from; None: all that build in seconds ("auto").
        threads: that an engine may use for a call; None: as many as PyTorch uses.
        dynamic: whether every size that the model takes is to work.
        float_dtype: in which float parts may be computed.
    """

    engines: tuple[str, ...] | None = None
    threads: int | None = None
    dynamic: bool = True
    float_dtype: torch.dtype = torch.float32

    @property
    def count(self) -> int:
        """The number of threads."""
        return torch.get_num_threads() if self.threads is None else self.threads

    @property
    def settings(self) -> BuildSettings:
        """How engines are asked to build."""
        return BuildSettings(self.count, float_dtype=self.float_dtype)
