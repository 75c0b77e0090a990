"""torch.compile of the model as it was lowered. Building takes minutes for large models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from qfx.engines.base import BuildSettings, WholeEngine

_COMPILERS = ("g++", "clang++", "c++")


class Inductor(WholeEngine):
    """Compiles at the first call. It runs on the threads of the process."""

    name = "inductor"
    deadline = 600.0
    patient: ClassVar[bool] = True

    def lacks(self) -> str:
        named = os.environ.get("CXX")
        if any(shutil.which(name) for name in ((named,) if named else _COMPILERS)):
            return ""
        return "no C++ compiler is installed: apt-get install g++"

    def version(self) -> str:
        return torch.__version__

    def wrap(
        self, model: nn.Module, settings: BuildSettings, *, dynamic: bool
    ) -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(model, dynamic=dynamic)
        return made
