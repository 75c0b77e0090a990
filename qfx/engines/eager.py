"""The kernels of PyTorch, as the model was lowered for them: what runs everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qfx.engines.base import BuildSettings, WholeEngine


class Eager(WholeEngine):
    """Calls the model. It runs on the threads of the process (``torch.set_num_threads``)."""

    name = "eager"

    def lacks(self) -> str:
        return ""

    def version(self) -> str:
        return torch.__version__

    def wrap(
        self, model: nn.Module, settings: BuildSettings, *, dynamic: bool
    ) -> Callable[..., Any]:
        return model
