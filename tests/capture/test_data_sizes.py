"""Guards on sizes that the contents of tensors decide are found; those on other sizes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.capture import capture
from qfx.capture.data_sizes import DecidedByDataError


class Computes(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def more(x: Tensor, kept: Tensor) -> Tensor:
    return x + 1 if kept.shape[0] > 3 else x * 2


DECIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "mask": lambda x: more(x, x[x[:, 0] > 0]),
    "nonzero": lambda x: more(x, (x > 0).nonzero()),
    "where": lambda x: more(x, torch.where(x > 0)[0]),
    "unique": lambda x: more(x, torch.unique(x.round())),
    "through": lambda x: more(x, x[x[:, 0] > 0].relu() * 2),
    "counts": lambda x: more(x, x.repeat_interleave(repeats=(x[:, 0] > 0) + 1, dim=0)),
    "operator": lambda x: more(x, torch.ops.aten.masked_select(x, x > 0)),
}
NOT_DECIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "batch": lambda x: more(x, x),
    "no guard": lambda x: x + x[x[:, 0] > 0].sum(),
    "where of three": lambda x: more(x, torch.where(x > 0, x, 0.0)),
    "index": lambda x: more(x, x[torch.arange(2)]),
    "repeated": lambda x: more(x, x.repeat_interleave(x.shape[1] // 2, dim=0)),
    "rank": lambda x: x + 1 if x[x > 0].dim() == 1 else x,
}


@pytest.mark.parametrize("name", DECIDED)
def test_found_with_its_line(name: str) -> None:
    model, x = Computes(DECIDED[name]), (torch.randn(5, 4),)
    with pytest.raises(DecidedByDataError, match=r"^at test_data_sizes.py:\d+ it"):
        capture(model, x, data_sizes=False)
    assert torch.equal(capture(model, x)(*x), model(*x))


@pytest.mark.parametrize("name", NOT_DECIDED)
def test_not_found(name: str) -> None:
    model, x = Computes(NOT_DECIDED[name]), (torch.randn(5, 4),)
    assert torch.equal(capture(model, x, data_sizes=False)(*x), model(*x))


@pytest.mark.parametrize("caught", [False, True])
def test_tracing_ends_there_also_where_the_model_catches_it(caught: bool) -> None:
    went_on = []

    def catches(x: Tensor) -> Tensor:
        try:
            y = more(x, x[x[:, 0] > 0])
        except Exception:
            if not caught:
                raise
            y = x
        went_on.append(type(y))
        return y

    model, x = Computes(catches), torch.randn(5, 4)
    with pytest.raises(DecidedByDataError):
        capture(model, (x,), data_sizes=False)
    assert went_on == [Tensor] if not caught else went_on[0] is Tensor


def test_numbers_for_which_there_are_stand_ins_bind_nothing() -> None:
    def counts(x: Tensor) -> Tensor:
        return x * float(int(x[x > 0].shape[0]) + 1)

    model, x, other = Computes(counts), torch.randn(5, 4), torch.randn(5, 4)
    captured = capture(model, (x,), data_sizes=False)
    assert torch.equal(captured(other), model(other))


class OfOnePart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return more(nn.functional.linear(x, self.weight), x[x[:, 0] > 0])


def test_what_has_no_parts_is_captured_whole_all_the_same() -> None:
    model, x = OfOnePart().eval(), torch.randn(5, 4)
    prepared = qfx.prepare(model, x)
    assert isinstance(prepared, torch.fx.GraphModule)
    assert torch.allclose(prepared(x), model(x))
