"""Random functions on parameters were folded into a constant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx.capture.capture import capture
from qfx.graph.effects import is_random
from qfx_passes import Canonicalize, FoldConstants
from tests.cases.flow import randn, seeded, sqnr

X = randn(2, 6)

DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "gumbel_softmax": lambda w: F.gumbel_softmax(w, dim=-1),
    "dropout": lambda w: F.dropout(w, 0.5, training=True),
    "alpha_dropout": lambda w: F.alpha_dropout(w, 0.5, training=True),
    "rrelu": lambda w: F.rrelu(w, training=True),
    "rand_like": torch.rand_like,
    "randn_like": lambda w: w + torch.randn_like(w),
    "bernoulli": lambda w: torch.bernoulli(w.sigmoid()),
    "normal": lambda w: torch.normal(w, 1.0),
    "normal of numbers": lambda w: w + torch.normal(0.0, 1.0, (6,)),
    "multinomial": lambda w: w[torch.multinomial(w.exp(), 6)],
    "randperm": lambda w: w[torch.randperm(6)],
    "rand": lambda w: w + torch.rand(6),
    "randint": lambda w: w + torch.randint(0, 1000, (6,)),
    "in place": lambda w: torch.empty_like(w).exponential_(),
    "init": lambda w: nn.init.normal_(torch.empty_like(w)),
    "distribution": lambda w: torch.distributions.Normal(w, 1.0, validate_args=False).rsample(),
}


class Draws(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)
        self.weight = nn.Parameter(torch.randn(6))
        self.draw = DRAWS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.draw(self.weight))


def twice(model: nn.Module) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    with torch.no_grad():
        return model(X), model(X)


@pytest.mark.sweep(first=6)
@pytest.mark.parametrize("name", DRAWS)
def test_draws_anew_as_the_model_does(name: str) -> None:
    model = seeded(Draws, name)
    folded, _ = qfx.run_passes(model, [Canonicalize(), FoldConstants()], X)
    for expected, got in zip(twice(model), twice(folded), strict=True):
        torch.testing.assert_close(got, expected)
    made = qfx.quantize(model, X, backend="reference", method="weight_only")
    first, second = twice(made)
    assert not torch.equal(first, second)
    assert sqnr(twice(model)[1], second) > 20


def test_the_report_says_so() -> None:
    report = qfx.quantize(seeded(Draws, "gumbel_softmax"), X, backend="reference").report
    (site,) = [s for s in report.sites if s.reason == "random"]
    assert (
        site.message
        == "torch.nn.functional.gumbel_softmax draws random numbers, anew in every call"
    )
    assert site.remedy == "nothing to do: what follows is quantized"
    assert report.coverage == 1


class Unread(nn.Module):
    """Draws what nobody reads, and the same twice: what is drawn next depends on either."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3)
        torch.rand(4)
        return self.linear(x) + torch.rand(4)


def test_no_draw_is_removed_or_merged() -> None:
    model = seeded(Unread)
    made = qfx.quantize(model, X, backend="x86")
    for expected, got in zip(twice(model), twice(made), strict=True):
        assert sqnr(expected, got) > 25


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.rand([]) < 0.5 else x


class Outside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.empty(6).normal_()


def test_what_can_not_be_drawn_anew_is_refused() -> None:
    with pytest.raises(qfx.CaptureError, match="a branch that depends on the contents"):
        capture(Decides(), (X,))
    with pytest.raises(qfx.CaptureError, match="random numbers drawn into a tensor that") as raised:
        capture(Outside(), (X,))
    assert "like torch.randn(...)" in str(raised.value)


class Plain(nn.Module):
    """Nothing here draws, though torch's tags say of attention that it may."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.scaled_dot_product_attention(x[None], x[None], x[None])[0]
        return F.dropout(self.linear(x), 0.5, training=self.training)


def test_what_could_draw_and_does_not_is_no_draw() -> None:
    graph = capture(seeded(Plain), (X,)).graph
    assert not any(map(is_random, graph.nodes))


class PutDraw(qfx.Pass):
    """Puts a function that draws, of which capture knows nothing, on a parameter."""

    name = "put-draw"
    keeps_values = False

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        node = next(n for n in graph.nodes if n.op == "get_attr" and n.target == "weight")
        (reader,) = node.users
        with ctx.rewriter.at(reader):
            drawn = ctx.rewriter.call(F.gumbel_softmax, node)
        reader.replace_input_with(node, drawn)


class Scales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.linear = nn.Parameter(torch.ones(6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.weight)


def test_what_a_pass_puts_is_not_folded_either() -> None:
    made, _ = qfx.run_passes(seeded(Scales), [Canonicalize(), PutDraw(), FoldConstants()], X)
    first, second = twice(made)
    assert not torch.equal(first, second)


def test_global_state_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    rand = torch.rand
    capture(seeded(Unread), (X,))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.rand is rand
