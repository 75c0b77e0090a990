"""What a model returns comes back in the types that it returned it in."""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import qfx

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
Pair = namedtuple("Pair", "a b")


class Attributed(OrderedDict):  # type: ignore[type-arg]
    """As the output classes of old libraries: items, and attributes of the same names."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        self.__dict__.update(items)


@dataclasses.dataclass
class Output(OrderedDict):  # type: ignore[type-arg]
    """As the output classes of transformers."""

    logits: Tensor | None = None
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value


class Picky(tuple):  # type: ignore[type-arg]
    """Its constructor takes what only its author knows."""

    def __new__(cls, first: Any, *, second: Any) -> Picky:
        return super().__new__(cls, (first, second))


class Boxes(list):  # type: ignore[type-arg]
    pass


class Model(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.call = nn.Linear(4, 4), call

    def forward(self, x: Tensor) -> Any:
        return self.call(x, self.linear(x))


def factory(x: Tensor, y: Tensor) -> Any:
    found: defaultdict[str, list[Tensor]] = defaultdict(list)
    found["scores"].append(y)
    return found


def types_in(value: Any) -> Any:
    if isinstance(value, dict):
        return type(value), {key: types_in(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value), [types_in(item) for item in value]
    return type(value)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: OrderedDict(out=y, aux=x),
        lambda x, y: {"nested": [OrderedDict(b=y, a=(x, None, 3))]},
        lambda x, y: {1: y, ("a", 2): x},
        factory,
        lambda x, y: Attributed(logits=y),
        lambda x, y: Output(logits=y),
        lambda x, y: Picky(y, second=x),
        lambda x, y: Boxes([y, OrderedDict(x=x)]),
        lambda x, y: Pair(y, Boxes([x])),
        lambda x, y: y.max(-1),
        lambda x, y: (y, x.shape),
    ],
)
@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_types(call: Callable[[Tensor, Tensor], Any], backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    model = Model(call).eval()
    qmodel = qfx.quantize(model, X, backend=backend)
    expected = model(X)
    for made in (qmodel(X), copy.deepcopy(qmodel)(X), qmodel.reference(X)):
        assert types_in(made) == types_in(expected)
        assert vars(made).keys() == vars(expected).keys() if hasattr(expected, "__dict__") else True
        assert pytree.tree_flatten(made)[1] == pytree.tree_flatten(expected)[1]
    assert qmodel.report.sites[0].node == "linear"
    assert not any(site.reason == "unknown-op" for site in qmodel.report.sites)


def test_attributes_hold_what_the_items_hold() -> None:
    qmodel = qfx.quantize(Model(lambda x, y: Attributed(logits=y)).eval(), X, backend="reference")
    result = qmodel(X)
    assert result.logits is result["logits"]


@pytest.mark.slow
def test_an_ordered_dict_compiles() -> None:
    qmodel = qfx.quantize(Model(lambda x, y: OrderedDict(out=y)).eval(), X, backend="reference")
    compiled = torch.compile(qmodel, backend="eager", fullgraph=True)
    result = compiled(X)
    assert type(result) is OrderedDict
    assert torch.equal(result["out"], qmodel(X)["out"])
