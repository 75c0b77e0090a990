"""Calibration data ``[(x, y)]`` for one argument that is a tuple: "inp = 2, but these make it 3".

What is said of a batch that is nested otherwise than the example inputs, and what to do.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import qfx
from tests.cases.flow import randn, seeded

pytestmark = pytest.mark.filterwarnings("ignore:the batches of calibration_data have")

X = randn(3, 4)
PAIR = randn(2, 4)  # as long as a tuple of two


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


class OfTuple(Linear):
    def forward(self, inp: tuple[Tensor, Tensor]) -> Tensor:
        return self.linear(inp[0]) + self.linear(inp[1])


class OfTwo(Linear):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.linear(x) if y is None else self.linear(x) + self.linear(y)


class OfDict(Linear):
    def forward(self, d: dict[str, Any]) -> Tensor:
        return self.linear(d["a"]) + self.linear(d["b"][0])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(4, 4), nn.Linear(4, 4)

    def forward(self, ids: Tensor, *, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.linear(self.table(ids))
        return y if mask is None else y * mask


NEST = {"a": X, "b": [X]}
IDS = torch.arange(4)
CASES: dict[str, tuple[type[Linear], Any, Any, str]] = {
    "a pair of tensors": (
        OfTuple,
        ((X, X),),
        (X, X),
        "it has a tensor, float32[3, 4], for argument inp, which is a tuple of 2 in the example "
        "inputs. A batch is a tuple of arguments; put an argument that is one itself in a tuple "
        "of its own, as in calibration_data=[((a, b),)].",
    ),
    "a tensor as long": (OfTuple, ((X, X),), PAIR, "it has a tensor, float32[2, 4], for argument"),
    "a list": (OfTuple, ([X, X],), [X, X], "as in calibration_data=[([a, b],)]."),
    "longer": (
        OfTuple,
        ((X, X),),
        ((X, X, X),),
        "it has a tuple of 3 for argument inp, which is a tuple of 2 in the example inputs: the "
        "graph is for that length.",
    ),
    "shorter inside": (OfDict, (NEST,), ({"a": X, "b": []},), "a list of 0 for argument d['b']"),
    "a tensor inside": (OfDict, (NEST,), ({"a": X, "b": X},), "list of 1 in the example inputs."),
    "keys": (
        OfDict,
        (NEST,),
        ({"a": X},),
        "it has the keys ['a'] in argument d, and the example inputs have ['a', 'b'].",
    ),
    "the dict itself": (
        OfDict,
        (NEST,),
        NEST,
        "it is a dict of arguments, and forward takes d. If the dict is argument d itself, put it "
        "in a tuple of its own, as in calibration_data=[({'a': ..., 'b': ...},)].",
    ),
    "unknown key": (
        OfTwo,
        (X, X),
        {"x": X, "y": X, "labels": X},
        "it has 'labels', which forward does not take. The keys of a batch that is a dict are "
        "names of arguments (x, y).",
    ),
    "missing key": (OfTwo, (X, X), {"y": X}, "It lacks x: make each batch a dict"),
    "missing optional": (OfTwo, (X, X), X, "it lacks argument y, which is a tensor"),
    "None": (OfTwo, (X, X), (X, None), "it has None for argument y, which is a tensor"),
    "an array": (
        OfDict,
        (NEST,),
        ({"a": X.numpy(), "b": [X]},),
        "it has a ndarray for argument d['a'], which is a tensor in the example inputs. Give "
        "tensors, as torch.as_tensor(x) makes of arrays and numbers.",
    ),
    "a number and a tensor": (OfTwo, (X,), (3, X), "it has an int for argument x, which is a"),
    "numbers": (OfTwo, (X, X), [1.0, 2.0], "it has a float for argument x, which is a tensor"),
    "a device": (
        OfTwo,
        (X, X),
        (X, X.to("meta")),
        "it has a tensor on meta for argument y, which is on cpu in the example inputs. Move the "
        "batches, as in x.to('cpu').",
    ),
    "a layout": (OfTwo, (X,), X.to_sparse(), "it has a tensor that is sparse_coo for argument x"),
    "a dtype": (Words, (IDS,), IDS.float(), "Convert the batches, as in x.to(torch.int64)."),
    "only by keyword": (
        Words,
        (IDS,),
        (IDS, X),
        "it lacks argument mask, which is a tensor in the example inputs. Make each batch a dict, "
        "{'ids': ..., 'mask': ...}, or leave it out of the example inputs too.",
    ),
    "a tuple for a tensor": (OfTwo, (X, X), ((X, X), X), "a tuple of 2 for argument x, which is a"),
}


@pytest.mark.sweep(first=6)
@pytest.mark.parametrize("name", CASES)
def test_says_what_differs(name: str) -> None:
    kind, examples, batch, message = CASES[name]
    options = {"example_kwargs": {"mask": IDS[:, None] / 2}} if "keyword" in name else {}
    with pytest.raises(qfx.ConfigError) as raised:
        qfx.quantize(seeded(kind), examples, calibration_data=[batch], **options)
    assert message in str(raised.value)
    assert "calibration batch 0" in str(raised.value)


GOOD: dict[str, tuple[type[Linear], Any, Any]] = {
    "a tuple in a tuple": (OfTuple, ((X, X),), ((X, X),)),
    "a list for a tuple": (OfTuple, ((X, X),), ([X, X],)),
    "by keyword": (OfTuple, ((X, X),), {"inp": (X, X)}),
    "with a label": (OfTwo, (X,), (X, None)),
    "a dict in a tuple": (OfDict, (NEST,), (NEST,)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_is_taken(name: str) -> None:
    kind, examples, batch = GOOD[name]
    assert qfx.quantize(seeded(kind), examples, calibration_data=[batch]).report.coverage == 1.0


def test_calls_speak_of_arrays_inside() -> None:
    quantized = qfx.quantize(seeded(OfDict), (NEST,))
    for given, place in (
        ({"a": X.numpy(), "b": [X]}, r"d\['a'\]"),
        ({"a": X, "b": [2]}, r"d\['b'\]\[0\]"),
    ):
        with pytest.raises(qfx.ConfigError, match=f"called with {place} as .*Give tensors"):
            quantized(given)


def test_calls_speak_of_lengths() -> None:
    quantized = qfx.quantize(seeded(OfTuple), ((X, X),))
    with pytest.raises(qfx.ConfigError, match=r"the length of argument inp = 2, but .* make it 3"):
        quantized((X, X, torch.zeros(3, 4)))


DATA: dict[str, tuple[Any, str]] = {
    "a function": (lambda: [X], "Call it, if it yields them."),
    "a dataset": (TensorDataset(X), "DataLoader(dataset, batch_size=...) makes batches of a data"),
    "one dict": ({"x": X}, "Write [{...}] for a single batch of keywords."),
    "one array": (X.numpy(), "torch.as_tensor(x) makes one of an array."),
    "arrays": ([X.numpy()], "torch.as_tensor(x) makes one of an array."),
}


@pytest.mark.parametrize("name", DATA)
def test_says_how_to_make_batches(name: str) -> None:
    data, remedy = DATA[name]
    with pytest.raises(qfx.ConfigError) as raised:
        qfx.quantize(seeded(OfTwo), X, calibration_data=data)
    assert remedy in str(raised.value)
