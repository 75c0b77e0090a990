"""Near-misses of every family: the call stays as it was written, and a note says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.testing.checking import run
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import Lambda, image, notes

Written = Callable[[Any, Tensor], Any]

NEAR_MISSES: dict[str, tuple[Written, str]] = {
    # casts
    "to": (lambda m, x: x.to("cpu"), "it may move to another device, or copies"),
    # expand-attention
    "attention": (
        lambda m, x: m.attention(x[0], x[0], x[0], need_weights=x.shape[0] > 1)[0],
        "a flag of the attention is computed",
    ),
    # moves
    "hsplit": (
        lambda m, x: torch.hsplit(x, indices=[2])[0],
        "arguments of hsplit that are not known",
    ),
    "hsplit of rows": (
        lambda m, x: torch.hsplit(x[0, 0, 0], 2)[0],
        "parts that are computed, or of a tensor of one dim",
    ),
    "adjoint": (
        lambda m, x: x.to(torch.complex64).adjoint().real,
        "the adjoint of what may be complex",
    ),
    "hstack": (lambda m, x: torch.hstack(x.unbind(0)), "the list of tensors is computed"),
    # rewordings
    "median": (lambda m, x: torch.median(x, 1), "where the values were is read, too"),
    "softmin": (
        lambda m, x: F.softmin(x, 1, dtype=torch.float64),
        "another dtype, or a tensor of unknown rank",
    ),
    "rsub": (lambda m, x: torch.rsub(x, x * 2, alpha=2), "alpha scales what is subtracted"),
    "var": (lambda m, x: x.var(1, correction=x.shape[0] - 1), "its correction is computed"),
    # rename-spellings: layers
    "indices": (
        lambda m, x: F.adaptive_max_pool2d(x, 3, return_indices=True)[0],
        "return_indices=True has no canonical form",
    ),
    "batch": (
        lambda m, x: m.batch_norm(x),
        "the statistics are those of the batch, not tracked ones",
    ),
    "tracked": (lambda m, x: m.instance_norm(x), "instance norm with tracked statistics"),
    "instance": (
        lambda m, x: m.plain_norm(x[0]),
        "instance norm of an input without a batch dimension",
    ),
    "max_norm": (
        lambda m, x: m.embedding((x[0, 0] > 0).long()),
        "max_norm overwrites the weight whenever the model runs",
    ),
    "lstm": (lambda m, x: m.lstm(x[0])[0], "it projects its hidden state (proj_size=2)"),
    # rename-spellings: tensors
    "t": (lambda m, x: x[0, 0, 0].t(), "t() of a tensor that is no matrix"),
    "where": (
        lambda m, x: torch.where(x > 0)[0],
        "the places where a condition holds, of which there is any number",
    ),
    "repeats": (lambda m, x: torch.repeat_interleave(x, m.repeats, dim=1), "a tensor of repeats"),
    "floor": (lambda m, x: 2.0 // (x + 5), "a number divided by a tensor, rounded"),
    "cat": (lambda m, x: torch.cat(x.unbind(0)), "the list of tensors is computed"),
    "keepdim": (lambda m, x: torch.sum(x, dim=None, keepdim=True), "keepdim without dim"),
    "alpha": (lambda m, x: torch.add(2.0, x, alpha=3), "alpha scales the number, not the tensor"),
    # functionalize
    "state": (
        lambda m, x: m.state.add_(1.0) * x,
        "state is a parameter or buffer, changed in place",
    ),
    "addmm": (
        lambda m, x: torch.addmm(x[0, 0], x[0, 0], x[0, 0], out=x[1, 1] * 1),
        "addmm has no functional twin",
    ),
}


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)
        self.batch_norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.instance_norm = nn.InstanceNorm2d(4, track_running_stats=True)
        self.plain_norm = nn.InstanceNorm2d(4)
        self.embedding = nn.Embedding(4, 4, max_norm=1.0)
        self.lstm = nn.LSTM(6, 4, proj_size=2)
        self.register_buffer("state", torch.ones(1))
        self.register_buffer("repeats", torch.tensor([1, 2, 1, 1]))

    def forward(self, x: Tensor) -> list[Any]:
        return [written(self, x) for written, _ in NEAR_MISSES.values()]


@pytest.fixture(scope="module")
def noted() -> dict[str, str]:
    """The notes of one graph with all of them, by their names."""
    result = run(Canonicalize(), Everything().eval(), image(2, 4, 6, 6))
    return dict(zip(NEAR_MISSES, notes(result), strict=True))


@pytest.mark.parametrize("name", NEAR_MISSES)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_it_says_why(name: str, noted: dict[str, str]) -> None:
    assert noted[name] == NEAR_MISSES[name][1]


TRAINED: dict[str, tuple[nn.Module, str]] = {
    "dropouts": (nn.LSTM(6, 4, 2, dropout=0.5), "it drops out between its layers in training"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_it_says_why_in_a_graph_that_is_to_be_trained(name: str) -> None:
    model, reason = TRAINED[name]
    assert notes(run(Canonicalize(trainable=True), model.eval(), image(2, 4, 6))) == [reason]


def test_a_module_in_place_that_is_called_twice() -> None:
    model = nn.Sequential(*[nn.RReLU(inplace=True)] * 2)
    called = run(Canonicalize(), Lambda(lambda m, x: m.parts(x * 2), parts=model).eval(), image(3))
    assert notes(called) == ["an in-place module called twice"] * 2


def test_what_only_the_caller_sees_change() -> None:
    model = Lambda(lambda m, x: (x * 2, x.add_(1))[0]).eval()
    assert notes(run(Canonicalize(), model, image(3))) == [
        "only the caller reads what it leaves in x"
    ]
