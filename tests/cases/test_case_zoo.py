"""Small graphs of every kind that users write: each runs, near the float model and the reference.

What is asserted is what must hold of any of them; the counts of nodes are for the other files.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import qfx
from tests.cases.flow import (
    less_a_bit,
    quantized,
    randn,
    run,
    seeded,
    sqnr,
    steps_of_branches,
    tensors,
)

X = randn(2, 3, 8, 8)
TOKENS = randn(2, 5, 8)
CAUSAL = torch.full((5, 5), float("-inf")).triu(1)

Case = tuple[Callable[..., Any], tuple[Tensor, ...], dict[str, Callable[[], Any]]]
CASES: dict[str, Case] = {}


class Model(nn.Module):
    """A module whose forward is a function of itself and the input."""

    def __init__(self, function: Callable[..., Any], parts: dict[str, Callable[[], Any]]) -> None:
        super().__init__()
        self.function = function
        for name, make in parts.items():
            setattr(self, name, make())

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self.function(self, x) if y is None else self.function(self, x, y)


def case(*inputs: Tensor, **parts: Callable[[], Any]) -> Callable[..., Any]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES[function.__name__] = (function, inputs, parts)
        return function

    return register


def conv(
    inputs: int = 3, outputs: int = 4, size: int = 3, **options: Any
) -> Callable[[], nn.Module]:
    options.setdefault("padding", size // 2)
    return lambda: nn.Conv2d(inputs, outputs, size, **options)


def linear(inputs: int = 8, outputs: int = 8) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(inputs, outputs)


def parameter(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(*shape))


def activations(*functions: Callable[[Tensor], Tensor]) -> None:
    """conv -> function -> conv, for each function."""
    for number, function in enumerate(functions):
        if isinstance(function, nn.Module):

            def forward(s: Any, x: Tensor) -> Tensor:
                return s.d(s.f(s.c(x)))
        else:

            def forward(s: Any, x: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
                return s.d(function(s.c(x)))

        name = getattr(function, "__name__", type(function).__name__)
        forward.__name__ = f"between_{number}_{name.strip('<>_')}"
        case(X, c=conv(), f=lambda function=function: copy.deepcopy(function), d=conv(4))(forward)


# -- residuals, joins, outputs --------------------------------------------------------------------
@case(X, c=conv(), d=conv(4))
def two_outputs(s, x):
    y = s.c(x)
    return y, s.d(y)


@case(X, c=conv(), d=conv())
def sum_of_two(s, x):
    return s.c(x) + s.d(x)


@case(X, c=conv(3, 3))
def residual_of_the_input(s, x):
    return F.relu(s.c(x) + x)


@case(X, c=conv(3, 3), d=conv(3, 3))
def residual_chain(s, x):
    y = s.c(x)
    z = s.d(y) + y
    return F.relu(s.d(z) + z)


@case(TOKENS, c=linear(), d=linear())
def linear_residual(s, x):
    y = s.c(x)
    return F.relu(s.d(y) + y)


@case(X, c=conv())
def twice_itself(s, x):
    y = s.c(x)
    return y + y, y * y, torch.cat([y, y], 1)


@case(X, c=conv(), d=conv(7, 2))
def cat_with_the_input(s, x):
    return s.d(torch.cat([s.c(x), x], 1))


@case(X, c=conv(), d=conv(8, 2))
def cat_of_one_sign_and_both(s, x):
    y = s.c(x)
    return s.d(torch.cat([y.relu(), y], 1))


@case(X, c=conv())
def the_input_is_an_output(s, x):
    return {"x": x, "moved": x.permute(0, 2, 3, 1), "y": s.c(x.flip(2))}


@case(X, c=conv())
def values_and_indices(s, x):
    return s.c(x).flatten(1).topk(3)


# -- layers ---------------------------------------------------------------------------------------
@case(X, c=conv(padding_mode="reflect"), d=conv(4, 2, padding="same"))
def paddings_by_name(s, x):
    return s.d(s.c(x))


@case(X, c=conv(3, 6, groups=3), d=conv(6, 6, groups=6, dilation=2, stride=2, bias=False))
def grouped_and_dilated(s, x):
    return s.d(F.relu6(s.c(x)))


@case(X, c=conv(3, 4), d=lambda: nn.ConvTranspose2d(4, 3, 2, stride=2), e=conv(3, 3))
def up_and_down(s, x):
    return s.e(F.relu(s.d(s.c(x))))


@case(X, c=conv(), d=conv(4))
def tied(s, x):
    return s.d(F.conv2d(s.c(x), s.d.weight, padding=1))


@case(X, c=conv(), p=lambda: torch.randn(4, 4, 1, 1))
def weight_that_is_no_parameter(s, x):
    return F.conv2d(s.c(x), s.p * 0.5)


@case(TOKENS, c=linear(), g=parameter(8, 1), v=parameter(8, 8))
def weight_norm_by_hand(s, x):
    return F.linear(s.c(x), s.g * s.v / s.v.norm(dim=1, keepdim=True))


@case(TOKENS, randn(8), c=linear())
def computed_bias(s, x, bias):
    return s.c(F.linear(x, s.c.weight, bias * 2))


@case(TOKENS, randn(8, 8, seed=1), c=linear())
def computed_weight(s, x, weight):
    return F.linear(s.c(x), weight)


@case(X, c=conv(), d=lambda: nn.Linear(4, 4))
def linear_over_channels_last(s, x):
    return s.d(s.c(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@case(torch.arange(10).reshape(2, 5), e=lambda: nn.Embedding(10, 8), c=linear())
def embedding_then_linear(s, x):
    return s.c(s.e(x))


@case(X, c=conv(), d=conv(4, 4, 1), e=conv(4, 4, 1))
def squeeze_and_excite(s, x):
    y = s.c(x)
    gate = F.relu(s.d(y.mean((2, 3), keepdim=True)))
    return y * torch.sigmoid(s.e(gate))


@case(X, c=conv(), p=parameter(4, 1, 1), q=parameter(4, 1, 1), d=conv(4))
def scale_and_shift(s, x):
    return s.d(s.c(x) * s.p + s.q)


@case(X, b=lambda: nn.BatchNorm2d(3), c=conv())
def norm_before_conv(s, x):
    return s.c(F.relu(s.b(x)))


# -- attention ------------------------------------------------------------------------------------
@case(TOKENS, q=linear(), k=linear(), v=linear())
def attention(s, x):
    scores = s.q(x) @ s.k(x).transpose(-2, -1) / math.sqrt(8)
    return scores.softmax(-1) @ s.v(x)


@case(TOKENS, CAUSAL, q=linear(), k=linear(), v=linear())
def attention_with_mask(s, x, mask):
    scores = torch.matmul(s.q(x), s.k(x).transpose(-2, -1)) * 0.35 + mask
    return torch.softmax(scores, -1) @ s.v(x)


@case(TOKENS, CAUSAL.clamp(min=-1e4), q=linear(), k=linear(), v=linear())
def attention_with_finite_mask(s, x, mask):
    scores = torch.matmul(s.q(x), s.k(x).transpose(-2, -1)) * 0.35
    return torch.softmax(scores + mask, -1) @ s.v(x)


@case(TOKENS, CAUSAL == 0, q=linear(), k=linear())
def attention_with_boolean_mask(s, x, keep):
    scores = torch.matmul(s.q(x), s.k(x).transpose(-2, -1))
    return torch.softmax(scores.masked_fill(~keep, float("-inf")), -1) @ x


@case(TOKENS, a=lambda: nn.MultiheadAttention(8, 2, batch_first=True))
def multi_head_attention(s, x):
    return s.a(x, x, x, need_weights=False)[0]


@case(TOKENS, c=linear(), n=lambda: nn.LayerNorm(8), d=linear(8, 3))
def layer_norm(s, x):
    return s.d(s.n(s.c(x) + x))


# -- shapes, indexing, in place -------------------------------------------------------------------
@case(X, c=conv(), d=conv(4, 2))
def unbind_and_stack(s, x):
    a, b, *_ = s.c(x).unbind(1)
    return s.d(torch.stack([a, b, a, b], 1))


@case(X, c=conv(), d=conv(2, 2))
def split(s, x):
    a, b = s.c(x).split(2, 1)
    return s.d(a) + s.d(b)


@case(X, c=conv(), d=conv(4, 2))
def slices(s, x):
    return s.d(s.c(x)[:, :, ::2, 1:])


@case(X, c=conv(), d=conv(4, 2))
def checked_view(s, x):
    y = s.c(x)
    b, c, h, w = y.shape
    assert c == 4
    return s.d(y.view(b, c, h * w).view(b, c, h, w))


@case(X, c=conv(), d=conv(4, 2))
def write_into_a_slice(s, x):
    y = s.c(x)
    y[:, 0] = x[:, 0]
    return s.d(y)


@case(X, c=conv(), d=conv(4))
def in_place_through_another_name(s, x):
    y = s.c(x)
    z = y
    y += 1
    return s.d(z)


@case(X, c=conv(), d=conv(4))
def in_place_through_a_view(s, x):
    y = s.c(x)
    y[:, 0].relu_()
    return s.d(y)


@case(X, c=conv(), d=conv(4))
def max_unpool(s, x):
    y, indices = F.max_pool2d(s.c(x), 2, return_indices=True)
    return s.d(F.max_unpool2d(y, indices, 2))


@case(X, c=conv(), d=conv(4))
def through_float64(s, x):
    return s.d(s.c(x).double().float())


@case(X, c=conv(), d=conv(4))
def einsum(s, x):
    y = s.c(x)
    return s.d(torch.einsum("bchw,bchv->bcwv", y, y))


activations(
    F.hardswish, F.silu, F.gelu, F.elu, F.leaky_relu, F.mish, torch.sigmoid, torch.tanh, F.relu6,
    nn.PReLU(), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, affine=True),
    nn.AdaptiveAvgPool2d(3), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Upsample(scale_factor=2),
    lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    lambda x: F.pad(x, (1, 2, 0, 1)), lambda x: F.pad(x, (1, 2, 0, 1), value=3.0),
    lambda x: x.clamp(min=-0.1), lambda x: x.clamp(max=0.1), lambda x: F.hardtanh(x, -0.2, 0.3),
    lambda x: (x - 0.5) / 2, lambda x: 1 - x, lambda x: x * -2, lambda x: x * 0.5 + 0,
    lambda x: x.roll((1, 2), (2, 3)), lambda x: F.channel_shuffle(x, 2), lambda x: x.detach(),
    lambda x: x * x.amax((2, 3), keepdim=True), lambda x: torch.where(x > 0, x, x * 0.1),
    lambda x: F.relu(F.max_pool2d(x, 2)),
)  # fmt: skip


STEPS = {"between_16_lambda": 2.0}
"""Halfway between two codes, quantized interpolation rounds one way (which, changes with PyTorch),
the reference to even: a step each, which the convolution behind adds up."""


class Several(nn.Module):
    """Models side by side."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.eval()

    def forward(self, calls: list[tuple[Tensor, ...]]) -> list[Any]:
        return [model(*args) for model, args in zip(self.models, calls, strict=True)]


AT_ONCE = 8
"""So many are quantized as one: a pipeline costs as much as one of them."""


@pytest.mark.sweep(first=4)
@pytest.mark.parametrize("first", range(0, len(CASES), AT_ONCE))
@pytest.mark.parametrize("backend", ["fbgemm", "x86"])
def test_small_graphs(backend: str, first: int) -> None:
    names = list(CASES)[first : first + AT_ONCE]
    model = Several([seeded(Model, CASES[n][0], CASES[n][2]) for n in names])
    calls = [CASES[n][1] for n in names]
    qmodel = qfx.quantize(model, (calls,), backend=backend)
    results = [run(each, (calls,)) for each in (model, qmodel, qmodel.reference)]
    sizes = steps_of_branches(qmodel)
    for name, size, expected, actual, meant in zip(names, sizes, *results, strict=True):
        assert pytree.tree_structure(actual) == pytree.tree_structure(expected), name
        assert sqnr(expected, actual) > less_a_bit(25, backend), name
        within = STEPS.get(name, 1.0) * size * 1.001 + 1e-6
        for ours, theirs in zip(tensors(actual), tensors(meant), strict=True):
            assert (ours.float() - theirs.float()).abs().max() <= within, name
    twin = copy.deepcopy(qmodel)
    bigger = [(torch.cat([x, x[:1]]), *more) for x, *more in calls]
    results = [run(each, (bigger,)) for each in (model, twin)]
    for name, expected, actual in zip(names, *results, strict=True):
        assert sqnr(expected, actual) > 20, name


@pytest.mark.parametrize("backend", ["fbgemm", "x86"])
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(6, 4), (6,)), (nn.Conv2d(3, 4, 3), (3, 8, 8))]
)
def test_no_batch_dimension(backend: str, layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Kernels want one: that is a reason, not an error when the model runs."""
    with pytest.raises(qfx.CoverageError, match=r"unsupported.*no batch dimension(.|\n)*give it a"):
        qfx.quantize(nn.Sequential(layer).eval(), randn(*shape), backend=backend)
    quantized(nn.Sequential(layer).eval(), randn(*shape), "reference", bound=25)
