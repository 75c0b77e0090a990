"""The signature of a captured graph: that of the model, keyword-only parameters included.

A graph lists its inputs and knows of ``*args``, but not of a bare ``*``; the code generator adds
it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import fx
from torch.fx.graph import CodeGen

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)


class KeywordOnlyFrom(CodeGen):
    """Generates code whose parameters are keyword-only from ``first`` on."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.first = first

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str, **options: Any) -> str:
        names = [text.partition(":")[0].partition("=")[0].strip() for text in free_vars]
        if self.first in names:
            free_vars.insert(names.index(self.first), "*")
        return super().gen_fn_def(free_vars, maybe_return_annotation, **options)


def keep_keyword_only(graph: fx.Graph, parameters: Iterable[inspect.Parameter]) -> None:
    """Let the code of ``graph`` take by keyword what the ``parameters`` of its model say."""
    first = next((p for p in parameters if p.kind in _STARRED), None)
    if first is not None and first.kind is inspect.Parameter.KEYWORD_ONLY:
        graph.set_codegen(KeywordOnlyFrom(first.name))
