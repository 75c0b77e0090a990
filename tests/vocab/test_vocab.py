"""Arguments are bound by name as Python does it."""

from __future__ import annotations

import ast
import inspect

import pytest
from torch import fx

from qfx import vocab
from qfx.vocab import OpDef, bound
from tests.support.sources import SOURCES, nodes

SPELLINGS = ("adapters", "rename_spellings")
"""Tables of canonicalize: how the arguments of each operation are read."""


def call(op: OpDef, *args: object, **kwargs: object) -> fx.Node:
    graph = fx.Graph()
    return graph.call_function(op, args, kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", list(vocab.ops()), ids=lambda op: op.name)
def test_bound_is_what_the_signature_binds(op: OpDef) -> None:
    named = [p for p in op.signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    operands = [i for i, p in enumerate(named) if p.kind is not p.KEYWORD_ONLY]
    kwargs = {p.name: "given" for p in named[len(operands) :] if p.default is p.empty}
    meant = op.signature.bind(*operands, **kwargs)
    meant.apply_defaults()
    found = bound(call(op, *operands, **kwargs))
    assert found == meant.arguments
    assert list(found) == list(meant.arguments)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3, 4), {}), ((1, 2), {"input": 1}), ((1, 2), {"nonsense": 1})],
)
def test_misfits_are_refused(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        bound(call(vocab.LINEAR, *args, **kwargs))


def test_keywords_and_defaults() -> None:
    arguments = bound(call(vocab.LINEAR, 1, weight=2))
    assert (arguments["input"], arguments["weight"], arguments["bias"]) == (1, 2, None)
    assert inspect.Parameter.empty not in arguments.values()


def test_passes_keep_no_groups_of_operations() -> None:
    """What operations have in common is a trait, or a group that the vocabulary tells by it."""
    kept = {}
    for path in SOURCES:
        if "qfx_passes" not in path.parts or path.stem in SPELLINGS:
            continue
        for node in nodes(path):
            written = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else ()
            names = [each for each in map(ast.unparse, written) if each.startswith("vocab.")]
            if sum(name.isupper() for name in (n.removeprefix("vocab.") for n in names)) > 1:
                kept[f"{path.name}:{node.lineno}"] = names
    assert kept == {}
