"""In-place calls become functional, unless something else sees the memory change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import vocab
from qfx.testing.checking import run
from qfx.vocab import OpDef
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import (
    Lambda,
    calls,
    canonical,
    check_family,
    image,
    notes,
)


def augmented(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z += y
    z -= 1
    z *= z
    return z + x


def read_through_old_name(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.add_(y)
    F.relu(z, inplace=True)
    w = z + 1
    z.mul_(w).sub_(1)
    return z / w


def unused_result(m: object, x: Tensor, y: Tensor) -> Tensor:
    x.sigmoid_()
    return x + y


def fill_a_slot(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z[0] = y[1]
    z[:, 1:2] = 7.0
    return z


def unknown_in_place(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.exp_()
    F.selu(z, True)
    return z.masked_fill_(y > 0, 3.0) + z


def element_of_a_pair(m: object, x: Tensor, y: Tensor) -> Tensor:
    values, indices = x.sort(dim=0)
    values += 1
    return values * indices


def truths_in_numbers(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.gt_(y)
    w = y + z
    w.logical_not_()
    return z + w


def floored(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.floor_divide_(y.abs() + 0.5)
    return z + x


def handed_out_in_another_form(m: object, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    z = x * 2
    z.unsqueeze_(0).transpose_(1, 2)
    z.unsqueeze_(-1)
    w = x + y
    w.transpose_(0, 1)
    return z, w


def detached(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.detach_()
    z += y
    return z + x.detach_()


def reshaped(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.unsqueeze_(0)
    return z.squeeze(0) + z


@pytest.mark.parametrize(
    "function",
    [
        *(augmented, read_through_old_name, unused_result, fill_a_slot, unknown_in_place),
        *(element_of_a_pair, reshaped, detached, truths_in_numbers, floored),
        handed_out_in_another_form,
    ],
)
def test_in_place_becomes_functional(function: Callable[..., Any]) -> None:
    result = canonical(function, image(2, 3), image(2, 3, seed=1))
    names = [c.name if isinstance(c, OpDef) else getattr(c, "__name__", c) for c in calls(result)]
    assert not [n for n in names if n.endswith("_") or n == "iadd"], names
    assert not notes(result)


def through_a_view(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z[0].add_(y[0])
    return z


def seen_by_a_view(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    view = z.view(-1)
    z.add_(y)
    return view


def seen_through_a_chunk(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    a, _ = z.chunk(2, 1)
    a += 1
    return z


def narrower_in_place(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x.half()
    z += y
    return z


def into_out(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    torch.add(x, y, out=z)
    return z


@pytest.mark.parametrize(
    ("function", "note"),
    [
        (through_a_view, "shares its memory and is read later"),
        (seen_by_a_view, "shares its memory and is read later"),
        (seen_through_a_chunk, "shares its memory and is read later"),
        (narrower_in_place, "have other dtypes"),
        (into_out, "has no functional twin"),
    ],
)
def test_in_place_that_others_see_stays(function: Callable[..., Any], note: str) -> None:
    result = canonical(function, image(2, 4), image(2, 4, seed=1))
    assert len([n for n in notes(result) if note in n]) == 1, notes(result)


def test_in_place_on_a_buffer_stays() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return x + self.count

    result = run(Canonicalize(), Counts(), image(3))
    assert "changed in place" in notes(result)[0]
    first, second = result.graph_module(image(3)), result.graph_module(image(3))
    assert torch.equal(second, first + 1)


def test_one_in_place_module_called_twice() -> None:
    relu = nn.ReLU(inplace=True)
    result = canonical(lambda m, x, y: m.r(x + y) + m.r(x - y), image(3), image(3, seed=1), r=relu)
    assert calls(result).count(vocab.RELU) == 2
    assert relu.inplace


def test_a_long_chain_in_place_stays_linear() -> None:
    def chain(m: object, x: Tensor) -> Tensor:
        x = x * 1
        for _ in range(300):
            x.add_(1)
        return x

    assert calls(canonical(chain, image(3))) == [vocab.MUL] + [vocab.ADD] * 300


BEFORE = """\
%x    : f32[2,3] = input
%mul  : f32[2,3] = operator.mul(%x, 2)
%add_ : f32[2,3] = .add_(%mul, 1)
return %mul
"""

AFTER = """\
%x    : f32[2,3] = input
%mul  : f32[2,3] = mul(%x, 2)
%add_ : f32[2,3] = add(%mul, 1)
return %add_
"""

LEFT_OUT = """\
%x     : f32[2,3] = input
%mul   : f32[2,3] = mul(%x, 2)
%add_  : f32[2,3] = .add_(%mul, 1)
%after : f32[2,3] = after(%mul, %add_)
return %after
"""


def overwrites(m: object, x: Tensor) -> Tensor:
    y = x * 2
    y.add_(1)
    return y


def test_before_and_after() -> None:
    model = Lambda(overwrites)
    check_family("functionalize", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)
