"""A number or branch from a tensor that is made of sizes was frozen at the example's, silently.

``int(torch.tensor(x.shape[0]) // 2)``, ``if torch.ones(n, n).triu(1).sum() > 10:``. Whatever makes
a tensor from sizes, and however Python reads it: what is captured at one size computes at others
what the model computes, or raises the guard's typed error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded

Make = Callable[[Tensor], Tensor]
Read = Callable[[Tensor, Tensor], Tensor]

FACTORIES: dict[str, Make] = {
    "tensor": lambda x: torch.tensor(x.shape[0]) // 2 + torch.tensor([x.shape[1], 1]),
    "as_tensor": lambda x: torch.as_tensor(x.shape[0]).reshape(1),
    "arange": lambda x: torch.arange(x.shape[0]),
    "arange of a tensor": lambda x: torch.arange(len(x))[1:] * x.size(1),
    "ones": lambda x: torch.ones(x.shape[0], x.shape[1]).triu(1),
    "tril": lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(),
    "zeros and set": lambda x: torch.zeros(x.shape[0], 2).index_fill_(1, torch.tensor([1]), 3.0),
    "linspace": lambda x: torch.linspace(0, 4, x.shape[1]),
    "full": lambda x: torch.full((x.shape[0],), x.shape[1]),
    "eye": lambda x: torch.eye(x.shape[0], x.shape[1]),
    "empty and fill": lambda x: torch.empty(2).fill_(x.shape[0]),
    "new_zeros": lambda x: x.new_zeros(x.shape[0]) + 1,
    "new_full": lambda x: x.new_full((2,), x.shape[1]),
    "new_tensor": lambda x: x.new_tensor([x.shape[0], 3]),
    "zeros_like": lambda x: torch.zeros_like(x) + 1,
    "ones_like": lambda x: torch.ones_like(x[:, 0], dtype=torch.int64),
    "meshgrid": lambda x: torch.meshgrid(
        torch.arange(x.shape[0]), torch.arange(x.shape[1]), indexing="ij"
    )[1],
    "tril_indices": lambda x: torch.tril_indices(x.shape[0], x.shape[1]),
    "nonzero": lambda x: torch.ones(x.shape[0], 3).nonzero(),
    "unique": lambda x: (torch.arange(x.shape[1]) // 2).unique(),
    "where": lambda x: torch.where(torch.arange(x.shape[0]) > 1)[0],
    "masked": lambda x: torch.arange(x.shape[1])[torch.arange(x.shape[1]) % 2 == 0],
    "bincount": lambda x: torch.bincount(torch.arange(x.shape[0]) % 2),
    "like another": lambda x: torch.arange(x.shape[0]).to(x),
    "numpy": lambda x: torch.from_numpy(np.arange(x.shape[1])),
    "in place": lambda x: x.new_zeros(2).add_(x.shape[0]),
    "written": lambda x: written(x),
}
"""Tensors with at least one element whose values or shapes tell of sizes, and of nothing else."""


def written(x: Tensor) -> Tensor:
    made = x.new_ones(3)
    made[0] = x.shape[0]
    made[1:] *= x.shape[1]
    return made


def loops(x: Tensor, t: Tensor) -> Tensor:
    for value in t.flatten():
        x = x + value
    return x


def picks(x: Tensor, t: Tensor) -> Tensor:
    total = t.sum()
    if total > 10:
        return x * 2
    return x - 1 if (t > 3).any() else x


READERS: dict[str, Read] = {
    "item": lambda x, t: x * t.sum().item(),
    "int": lambda x, t: x * int(t.sum()),
    "float": lambda x, t: x * float(t.float().mean()),
    "bool": lambda x, t: x * (2 if bool(t.sum() > 8) else 3),
    "branch": picks,
    "not": lambda x, t: x if not t.sum() > 12 else -x,
    "and": lambda x, t: x * 2 if t.numel() > 3 and (t.sum() > 5) else x,
    "tolist": lambda x, t: x * sum(v + 1 for v in t.flatten().tolist()),
    "len": lambda x, t: x * len(t.flatten().nonzero()),
    "length": lambda x, t: x * len(t.flatten().tolist()),
    "index of a list": lambda x, t: x * [5, 4, 3, 2, 1][int(t.sum()) % 5],
    "tensor as index": lambda x, t: x * [5, 4, 3, 2, 1][t.sum().long() % 5],
    "slice": lambda x, t: x[:, : int(t.sum()) % 3 + 1],
    "slice of a list": lambda x, t: x * sum([1, 2, 3, 4][: t.numel()]),
    "range": lambda x, t: x + sum(range(int(t.sum()))),
    "loop": loops,
    "in": lambda x, t: x * (2 if 3 in t else 3),
    "in a list": lambda x, t: x * (2 if t.numel() in (3, 4, 8) else 3),
    "in a set": lambda x, t: x * (2 if int(t.sum()) in {3, 4, 6, 8, 10} else 3),
    "key": lambda x, t: x * {3: 1, 6: 2, 8: 4}.get(t.sum().item(), 7),
    "text": lambda x, t: x * len(f"{t.sum().item()}") + len(str(t.shape)),
    "format": lambda x, t: x * {"4": 2.0}.get("%d" % t.numel(), 3.0),  # noqa: UP031
    "numpy": lambda x, t: x * float(t.numpy().sum()),
    "numpy's function": lambda x, t: x * float(np.sqrt(t.sum().item() + 1)),
    "equal": lambda x, t: x * 2 if torch.equal(t, t * 0 + t.numel()) else x,
    "compare": lambda x, t: x * 2 if t.shape == (4,) or t.numel() >= 9 else x,
    "all": lambda x, t: x if (t < 4).all() else x * 3,
    "max": lambda x, t: x * max(t.sum().item(), 7),
    "round": lambda x, t: x * round(t.sum().item() / 3),
    "size": lambda x, t: x.new_zeros(int(t.sum()) + 1).sum() + x,
    "repeat": lambda x, t: x + sum([1] * t.numel()),
    "unpack": lambda x, t: x + sum([*t.flatten()]),
    "assert": lambda x, t: checked(x, t),
}


def checked(x: Tensor, t: Tensor) -> Tensor:
    assert t.sum() < 14, f"{t.sum()} is too much"
    return x * 2


class Reads(nn.Module):
    def __init__(self, make: Make, read: Read) -> None:
        super().__init__()
        self.linear, self.make, self.read = nn.Linear(4, 4), make, read

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.read(y, self.make(y))


SHAPES = [(2, 3, 4), (1, 3, 4), (4, 3, 4), (3, 5, 4), (6, 8, 4), (2, 3, 4)]


def outcome(model: nn.Module, x: Tensor) -> Any:
    """What a model yields, or the kind of error."""
    try:
        with torch.no_grad():
            return model(x)
    except (qfx.QfxError, AssertionError, IndexError) as error:
        return type(error)


@functools.cache
def check(make: Make, read: Read, first: tuple[int, ...]) -> int:
    """Capture at ``first`` and run at other shapes; at how many of them the graph computes."""
    model = seeded(lambda: Reads(make, read))
    if isinstance(outcome(model, randn(*first)), type):
        return 0
    captured, _ = qfx.run_passes(model, [], randn(*first))
    canonical, _ = qfx.run_passes(model, [qfx.get_pass("canonicalize")()], randn(*first))
    computed = 0
    for shape in SHAPES:
        x = randn(*shape)
        expected = outcome(model, x)
        for graph_module in (captured, canonical):
            found = outcome(graph_module, x)
            if isinstance(found, type) or isinstance(expected, type):
                assert found is qfx.ConfigError or found is expected or shape != first
                assert isinstance(found, type), f"{shape}: the model raises, the graph does not"
                continue
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected)
            computed += 1
    return computed


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(sorted(FACTORIES)), st.sampled_from(sorted(READERS)), st.integers(0, 4))
def test_never_another_value(made: str, read: str, first: int) -> None:
    check(FACTORIES[made], READERS[read], SHAPES[first])


@pytest.mark.sweep(first=6)
@pytest.mark.parametrize("read", READERS)
def test_every_reader(read: str) -> None:
    assert check(FACTORIES["arange"], READERS[read], (2, 3, 4)) >= 2


@pytest.mark.sweep(first=5)
@pytest.mark.parametrize("made", FACTORIES)
def test_every_factory(made: str) -> None:
    for read in ("branch", "tolist"):
        check(FACTORIES[made], READERS[read], (2, 3, 4))


SYMBOLIC = ("item", "int", "float", "len", "slice", "numpy", "max", "round", "size")


@pytest.mark.parametrize("read", SYMBOLIC)
def test_numbers_are_computed_at_every_size(read: str) -> None:
    assert check(FACTORIES["arange"], READERS[read], (2, 3, 4)) == 2 * len(SHAPES)


def test_the_guard_names_the_line() -> None:
    model = seeded(lambda: Reads(FACTORIES["ones"], picks))
    quantized = qfx.quantize(model, randn(2, 3, 4))
    line = picks.__code__.co_firstlineno + 2
    with pytest.raises(qfx.ConfigError, match=rf"a branch at .*test_report_21.py:{line} = False"):
        quantized(randn(8, 9, 4))


# -- constants that stop being constant ------------------------------------------------------------
def test_what_is_written_to_a_new_tensor_counts() -> None:
    def from_data(x: Tensor, t: Tensor) -> Tensor:
        t[0] = x.sum()
        return x * 2 if t[0] > 0 else x

    model = seeded(lambda: Reads(lambda x: x.new_zeros(3), from_data))
    with pytest.raises(qfx.CaptureError, match="a branch that depends on the contents of a tensor"):
        qfx.run_passes(model, [], randn(2, 3, 4))


def test_a_tensor_in_a_tuple_is_data() -> None:
    class Pair(nn.Module):
        def forward(self, pair: tuple[Tensor, int]) -> Tensor:
            x, n = pair
            return x * 2 if n > 1 and x.sum() > 0 else x

    with pytest.raises(qfx.CaptureError, match="a branch that depends on the contents of a tensor"):
        qfx.run_passes(Pair(), [], ((randn(2, 3), 2),))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.zeros(4).index_add_(0, torch.tensor([1]), x.sum((0, 1))[:1]),
        lambda x: torch.ones(4).copy_(x[0, 0]),
        lambda x: put(torch.zeros(4), x.argmax() % 4),
        lambda x: put(torch.zeros(4), x.shape[1] % 4),
    ],
)
def test_what_is_made_from_no_input_and_written_to_is_made_in_every_run(make: Make) -> None:
    model = seeded(lambda: Reads(make, lambda x, t: (x + t) * 2 - t))
    graph_module, _ = qfx.run_passes(model, [], randn(2, 3, 4))
    for seed in range(4):
        x = randn(2, 3 + seed, 4, seed=seed)
        torch.testing.assert_close(graph_module(x), model(x))


def put(made: Tensor, at: Any) -> Tensor:
    made[at] = 1.0
    return made


def test_what_python_reads_of_such_a_tensor_is_refused() -> None:
    class Kept(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made = torch.zeros(3)
            made[0] = x.sum()
            return x * 2 if made[0] > 0 else x

    with pytest.raises(qfx.CaptureError, match="depends on no input when it is made"):
        qfx.run_passes(Kept(), [], randn(2, 3))


def test_a_count_of_calls_is_no_constant() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * 2 if self.count > 2 else x

    graph_module, _ = qfx.run_passes(Counts(), [], randn(2, 3))
    for _ in range(2):
        assert torch.equal(graph_module(randn(2, 3)), randn(2, 3))
    with pytest.raises(qfx.ConfigError, match=r"a branch at .* = False"):
        graph_module(randn(2, 3))
