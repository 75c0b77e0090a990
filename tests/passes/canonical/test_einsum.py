"""Every form of ``einsum``, as permutations and a product of each two operands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.graph import meta
from qfx.testing.checking import assert_close, run
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.cases.flow import randn, seeded, sqnr

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6, "f": 2}
EQUATIONS = (
    *("abc,acd->abd", "abcd,abed->abce", "abcd,aecd->abce", "abcd,aecd->acbe", "ab,cb->ac"),
    *("abc,cd->abd", "abc,cde->abde", "ab,bcd->acd", "abcd,cde->abe", "cd,abc->abd", "abe,bcd->ae"),
    *(
        "abc,ac->ab",
        "ac,abc->ab",
        "abc,abc->a",
        "ab,ab->ab",
        "ab,ac->abc",
        "abc,b->abc",
        "b,abc->cab",
    ),
    *("a,a->", "a,a->a", "a,b->ab", "ab,b->a", "abc,bd->acd", "abcd,abce->abde", "abcd,bcde->abe"),
    *("ab->ba", "abc->ac", "abc->", "abc->cab", "ab", "ba", "ab,bc", "abc,cb"),
    *("ab,bc,cd->ad", "abc,cd,bd->ab", "ab,cb,ac,ad->cd", "a,b,c->cab"),
    *("...a,ab->...b", "a...,ab->b...", "...ab,...bc->...ac", "...ab,bc->...ac", "ab, b c -> a c"),
)


class Einsum(nn.Module):
    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, *operands: Tensor) -> Tensor:
        return torch.einsum(self.equation, *operands)


def operands(equation: str, batch: int = 2) -> tuple[Tensor, ...]:
    sizes = {**SIZES, "a": batch}
    terms = equation.replace(" ", "").replace("...", "ef").partition("->")[0].split(",")
    return tuple(randn(*(sizes[i] for i in t), seed=n) for n, t in enumerate(terms))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_is_products(equation: str) -> None:
    model = Einsum(equation)
    graph = run(Canonicalize(), model, operands(equation)).graph_module
    called = [n.target for n in graph.graph.nodes if n.op.startswith("call_")]
    assert torch.einsum not in called
    assert [t in (vocab.MATMUL, vocab.MUL) for t in called].count(True) == equation.count(",")
    for batch in (2, 3):  # no size is written down
        given = operands(equation, batch)
        assert_close([graph(*given)], [model(*given)], 1e-5)


LAYERS = ("abc,cde->abde", "cde,abc->abde", "abc,dc->adb", "abcd,cde->abe", "dc,abc->bad")


class Layer(nn.Module):
    """A product with a parameter, of which XLNet and the like make their projections."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation, terms = equation, equation.partition("->")[0].split(",")
        self.is_left = "a" not in terms[0]
        own = terms[0] if self.is_left else terms[1]
        self.weight = nn.Parameter(torch.randn([SIZES[i] for i in own]))
        self.given = terms[1] if self.is_left else terms[0]

    def forward(self, x: Tensor) -> Tensor:
        pair = (self.weight, x) if self.is_left else (x, self.weight)
        return torch.einsum(self.equation, *pair)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
@pytest.mark.parametrize("equation", LAYERS)
def test_product_with_a_parameter_is_a_layer(equation: str, method: str) -> None:
    model = seeded(Layer, equation)
    x = randn(*(SIZES[i] for i in model.given))
    quantized = qfx.quantize(model, x, method=method)
    layers = [n for n in quantized.reference.graph.nodes if n.target is vocab.LINEAR]
    assert [n.args[1].target for n in layers] == [vocab.DEQUANTIZE]
    other = randn(*(7 if i == "a" else SIZES[i] for i in model.given))
    with torch.no_grad():
        assert sqnr(model(x), quantized(x)) > 28
        assert sqnr(model(other), quantized(other)) > 15, "values beyond the range that was seen"


class Trained(nn.Module):
    """Parameters that are not laid out as weights are: of XLNet, of GPT-2, and behind ``@``."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(4, 2, 5))
        self.back = nn.Parameter(torch.randn(6, 2, 5))
        self.square, self.bias = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bic,cnd->bind", x, self.heads)
        y = torch.einsum("bind,hnd->bih", y, self.back)
        return torch.addmm(self.bias, y.flatten(0, 1), self.square) @ self.square.T


def test_parameters_in_any_order_are_trained_as_weights() -> None:
    model, x = seeded(Trained), randn(2, 3, 4)
    prepared = qfx.prepare(model, (x,), method="qat", backend="x86").train()
    assert {n for n, _ in prepared.named_parameters()} == {n for n, _ in model.named_parameters()}
    optimizer = torch.optim.SGD(prepared.parameters(), 1e-7)
    prepared(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in prepared.parameters())
    optimizer.step()
    quantized = qfx.convert(prepared.eval())
    assert quantized.report.coverage == 1
    with torch.no_grad():
        assert torch.equal(quantized.reference(x), prepared(x))
        assert sqnr(model(x), quantized(x)) > 20


@pytest.mark.parametrize(
    ("equation", "shapes", "reason"),
    [
        ("aab,bc->ac", ((3, 3, 2), (2, 4)), "einsum aab,bc->ac takes a diagonal"),
        ("ab,bc->ac", ((3, 1), (2, 4)), "einsum ab,bc->ac broadcasts"),
    ],
)
def test_what_stays(equation: str, shapes: tuple[tuple[int, ...], ...], reason: str) -> None:
    result = run(Canonicalize(), Einsum(equation), tuple(randn(*s) for s in shapes))
    (node,) = [n for n in result.graph_module.graph.nodes if n.target is torch.einsum]
    assert meta.note_of(node) == reason
