"""Every spelling of an operation has one form."""

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
    X,
    calls,
    canonical,
    check_family,
    image,
    notes,
    only,
)

# -- one form for every spelling -------------------------------------------------------------------
SAME: list[tuple[OpDef, dict[str, Any], list[Callable[[Tensor], Any] | nn.Module]]] = [
    (
        vocab.RELU,
        {},
        [
            nn.ReLU(),
            nn.ReLU(inplace=True),
            F.relu,
            torch.relu,
            lambda x: x.relu(),
            lambda x: x.relu_(),
            lambda x: F.relu(x, inplace=True),
            lambda x: F.relu(x, True),
            lambda x: F.relu(input=x),
            lambda x: torch.relu_(x),
        ],
    ),
    (
        vocab.CLAMP,
        {"min": 0.0, "max": 6.0},
        [
            nn.ReLU6(),
            nn.Hardtanh(0.0, 6.0),
            F.relu6,
            lambda x: torch.clamp(x, 0.0, 6.0),
            lambda x: x.clip(min=0.0, max=6.0),
            lambda x: F.hardtanh(x, 0.0, max_val=6.0),
        ],
    ),
    (vocab.CLAMP, {"max": 1.0}, [lambda x: x.clamp_max(1.0), lambda x: torch.clamp(x, max=1.0)]),
    (vocab.CLAMP, {"min": -1.0, "max": 1.0}, [F.hardtanh, nn.Hardtanh(inplace=True)]),
    (vocab.SOFTMAX, {"dim": 1}, [nn.Softmax(1), lambda x: x.softmax(1), lambda x: F.softmax(x, 1)]),
    (
        vocab.GELU,
        {"approximate": "tanh"},
        [nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")],
    ),
    (vocab.LEAKY_RELU, {}, [nn.LeakyReLU(), F.leaky_relu, nn.LeakyReLU(0.01, inplace=True)]),
    (vocab.HARDSWISH, {}, [nn.Hardswish(), F.hardswish, lambda x: F.hardswish(x, inplace=True)]),
    (vocab.ADD, {}, [lambda x: x + 1, lambda x: 1 + x, lambda x: x.add(1), lambda x: x.add_(1)]),
    (vocab.ADD, {"alpha": 2}, [lambda x: torch.add(x, x, alpha=2), lambda x: x.add(x, alpha=2)]),
    (vocab.MUL, {}, [lambda x: x * 3, lambda x: 3 * x, lambda x: torch.mul(x, 3)]),
    (vocab.DIV, {}, [lambda x: x / 2, lambda x: torch.div(x, 2), lambda x: 1 / x]),
    (vocab.DIV, {"rounding_mode": "floor"}, [lambda x: x // 2, lambda x: torch.floor_divide(x, 2)]),
    (vocab.MEAN, {"dim": (2, 3)}, [lambda x: x.mean([2, 3]), lambda x: torch.mean(x, dim=(2, 3))]),
    (
        vocab.MEAN,
        {"dim": 1, "keepdim": True},
        [lambda x: x.mean((1,), True), lambda x: x.mean(1, True)],
    ),
    (
        vocab.RESHAPE,
        {"shape": (2, -1)},
        [
            lambda x: x.view(2, -1),
            lambda x: x.reshape((2, -1)),
            lambda x: torch.reshape(x, (2, -1)),
        ],
    ),
    (
        vocab.PERMUTE,
        {"dims": (0, 2, 3, 1)},
        [lambda x: x.permute(0, 2, 3, 1), lambda x: torch.permute(x, [0, 2, 3, 1])],
    ),
    (
        vocab.TRANSPOSE,
        {"dim0": 1, "dim1": 2},
        [
            lambda x: x.transpose(1, 2),
            lambda x: torch.transpose(x, 1, 2),
            lambda x: torch.swapaxes(x, axis0=1, axis1=2),
        ],
    ),
    (
        vocab.FLATTEN,
        {"start_dim": 1},
        [nn.Flatten(), lambda x: x.flatten(1), lambda x: torch.flatten(x, 1)],
    ),
    (
        vocab.SPLIT,
        {"split_size_or_sections": 2, "dim": 1},
        [lambda x: x.split(2, 1), lambda x: torch.split(x, 2, dim=1)],
    ),
    (vocab.CHUNK, {"chunks": 2}, [lambda x: x.chunk(2), lambda x: torch.chunk(x, chunks=2)]),
    (vocab.UNBIND, {"dim": 1}, [lambda x: x.unbind(1), lambda x: torch.unbind(x, 1)]),
    (vocab.CAT, {"dim": 1}, [lambda x: torch.cat([x, x], 1), lambda x: torch.cat((x, x), dim=1)]),
    (
        vocab.EXPAND,
        {"size": (2, 4, 6, 6)},
        [lambda x: x.expand(2, 4, 6, 6), lambda x: x.expand((2, 4, 6, 6))],
    ),
    (
        vocab.MAX_POOL2D,
        {"kernel_size": (3, 3), "stride": (2, 2)},
        [
            nn.MaxPool2d(3, 2),
            lambda x: F.max_pool2d(x, 3, stride=2),
            lambda x: torch.max_pool2d(x, (3, 3), 2),
        ],
    ),
    (
        vocab.AVG_POOL2D,
        {"kernel_size": (2, 2)},
        [nn.AvgPool2d(2), nn.AvgPool2d(2, 2), lambda x: F.avg_pool2d(x, 2)],
    ),
    (
        vocab.ADAPTIVE_AVG_POOL2D,
        {"output_size": (1, 1)},
        [
            nn.AdaptiveAvgPool2d(1),
            nn.AdaptiveAvgPool2d((1, 1)),
            lambda x: F.adaptive_avg_pool2d(x, 1),
        ],
    ),
    (
        vocab.PAD,
        {"pad": (1, 1, 1, 1)},
        [nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.0), lambda x: F.pad(x, [1] * 4)],
    ),
    (
        vocab.PAD,
        {"pad": (1, 1, 1, 1), "mode": "reflect"},
        [nn.ReflectionPad2d(1), lambda x: F.pad(x, (1,) * 4, "reflect")],
    ),
    (
        vocab.INTERPOLATE,
        {"scale_factor": 2.0},
        [nn.Upsample(scale_factor=2), lambda x: F.interpolate(x, scale_factor=2.0)],
    ),
    (
        vocab.LAYER_NORM,
        {"normalized_shape": (6,)},
        [lambda x: F.layer_norm(x, (6,)), nn.LayerNorm(6, elementwise_affine=False)],
    ),
    (
        vocab.GROUP_NORM,
        {"num_groups": 2},
        [lambda x: F.group_norm(x, 2), nn.GroupNorm(2, 4, affine=False)],
    ),
    (vocab.INSTANCE_NORM, {}, [nn.InstanceNorm2d(4), lambda x: F.instance_norm(x)]),
    (
        vocab.PIXEL_SHUFFLE,
        {"upscale_factor": 2},
        [nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x, 2)],
    ),
    (vocab.MATMUL, {}, [lambda x: x @ x, lambda x: torch.matmul(x, x), lambda x: x.matmul(x)]),
]


@pytest.mark.parametrize(
    ("op", "attributes", "spelling"),
    [(op, kwargs, s) for op, kwargs, spellings in SAME for s in spellings],
    ids=[f"{op.name}-{i}" for op, _, spellings in SAME for i in range(len(spellings))],
)
def test_spellings_have_one_form(op: OpDef, attributes: dict[str, Any], spelling: Any) -> None:
    is_module = isinstance(spelling, nn.Module)
    function = nn.Sequential(spelling) if is_module else lambda m, x: spelling(x)
    result = canonical(function, image(*X))
    assert only(result, op) == attributes
    assert set(calls(result)) <= {op, vocab.GETITEM}
    assert not notes(result)


CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9), {"stride": (2,), "padding": (1,)}),
    (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 9, 9), {"groups": 2}),
    (nn.Conv2d(4, 6, (3, 5), padding="same"), (2, 4, 9, 9), {"padding": (1, 2)}),
    (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 9, 9), {}),
    (nn.Conv3d(4, 6, 1, dilation=2, bias=False), (1, 4, 3, 3, 3), {"dilation": (2, 2, 2)}),
    (
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
        (1, 4, 5, 5),
        {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 1)},
    ),
]


@pytest.mark.parametrize(("conv", "shape", "attributes"), CONVOLUTIONS)
def test_convolutions_read_their_own_parameters(
    conv: nn.Module, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    result = canonical(nn.Sequential(conv), image(*shape))
    (op,) = calls(result)
    assert op.name.startswith("conv")
    assert only(result, op) == attributes
    reads = [n.target for n in result.graph_module.graph.nodes if n.op == "get_attr"]
    assert reads == [f"0.{name}" for name, _ in conv.named_parameters()]
    assert set(result.graph_module.state_dict()) == set(reads)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.linear(x, weight=m.layer.weight, bias=m.layer.bias),
        lambda m, x: F.linear(input=x, weight=m.layer.weight, bias=m.layer.bias),
        lambda m, x: m.layer(input=x),
        lambda m, x: m.layer(x),
    ],
)
def test_linear_by_keyword(function: Callable[..., Any]) -> None:
    result = canonical(function, image(2, 3), layer=nn.Linear(3, 4))
    (node,) = [n for n in result.graph_module.graph.nodes if n.target is vocab.LINEAR]
    assert [a.target for a in node.args] == ["x", "layer.weight", "layer.bias"]
    assert not node.kwargs


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_become_a_pad(mode: str) -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode)
    result = canonical(nn.Sequential(conv), image(2, 4, 9, 9))
    assert only(result, vocab.PAD) == {"pad": (1, 1, 1, 1), "mode": mode}
    assert only(result, vocab.CONV2D) == {}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_uneven_same_padding_becomes_a_pad() -> None:
    result = canonical(nn.Sequential(nn.Conv2d(4, 6, (2, 3), padding="same")), image(2, 4, 9, 9))
    assert only(result, vocab.PAD) == {"pad": (1, 1, 0, 1)}


def test_batch_norm_of_inference() -> None:
    result = canonical(nn.Sequential(nn.BatchNorm2d(4, eps=1e-3)).eval(), image(*X))
    (node,) = [n for n in result.graph_module.graph.nodes if n.target is vocab.BATCH_NORM]
    names = ["running_mean", "running_var", "weight", "bias"]
    assert [a.target for a in node.args[1:]] == [f"0.{n}" for n in names]
    assert node.kwargs == {"eps": 1e-3}


@pytest.mark.parametrize(
    ("norm", "training", "note"),
    [
        (nn.BatchNorm2d(4), True, "batch norm in training mode"),
        (
            nn.BatchNorm2d(4, track_running_stats=False),
            False,
            "the statistics are those of the batch",
        ),
        (nn.InstanceNorm2d(4, track_running_stats=True), False, "instance norm with tracked"),
    ],
)
def test_batch_norm_of_training_stays(norm: nn.Module, training: bool, note: str) -> None:
    result = run(Canonicalize(), nn.Sequential(norm).train(training), image(*X))
    assert calls(result) == ["0"]
    assert note in notes(result)[0]


@pytest.mark.parametrize(
    ("function", "kept", "note"),
    [
        (lambda m, x: x.sum(0, dtype=torch.float64), "sum", "dtype=torch.float64 has no canonical"),
        (lambda m, x: torch.clamp(x, min=x.shape[0]), torch.clamp, "its bound is computed"),
        (lambda m, x: x.view(torch.int32), "view", "a view as another dtype"),
        (lambda m, x: F.layer_norm(x, x.shape[3:]), F.layer_norm, "its normalized_shape is"),
        (
            lambda m, x: F.avg_pool2d(x, x.shape[-2:]),
            F.avg_pool2d,
            "its kernel_size is computed when the model runs, from a shape",
        ),
        (
            lambda m, x: F.group_norm(x, x.shape[1]),
            F.group_norm,
            "its num_groups is computed",
        ),
        (
            lambda m, x: x.contiguous(memory_format=torch.channels_last),
            "contiguous",
            "memory_format=",
        ),
    ],
)
def test_near_misses_stay_and_say_why(function: Any, kept: Any, note: str) -> None:
    result = canonical(function, image(*X))
    assert kept in calls(result)
    assert any(note in n for n in notes(result)), notes(result)


BEFORE = """\
%x    : f32[2,3] = input
%relu : f32[2,3] = torch.relu(%x)
%add  : f32[2,3] = operator.add(%relu, 1)
return %add
"""

AFTER = """\
%x    : f32[2,3] = input
%relu : f32[2,3] = relu(%x)
%add  : f32[2,3] = add(%relu, 1)
return %add
"""

LEFT_OUT = """\
%x    : f32[2,3] = input
%relu : f32[2,3] = torch.relu(%x)
%add  : f32[2,3] = operator.add(%relu, 1)
return %add
"""


def test_before_and_after() -> None:
    model = Lambda(lambda m, x: torch.relu(x) + 1)
    check_family("rename-spellings", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)
