"""``F.multi_head_attention_forward`` (WavLM calls it) was an unknown operation: 5 % coverage.

And ``nn.MultiheadAttention`` with ``add_bias_kv`` or ``add_zero_attn`` was an opaque module.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.testing.checking import assert_close, run
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.cases.flow import randn, seeded, sqnr, tensors

WIDTH, HEADS, LENGTH, KEYS, BATCH = 8, 2, 5, 4, 3
UP = torch.ones(LENGTH, KEYS).triu(1).bool()
MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "attn, bool": {"attn_mask": UP},
    "attn, float": {"attn_mask": randn(LENGTH, KEYS)},
    "attn of each head": {"attn_mask": randn(BATCH * HEADS, LENGTH, KEYS)},
    "padding, bool": {"key_padding_mask": torch.arange(KEYS).expand(BATCH, KEYS) > 2},
    "padding, float": {"key_padding_mask": randn(BATCH, KEYS)},
    "both": {"attn_mask": UP, "key_padding_mask": torch.arange(KEYS).expand(BATCH, KEYS) > 2},
}
EXTRAS: tuple[dict[str, Any], ...] = (
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6, "vdim": 10, "bias": False},
)


class Module(nn.Module):
    def __init__(self, options: dict[str, Any], need_weights: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, **options)
        self.need_weights = need_weights
        if self.attn.out_proj.bias is not None:
            nn.init.normal_(self.attn.out_proj.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **masks: Tensor) -> Any:
        return self.attn(q, k, v, need_weights=self.need_weights, **masks)


class Function(Module):
    """The same through the function; weights as the module holds them."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **masks: Tensor) -> Any:
        m = self.attn
        separate = {n: getattr(m, n) for n in ("q_proj_weight", "k_proj_weight", "v_proj_weight")}
        return F.multi_head_attention_forward(
            q, k, v, WIDTH, HEADS, m.in_proj_weight, m.in_proj_bias, m.bias_k, m.bias_v,
            m.add_zero_attn, m.dropout, m.out_proj.weight, m.out_proj.bias, training=self.training,
            need_weights=self.need_weights, average_attn_weights=False,
            use_separate_proj_weight=m.in_proj_weight is None, **separate, **masks,
        )  # fmt: skip


class WavLM(nn.Module):
    """As transformers calls it: projections of its own, biases joined, weights in layers."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.dropout = 0.1

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        output, _ = F.multi_head_attention_forward(
            x, x, x, WIDTH, HEADS, torch.empty([0]),
            torch.cat((self.q.bias, self.k.bias, self.v.bias)), None, None, False, self.dropout,
            self.out.weight, self.out.bias, self.training, None, False, bias,
            use_separate_proj_weight=True, q_proj_weight=self.q.weight,
            k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
        )  # fmt: skip
        return output.transpose(0, 1)


def operands(options: dict[str, Any], *, batched: bool = True) -> tuple[Tensor, ...]:
    widths = WIDTH, options.get("kdim", WIDTH), options.get("vdim", WIDTH)
    lengths = LENGTH, KEYS, KEYS
    if not batched:
        return tuple(randn(n, w) for n, w in zip(lengths, widths, strict=True))
    first = options.get("batch_first", False)
    pairs = zip(lengths, widths, strict=True)
    return tuple(randn(BATCH, n, w) if first else randn(n, BATCH, w) for n, w in pairs)


def check(model: nn.Module, *inputs: Tensor, **masks: Tensor) -> None:
    """The parts compute what the whole does, are all of the vocabulary, and quantize."""

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Tensor) -> Any:
            return self.model(*args[:3], **dict(zip(masks, args[3:], strict=True)))

    args = (*inputs, *masks.values())
    result = run(Canonicalize(), Called().eval(), args)
    with torch.no_grad():
        expected, found = model(*inputs, **masks), result.graph_module(*args)
    assert_close(tensors(found), tensors(expected), 1e-5)
    called = [n.target for n in result.graph_module.graph.nodes if n.op.startswith("call_")]
    assert not [t for t in called if not isinstance(t, vocab.OpDef)]
    assert called.count(vocab.LINEAR) == 4


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [Module, Function])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("need_weights", [True, False])
def test_masks(kind: type[Module], mask: str, need_weights: bool) -> None:
    for options in ({}, EXTRAS[2]):
        check(seeded(kind, options, need_weights), *operands(options), **MASKS[mask])


@pytest.mark.parametrize("kind", [Module, Function])
def test_extra_keys(kind: type[Module]) -> None:
    for options, need_weights in itertools.product(EXTRAS, (True, False)):
        check(seeded(kind, options, need_weights), *operands(options))
        check(seeded(kind, options, need_weights), *operands(options, batched=False))


def test_batch_first() -> None:
    for options, mask in itertools.product(EXTRAS, ("attn, bool", "both")):
        options = {**options, "batch_first": True}
        check(seeded(Module, options, True), *operands(options), **MASKS[mask])


def test_other_sizes() -> None:
    model = seeded(Function, EXTRAS[2], True)
    graph = run(Canonicalize(), model, operands({})).graph_module
    others = randn(7, 2, WIDTH), randn(6, 2, WIDTH), randn(6, 2, WIDTH)
    with torch.no_grad():
        assert_close(tensors(graph(*others)), tensors(model(*others)), 1e-5)


@pytest.mark.parametrize("method", ["dynamic", "static", "weight_only"])
def test_every_projection_is_quantized(method: str) -> None:
    model, inputs = seeded(WavLM), (randn(2, 5, WIDTH), randn(2 * HEADS, 5, 5))
    quantized = qfx.quantize(model, inputs, method=method)
    layers = [n for n in quantized.reference.graph.nodes if n.target is vocab.LINEAR]
    assert [n.args[1].target for n in layers] == [vocab.DEQUANTIZE] * 4
    with torch.no_grad():
        assert sqnr(model(*inputs), quantized(*inputs)) > 30


def test_training() -> None:
    model, inputs = seeded(WavLM), (randn(2, 5, WIDTH), randn(2 * HEADS, 5, 5))
    prepared = qfx.prepare(model, inputs, method="qat").train()
    prepared(*inputs).square().mean().backward()
    for name in ("q", "k", "v", "out"):
        assert prepared.get_parameter(f"{name}.weight").grad.abs().sum() > 0
    quantized = qfx.convert(prepared)
    with torch.no_grad():
        assert sqnr(model(*inputs), quantized(*inputs)) > 25


class Given(Module):
    def forward(self, q: Tensor, k: Tensor) -> Any:  # type: ignore[override]
        m = self.attn
        return F.multi_head_attention_forward(
            q, q, q, WIDTH, HEADS, m.in_proj_weight, m.in_proj_bias, None, None, False,
            0.5 * self.need_weights, m.out_proj.weight, m.out_proj.bias,
            training=self.need_weights, static_k=k, static_v=k,
        )[0]  # fmt: skip


@pytest.mark.parametrize(
    ("drops", "reason"),
    [
        (True, "attention with dropout, in training"),
        (False, "attention over keys or values that are given (static_k, static_v)"),
    ],
)
def test_what_stays_whole_says_why(drops: bool, reason: str) -> None:
    model = seeded(Given, {}, drops)
    result = run(Canonicalize(), model, (randn(5, 3, WIDTH), randn(6, 5, 4)))
    notes = [qfx.graph.meta.note_of(n) for n in result.graph_module.graph.nodes]
    assert reason in notes
