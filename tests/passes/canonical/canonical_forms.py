"""Tracing to canonical form, and what is read off it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qfx.framework.pass_base import Pass
from qfx.framework.pipeline import Pipeline
from qfx.graph import meta
from qfx.testing.checking import Result, assert_close, run
from qfx.vocab import OpDef
from qfx_passes.canonical.canonicalize import Canonicalize


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Lambda(nn.Module):
    """A module whose forward is a function of itself and the inputs."""

    def __init__(self, function: Callable[..., Any], **children: Any) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class Lambda2(Lambda):
    def forward(self, x: Any, y: Any) -> Any:
        return self.function(self, x, y)


class Lambda3(Lambda):
    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return self.function(self, x, y, z)


def canonical(
    model: nn.Module | Callable[..., Any], *inputs: Any, atol: float = 0.0, **children: Any
) -> Result:
    """Canonicalize and check that the outputs are the model's."""
    if not isinstance(model, nn.Module):
        kind = (Lambda, Lambda2, Lambda3)[len(inputs) - 1]
        model = kind(model, **children).eval()
    result = run(Canonicalize(), model, inputs)
    assert_same(result, model, *inputs, atol=atol)
    return result


def assert_same(result: Result, model: nn.Module, *inputs: Any, atol: float = 0.0) -> None:
    def outputs(module: nn.Module) -> list[Tensor]:
        copies = [i.clone() if isinstance(i, Tensor) else i for i in inputs]
        leaves = torch.utils._pytree.tree_leaves((module(*copies), copies))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    with torch.no_grad():
        assert_close(outputs(result.graph_module), outputs(model), atol)


def check_family(
    name: str, model: nn.Module, x: Tensor, before: str, after: str, left_out: str
) -> None:
    """The text of the graph as captured, canonical, and canonical but for one family."""
    whole = canonical(model.eval(), x, atol=1e-6)
    assert whole.history[0].snapshot.to_text(provenance=False).rstrip() == before.rstrip()
    assert whole.text.rstrip() == after.rstrip()
    pipeline = Pipeline((Canonicalize(),)).without(name)
    assert str(pipeline) == f"canonicalize{{leave_out=('{name}',)}}"
    less = run([step for step in pipeline if isinstance(step, Pass)], model, x)
    assert less.text.rstrip() == left_out.rstrip()
    assert_same(less, model, x, atol=1e-6)


def calls(result: Result) -> list[Any]:
    """What the graph computes, in order: operations, or targets of what stayed as written.

    What it does to its arguments in the end is left out.
    """
    kinds = ("call_function", "call_method", "call_module")
    nodes = [n for n in result.graph_module.graph.nodes if n.op in kinds]
    return [n.target for n in nodes if meta.rule_of(n) != "canonicalize/give-back"]


def only(result: Result, op: OpDef) -> dict[str, Any]:
    """Attributes of the one call of ``op``."""
    (node,) = [n for n in result.graph_module.graph.nodes if n.target is op]
    return dict(node.kwargs)


def notes(result: Result) -> list[str]:
    return [meta.note_of(n) for n in result.graph_module.graph.nodes if meta.note_of(n)]


X = (2, 4, 6, 6)


def layer(kind: type[nn.Module], **options: Any) -> nn.Module:
    return kind(8, 2, 16, batch_first=True, dropout=0.1, **options)
