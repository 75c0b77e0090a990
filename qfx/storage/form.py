"""Whether the graph of a file has the form that its level promises, as after any pass of ours."""

from __future__ import annotations

from torch import fx

from qfx.errors import FormatError, VerifyError
from qfx.framework.levels import Level
from qfx.quant.level_checks import QUANTIZATION


def check_level(graph_module: fx.GraphModule, level: Level) -> None:
    """FormatError, with the node, for a graph that no pass could have left at ``level``."""
    try:
        QUANTIZATION.check(graph_module, level)
    except VerifyError as error:
        raise FormatError(str(error)) from error
