"""Multi-head attention is taken apart into its projections."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qfx import vocab
from qfx.testing.checking import run
from qfx.vocab import OpDef
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.passes.canonical.canonical_forms import (
    Lambda,
    assert_same,
    calls,
    canonical,
    check_family,
    image,
    layer,
    notes,
)

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


BEFORE = """\
%x       : f32[3,2,8]      = input
%attn    : (f32[3,2,8], _) = MultiheadAttention[@attn](%x, %x, %x, need_weights=False)
%getitem : f32[3,2,8]      = operator.getitem(%attn, 0)
return %getitem
"""

AFTER = """\
%x       : f32[3,2,8]   = input
%attn_1  : f32[3,2,24]  = linear(%x, @attn.in_proj_weight, @attn.in_proj_bias)
%attn_2  : (f32[3,2,8], f32[3,2,8], f32[3,2,8]) = chunk(%attn_1, chunks=3, dim=-1)
%attn_3  : f32[3,2,8]   = getitem(%attn_2, 0)
%attn_4  : f32[3,2,8]   = getitem(%attn_2, 1)
%attn_5  : f32[3,2,8]   = getitem(%attn_2, 2)
%attn_6  : f32[3,2,2,4] = unflatten(%attn_3, dim=-1, sizes=(2, 4))
%attn_7  : f32[2,2,3,4] = permute(%attn_6, dims=(1, 2, 0, 3))
%attn_8  : f32[3,2,2,4] = unflatten(%attn_4, dim=-1, sizes=(2, 4))
%attn_9  : f32[2,2,3,4] = permute(%attn_8, dims=(1, 2, 0, 3))
%attn_10 : f32[3,2,2,4] = unflatten(%attn_5, dim=-1, sizes=(2, 4))
%attn_11 : f32[2,2,3,4] = permute(%attn_10, dims=(1, 2, 0, 3))
%attn_12 : f32[2,2,3,4] = attention(%attn_7, %attn_9, %attn_11)
%attn_13 : f32[3,2,2,4] = permute(%attn_12, dims=(2, 0, 1, 3))
%attn_14 : f32[3,2,8]   = flatten(%attn_13, start_dim=-2)
%attn_15 : f32[3,2,8]   = linear(%attn_14, @attn.out_proj.weight, @attn.out_proj.bias)
return %attn_15
"""

LEFT_OUT = """\
%x       : f32[3,2,8]      = input
%attn    : (f32[3,2,8], _) = MultiheadAttention[@attn](%x, %x, %x, need_weights=False)
%getitem : f32[3,2,8]      = getitem(%attn, 0)
return %getitem
"""


def attends(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.attn(x, x, x, need_weights=False)[0]
    return y


def test_before_and_after() -> None:
    model = Lambda(attends, attn=nn.MultiheadAttention(8, 2))
    check_family("expand-attention", model, image(3, 2, 8), BEFORE, AFTER, LEFT_OUT)
