"""What is computed twice is computed once, and nothing else is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from examples.passes.qfx_extras.subexpressions import ShareSubexpressions
from qfx.testing import check

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x + self.scale.exp())
        return gate * x - x.sigmoid() * torch.sigmoid(self.scale.exp() + x)


def test_what_is_alike_is_shared_and_constants_are_folded() -> None:
    check(
        ShareSubexpressions(),
        Twice(),
        X,
        after="""
            %x         : f32[2,4] = input
            %add       : f32[2,4] = add(%x, @exp)
            %sigmoid   : f32[2,4] = sigmoid(%add)
            %mul       : f32[2,4] = mul(%sigmoid, %x)
            %sigmoid_1 : f32[2,4] = sigmoid(%x)
            %mul_1     : f32[2,4] = mul(%sigmoid_1, %sigmoid)
            %sub       : f32[2,4] = sub(%mul, %mul_1)
            return %sub
        """,
    )


def test_what_is_left_out_and_the_difference_is_shown() -> None:
    _, history = qfx.run_passes(Twice(), [ShareSubexpressions(fold=False)], X)
    shown = history.diff("share-subexpressions").to_text()
    assert "- %exp_1 " in shown
    assert "- %sigmoid_2 " in shown
    assert "%exp " in str(history[-1])
    assert "removed" in history.diff("share-subexpressions").to_dot().source
    assert str(ShareSubexpressions(largest=2)) == "share-subexpressions{largest=2}"
    assert "%exp " in str(qfx.run_passes(Twice(), [ShareSubexpressions(largest=2)], X)[1][-1])


def calls(function: object, x: Tensor = X) -> list[str]:
    """The operations that are left."""
    module = nn.Module()
    module.forward = function  # type: ignore[method-assign,assignment]
    _, history = qfx.run_passes(module.eval(), [ShareSubexpressions()], x)
    return [record.target for record in history[-1].snapshot if record.op.startswith("call_")]


def test_other_attributes_and_orders_are_other_values() -> None:
    def forward(x: Tensor) -> Tensor:
        other = x[:, :2] - x[:, 2:]
        return x.sum(0) + x.sum(1)[0] + (x - 1.0).mean() + (1.0 - x).mean() + other.mean()

    assert calls(forward).count("sum") == 2
    assert calls(forward).count("sub") == 3


def test_a_caller_gets_two_tensors_where_there_were_two() -> None:
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.relu(), x.relu(), x.relu() + 1

    assert calls(forward).count("relu") == 2
    module = nn.Module()
    module.forward = forward  # type: ignore[method-assign,assignment]
    gm, _ = qfx.run_passes(module.eval(), [ShareSubexpressions()], X)
    first, second, _ = gm(X)
    first.zero_()
    assert second.any()


def test_random_numbers_are_drawn_twice() -> None:
    def forward(x: Tensor) -> Tensor:
        return x + torch.rand_like(x) - torch.rand_like(x) + F.dropout(x) - F.dropout(x)

    found = " ".join(calls(forward))
    assert found.count("rand_like") == 2


def test_what_is_written_to_is_no_value_of_the_other() -> None:
    def forward(x: Tensor) -> Tensor:
        a, b = x.exp(), x.exp()
        a.add_(1.0)
        return a * b

    module = nn.Module()
    module.forward = forward  # type: ignore[method-assign,assignment]
    gm, _ = qfx.run_passes(module.eval(), [ShareSubexpressions()], X)
    torch.testing.assert_close(gm(X), forward(X))


def test_what_is_read_before_a_write_and_after_it_differs() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            before = self.count[1:] * 2
            self.count.add_(1)
            return x[:, 1:] * before + self.count[1:] * 2

    expected = [model(X) for model in [Counts().eval()] for _ in range(2)]
    gm, _ = qfx.run_passes(Counts().eval(), [ShareSubexpressions()], X)
    assert all(torch.equal(gm(X), each) for each in expected)
