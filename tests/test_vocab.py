"""Arguments are bound by name as Python does it."""

from __future__ import annotations

import inspect

import pytest
from torch import fx

from qfx import vocab
from qfx.vocab import OpDef, bound


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
