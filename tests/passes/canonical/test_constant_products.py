"""Products with constant matrices: one transposed copy a matrix, found without searching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.testing.checking import run


class Products(nn.Module):
    """A chain of products with matrices of their own, or with one."""

    def __init__(self, count: int, *, shared: bool = False, how: str = "@") -> None:
        super().__init__()
        self.how, self.count = how, count
        kept = 1 if shared else count
        self.w = nn.ParameterList(nn.Parameter(torch.eye(4) + i / 100) for i in range(kept))
        self.b = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.count):
            w = self.w[i % len(self.w)]
            x = x @ w if self.how == "@" else torch.addmm(self.b, x, w)
            x = torch.relu(x)
        return x


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many nodes all walks over graphs visit."""
    visits = 0
    kind = type(fx.Graph().nodes)
    walk = kind.__iter__

    def walked(nodes: object) -> Iterator[fx.Node]:
        nonlocal visits
        for node in walk(nodes):
            visits += 1
            yield node

    with monkeypatch.context() as patch:
        patch.setattr(kind, "__iter__", walked)
        yield lambda: visits


def visits(model: nn.Module, passes: list[qfx.Pass], monkeypatch: pytest.MonkeyPatch) -> int:
    with counted(monkeypatch) as so_far:
        run(passes, model.eval(), torch.ones(2, 4))
        return so_far()


@pytest.mark.sweep
@pytest.mark.parametrize("how", ["@", "addmm"])
@pytest.mark.parametrize("shared", [False, True])
def test_work_is_linear_in_the_number_of_products(
    how: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = [qfx.get_pass(name) for name in ("canonicalize", "fold-constants")]
    few, many = (visits(Products(n, shared=shared, how=how), passes, monkeypatch) for n in (10, 40))
    assert many <= 4 * few


@pytest.mark.parametrize("how", ["@", "addmm"])
def test_one_copy_a_matrix(how: str) -> None:
    model, x = Products(3, shared=True, how=how).eval(), torch.randn(2, 4)
    gm, _ = qfx.run_passes(model, [qfx.get_pass("canonicalize")], x)
    layers = [n for n in gm.graph.nodes if vocab.is_op(n, vocab.LINEAR)]
    assert len(layers) == 3
    assert len({n.args[1].target for n in layers}) == 1
    assert len(list(gm.buffers())) == 1
    torch.testing.assert_close(gm(x), model(x))
