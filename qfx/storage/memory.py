"""What a graph writes to, and what else lies there."""

from __future__ import annotations

from torch import fx

from qfx.errors import FormatError
from qfx.graph.state import written_names
from qfx.storage.tensors import TensorStore


def check_memory(graph: fx.Graph, store: TensorStore) -> None:
    """FormatError if what the graph writes to is part of another tensor: they would come apart."""
    names = {store.prefix + name for name in written_names(graph)}
    for name in sorted(names & store.stored.keys()):
        other = store.overlapping(name)
        if other:
            raise FormatError(
                f"forward writes to {name!r}, which lies in the memory of {other!r}; files hold "
                "tensors apart. Register a clone() of one of them, or write to both"
            )
