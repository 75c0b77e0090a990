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

from qfx.errors import ConfigError
from qfx.private_attributes import code_of
from qfx.torch_private import exported_call

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
_SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class CalledByName(CodeGen):
    """Generates code as fx does; who interprets the graph may give arguments by keyword."""

    def process_inputs(self, *args: Any) -> Any:
        """The arguments in the order of the inputs, where torch.export left out their names."""
        called = exported_call()
        if called is None or not called[1]:
            return args
        module, keywords = called
        signature = inspect.signature(module.forward)
        if any(p.kind in _SEVERAL for p in signature.parameters.values()):
            raise ConfigError(
                "torch.export hands keyword arguments of a graph on without their names, and this "
                "model takes any number of arguments. What to do: export a module whose forward "
                "calls the model, or use qfx.export_pt2e"
            )
        bound = signature.bind(*args[: len(args) - len(keywords)], **keywords)
        bound.apply_defaults()
        return tuple(bound.arguments.values())


class KeywordOnlyFrom(CalledByName):
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


def take_keywords(graph: fx.Graph) -> None:
    """Let who interprets ``graph`` give arguments by keyword."""
    if type(code_of(graph)) is CodeGen:
        graph.set_codegen(CalledByName())
