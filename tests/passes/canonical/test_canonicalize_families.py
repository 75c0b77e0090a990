"""In-place calls, stubs, hooks, opaque modules and attention in canonical form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import vocab
from qfx.stubs import DeQuantStub, QuantStub
from qfx.vocab import OpDef
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import (
    Lambda,
    X,
    assert_same,
    calls,
    canonical,
    image,
    layer,
    notes,
)
from tests.support.checking import run


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
    values, indices = x.max(dim=0)
    values += 1
    return values * indices


def reshaped(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.unsqueeze_(0)
    return z.squeeze(0) + z


@pytest.mark.parametrize(
    "function",
    [
        *(augmented, read_through_old_name, unused_result, fill_a_slot, unknown_in_place),
        *(element_of_a_pair, reshaped),
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


def test_stubs_become_stubs() -> None:
    result = canonical(nn.Sequential(QuantStub(), nn.ReLU(), DeQuantStub()), image(3))
    assert calls(result) == [vocab.QUANT_STUB, vocab.RELU, vocab.DEQUANT_STUB]


def test_stubs_of_others_are_known_by_name() -> None:
    stub = type("QuantStub", (nn.Module,), {"forward": lambda self, x: x})
    stub.__module__ = "torch.ao.quantization.stubs"
    other = type("QuantStub", (nn.Module,), {"forward": lambda self, x: x})
    result = canonical(nn.Sequential(stub(), other(), nn.ReLU()), image(3))
    assert calls(result) == [vocab.QUANT_STUB, vocab.RELU]


def test_a_module_with_hooks_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, result: result * 2)
    result = canonical(model, image(2, 3))
    assert calls(result) == ["0", vocab.RELU]
    assert "hooks" in notes(result)[0]


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (nn.LSTM(3, 4, proj_size=2), image(5, 2, 3)),
        (nn.Embedding(5, 3, max_norm=1.0), torch.tensor([1, 4])),
        (nn.EmbeddingBag(5, 3, max_norm=1.0), torch.tensor([[1, 4]])),
    ],
)
def test_opaque_modules_stay(module: nn.Module, inputs: Tensor) -> None:
    model = Lambda(lambda m, x: m.layer(x), layer=module).eval()
    assert "layer" in calls(canonical(model, inputs))


ATTENTION = [
    (options, shape)
    for options in ({}, {"bias": False}, {"batch_first": True})
    for shape in ((5, 2, 8), (5, 8))
]


@pytest.mark.sweep
@pytest.mark.parametrize(("options", "shape"), ATTENTION)
@pytest.mark.parametrize("need_weights", [True, False])
def test_self_attention(
    options: dict[str, Any], shape: tuple[int, ...], need_weights: bool
) -> None:
    attention = nn.MultiheadAttention(8, 2, **options)
    nn.init.normal_(attention.out_proj.weight)

    def function(m: Any, x: Tensor) -> Any:
        return m.attn(x, x, x, need_weights=need_weights)

    model = Lambda(function, attn=attention).eval()
    result = canonical(model, image(*shape), atol=1e-5)
    assert calls(result).count(vocab.LINEAR) == 2
    expected = vocab.ATTENTION_WEIGHTS if need_weights else vocab.ATTENTION
    assert expected in calls(result)
    assert "attn.in_proj_weight" in result.graph_module.state_dict()
    for other in [(s + 3, *shape[1:]) for s in shape[:1]]:
        assert_same(result, model, image(*other), atol=1e-5)
    if len(shape) == 3:
        assert_same(result, model, image(4, 7, 8), atol=1e-5)


def cross(m: Any, query: Tensor, memory: Tensor) -> Any:
    return m.attn(query, memory, memory * 2, average_attn_weights=False)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("dims", [{}, {"kdim": 6, "vdim": 6}])
def test_cross_attention(dims: dict[str, int], batch_first: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **dims)
    memory = image(3, 3, dims.get("kdim", 8), seed=1)
    result = canonical(cross, image(3, 3, 8), memory, atol=1e-6, attn=attention)
    assert calls(result).count(vocab.LINEAR) == 4
    constants = {n.target for n in result.graph_module.graph.nodes if n.op == "get_attr"}
    assert "attn.in_proj_bias_k" in constants
    assert ("attn.k_proj_weight" if dims else "attn.in_proj_weight_k") in constants


MASKS = {
    "attn_mask": [
        torch.triu(torch.ones(4, 4, dtype=torch.bool), 1),
        torch.triu(torch.full((4, 4), -2.0), 1),
        torch.triu(torch.full((6, 4, 4), -2.0), 1) * torch.arange(6).view(6, 1, 1),
    ],
    "key_padding_mask": [
        torch.tensor([[False] * 4, [False, False, True, True], [False, True, True, True]]),
        torch.tensor([[0.0] * 4, [0.0, -1.0, 0.5, 0.0], [0.0, 0.0, 2.0, 0.0]]),
    ],
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    ("name", "mask"), [(name, mask) for name, masks in MASKS.items() for mask in masks]
)
def test_attention_masks(name: str, mask: Tensor, need_weights: bool) -> None:
    def function(m: Any, x: Tensor, mask: Tensor) -> Any:
        return m.attn(x, x, x, need_weights=need_weights, **{name: mask})

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    canonical(function, image(3, 4, 8), mask, atol=1e-6, attn=attention)


def test_both_attention_masks_at_once() -> None:
    def function(m: Any, x: Tensor, first: Tensor, second: Tensor) -> Any:
        return m.attn(x, x, x, attn_mask=first, key_padding_mask=second)[0]

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    masks = MASKS["attn_mask"][0], MASKS["key_padding_mask"][0]
    canonical(function, image(3, 4, 8), *masks, atol=1e-6, attn=attention)


@pytest.mark.parametrize(
    ("options", "training", "note"),
    [
        ({"dropout": 0.5}, True, "attention with dropout, in training"),
    ],
)
def test_attention_that_stays_whole(options: dict[str, Any], training: bool, note: str) -> None:
    model = Lambda(lambda m, x: m.attn(x, x, x)[0], attn=nn.MultiheadAttention(8, 2, **options))
    result = run(Canonicalize(), model.train(training), image(4, 3, 8))
    assert calls(result)[0] == "attn"
    assert note in notes(result)[0]


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder(norm_first: bool) -> None:
    one = layer(nn.TransformerEncoderLayer, norm_first=norm_first)
    encoder = nn.TransformerEncoder(one, 2, enable_nested_tensor=False).eval()
    result = canonical(encoder, image(2, 5, 8), atol=1e-5)
    assert calls(result).count(vocab.LINEAR) == 8
    assert not [c for c in calls(result) if not isinstance(c, OpDef)]
    assert_same(result, encoder, image(3, 7, 8), atol=1e-5)


def test_transformer_with_masks() -> None:
    transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    result = canonical(transformer, image(2, 5, 8), image(2, 4, 8), None, mask, atol=1e-5)
    assert calls(result).count(vocab.ATTENTION) == 3
    assert_same(result, transformer, image(3, 6, 8), image(3, 4, 8), None, mask, atol=1e-5)


def test_the_history_names_the_family_that_rewrote_a_call() -> None:
    def forward(m: object, x: Tensor) -> Tensor:
        x.abs()
        return torch.relu_(F.dropout(x * 2, 0.5, False).float()).view(x.shape[0], -1)

    result = canonical(forward, image(*X))
    rules = {event.rule for event in result.history["canonicalize"].events}
    families = ("rename-spellings", "dropouts", "casts", "sizes", "remove-unread")
    assert {f"canonicalize/{name}" for name in families} <= rules
