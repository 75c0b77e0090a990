"""What ``torch.fx`` itself refuses in a pass that changes its graph directly: at which node."""

from __future__ import annotations

import inspect

from torch import fx


def refused_node(error: BaseException) -> str | None:
    """The node that ``graph.erase_node`` would not erase, if that is what raised ``error``."""
    erasing = inspect.unwrap(fx.Graph.erase_node).__code__
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is erasing:
            node = trace.tb_frame.f_locals.get("to_erase")
            return node.name if isinstance(node, fx.Node) else None
        trace = trace.tb_next
    return None
