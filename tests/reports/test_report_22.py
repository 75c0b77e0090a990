"""What a model decides by gradient mode or by the layout of a tensor was baked in without a word.

Either way is tried: where both compute the same there is nothing to say; else the report warns and
names the line.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, is_grad_enabled, nn
from torch._prims_common import is_contiguous
from torch.utils.checkpoint import checkpoint

import qfx
from tests.cases.flow import randn, seeded

Decides = Callable[[Tensor], Tensor]


def by_grad(y: Tensor) -> Tensor:
    return y * 2 if torch.is_grad_enabled() else y


def by_grad_imported(y: Tensor) -> Tensor:
    return y if not is_grad_enabled() else y + 1


def by_inference(y: Tensor) -> Tensor:
    return y * 2 if torch.is_inference_mode_enabled() else y


def by_autocast(y: Tensor) -> Tensor:
    return y * 2 if torch.is_autocast_enabled() else y


def by_requires_grad(y: Tensor) -> Tensor:
    return y * 2 if y.requires_grad else y


def by_graph(y: Tensor) -> Tensor:
    return y * 2 if y.grad_fn is not None else y


def by_contiguity(y: Tensor) -> Tensor:
    return y * 2 if y.is_contiguous() else y


def by_format(y: Tensor) -> Tensor:
    return y * 2 if y.is_contiguous(memory_format=torch.channels_last) else y


def by_identity(y: Tensor) -> Tensor:
    return y * 2 if y.is_contiguous() is True else y


def by_text(y: Tensor) -> Tensor:
    return y * {"True": 2, "False": 3}[str(y.is_contiguous())]


def by_product(y: Tensor) -> Tensor:
    return y * (1 + int(y.is_contiguous())) + y.is_contiguous()


def by_helper(y: Tensor) -> Tensor:
    return y * 2 if is_contiguous(y) else y


def by_stride(y: Tensor) -> Tensor:
    return y * 2 if y.stride(1) == 1 else y


def by_a_number(y: Tensor) -> Tensor:
    return y * [2, 3][min(y.stride()[-1], 1)]


def same_by_contiguity(y: Tensor) -> Tensor:
    return y if y.is_contiguous() else y.contiguous()


def same_by_grad(y: Tensor) -> Tensor:
    if torch.is_grad_enabled() and y.requires_grad:
        return checkpoint(torch.relu, y, use_reentrant=False)
    return torch.relu(y)


DIFFER = [by_grad, by_grad_imported, by_inference, by_autocast, by_requires_grad, by_graph]
LAYOUTS = [by_contiguity, by_format, by_stride, by_a_number]
LAYOUTS += [by_identity, by_text, by_product, by_helper]


class Deciding(nn.Module):
    def __init__(self, function: Decides) -> None:
        super().__init__()
        self.first, self.function = nn.Conv2d(3, 4, 1), function
        self.second = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


def warned(function: Decides, method: str = "static") -> list[str]:
    model = seeded(lambda: Deciding(function))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", qfx.QfxWarning)
        if method == "qat":
            qfx.prepare(model, randn(2, 3, 8, 8), method="qat")
            return [str(w.message) for w in caught]
        report = qfx.quantize(model, randn(2, 3, 8, 8)).report
    assert report.warnings == tuple(str(w.message) for w in caught)
    return list(report.warnings)


def line_of(function: Decides) -> str:
    return f"test_report_22.py:{function.__code__.co_firstlineno + 1}"


@pytest.mark.parametrize("function", DIFFER)
def test_how_it_is_run(function: Decides) -> None:
    (text,) = warned(function)
    assert "computes something else by the answer" in text
    assert line_of(function) in text


@pytest.mark.parametrize("function", LAYOUTS)
def test_layouts(function: Decides) -> None:
    (text,) = warned(function)
    assert "forward decides by the layout of a tensor" in text
    assert line_of(function) in text


@pytest.mark.parametrize("function", [same_by_contiguity, same_by_grad])
def test_what_makes_no_difference_is_not_worth_a_word(function: Decides) -> None:
    assert warned(function) == []


def test_in_training() -> None:
    (text,) = warned(by_grad, "qat")
    assert line_of(by_grad) in text


def test_answers_are_those_of_torch_again() -> None:
    warned(by_grad)
    with torch.no_grad():
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert "checkpoint" not in torch.is_grad_enabled.__name__
