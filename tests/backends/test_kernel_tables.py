"""Every row of every backend's table: its lowered form agrees with the reference form.

fbgemm and qnnpack round once more than the reference where a bias becomes an int32 or a kernel
keeps its own order of operations, so a result may be one step off; pure data movement is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.backends import resolve_backend
from qfx.vocab import OpDef
from tests.cases.flow import Branches
from tests.support.once import once

IMAGE = (2, 8, 9, 9)


@dataclass(frozen=True)
class Row:
    op: OpDef
    module: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE
    steps: int = 1  # how far from the reference a result may be, in output steps


class Fn(nn.Module):
    """Between two convolutions, so that the operation can stay in integers."""

    def __init__(self, fn: Callable[[Tensor], Tensor], channels: int = 8, *, dims: int = 2) -> None:
        super().__init__()
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.first = kind(channels, channels, 1)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.first(x))


def after_conv(fn: Callable[[Tensor], Tensor], *, dims: int = 2) -> Callable[[], nn.Module]:
    return lambda: Fn(fn, dims=dims)


SEQUENCE = (2, 8, 12)
VOLUME = (2, 8, 5, 6, 6)

ROWS = [
    Row(vocab.CONV1D, lambda: nn.Conv1d(8, 6, 3, padding=1), SEQUENCE),
    Row(vocab.CONV2D, lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2)),
    Row(vocab.CONV3D, lambda: nn.Conv3d(8, 6, 3), VOLUME),
    Row(vocab.CONV_TRANSPOSE1D, lambda: nn.ConvTranspose1d(8, 6, 3, stride=2), SEQUENCE),
    Row(vocab.CONV_TRANSPOSE2D, lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1)),
    Row(vocab.CONV_TRANSPOSE3D, lambda: nn.ConvTranspose3d(8, 6, 2), VOLUME),
    Row(vocab.LINEAR, lambda: nn.Linear(9, 5)),
    Row(vocab.MATMUL, after_conv(lambda x: torch.matmul(x, x.transpose(-1, -2)))),
    Row(vocab.ADD, after_conv(lambda x: x + x.flip(1))),
    Row(vocab.ADD, after_conv(lambda x: x + 0.5)),
    Row(vocab.MUL, after_conv(lambda x: x * x.flip(1))),
    Row(vocab.MUL, after_conv(lambda x: x * -0.5)),
    Row(vocab.BATCH_NORM, lambda: Fn(nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(8)))),
    Row(vocab.LAYER_NORM, lambda: Fn(nn.LayerNorm(9))),
    Row(vocab.GROUP_NORM, lambda: Fn(nn.GroupNorm(2, 8))),
    Row(vocab.INSTANCE_NORM, lambda: Fn(nn.InstanceNorm2d(8, affine=True))),
    Row(vocab.RELU, lambda: Fn(nn.Sequential(nn.MaxPool2d(2), nn.ReLU()))),
    Row(vocab.CLAMP, lambda: Fn(nn.Sequential(nn.MaxPool2d(2), nn.Hardtanh(-0.5, 0.5)))),
    Row(vocab.HARDSWISH, after_conv(F.hardswish)),
    Row(vocab.ELU, after_conv(F.elu)),
    Row(vocab.LEAKY_RELU, after_conv(F.leaky_relu)),
    Row(vocab.PRELU, lambda: Fn(nn.PReLU()), steps=2),  # the slope is quantized, too
    Row(vocab.SIGMOID, after_conv(torch.sigmoid)),
    Row(vocab.HARDSIGMOID, after_conv(F.hardsigmoid)),
    Row(vocab.TANH, after_conv(torch.tanh)),
    Row(vocab.SOFTMAX, after_conv(lambda x: torch.softmax(x, -1))),
    Row(vocab.MAX_POOL1D, after_conv(lambda x: F.max_pool1d(x, 2), dims=1), SEQUENCE, 0),
    Row(vocab.MAX_POOL2D, after_conv(lambda x: F.max_pool2d(x, 3, 2, 1)), steps=0),
    Row(vocab.MAX_POOL3D, after_conv(lambda x: F.max_pool3d(x, 2), dims=3), VOLUME, 0),
    Row(vocab.AVG_POOL1D, after_conv(lambda x: F.avg_pool1d(x, 2), dims=1), SEQUENCE),
    Row(vocab.AVG_POOL2D, after_conv(lambda x: F.avg_pool2d(x, 2))),
    Row(vocab.AVG_POOL3D, after_conv(lambda x: F.avg_pool3d(x, 2), dims=3), VOLUME),
    Row(
        vocab.ADAPTIVE_AVG_POOL1D,
        after_conv(lambda x: F.adaptive_avg_pool1d(x, 3), dims=1),
        SEQUENCE,
    ),
    Row(vocab.ADAPTIVE_AVG_POOL2D, after_conv(lambda x: F.adaptive_avg_pool2d(x, 3))),
    Row(
        vocab.ADAPTIVE_AVG_POOL3D, after_conv(lambda x: F.adaptive_avg_pool3d(x, 2), dims=3), VOLUME
    ),
    Row(vocab.MEAN, after_conv(lambda x: x.mean((2, 3)))),
    Row(vocab.INTERPOLATE, after_conv(lambda x: F.interpolate(x, scale_factor=2))),
    Row(vocab.INTERPOLATE, after_conv(lambda x: F.interpolate(x, size=5, mode="bilinear"))),
    Row(vocab.PAD, after_conv(lambda x: F.pad(x, (1, 2, 0, 1))), steps=0),
    Row(vocab.CAT, after_conv(lambda x: torch.cat([x, x.flip(1)], 1)), steps=0),
    Row(vocab.STACK, after_conv(lambda x: torch.stack([x, x.flip(1)], 1)), steps=0),
    Row(vocab.RESHAPE, after_conv(lambda x: x.reshape(x.shape[0], -1)), steps=0),
    Row(vocab.FLATTEN, after_conv(lambda x: x.flatten(1)), steps=0),
    Row(vocab.UNFLATTEN, after_conv(lambda x: x.unflatten(1, (2, 4))), steps=0),
    Row(vocab.PERMUTE, after_conv(lambda x: x.permute(0, 2, 3, 1)), steps=0),
    Row(vocab.TRANSPOSE, after_conv(lambda x: x.transpose(1, 2)), steps=0),
    Row(vocab.SQUEEZE, after_conv(lambda x: x.mean((2, 3), keepdim=True).squeeze(-1))),
    Row(vocab.UNSQUEEZE, after_conv(lambda x: x.unsqueeze(1)), steps=0),
    Row(vocab.CHUNK, after_conv(lambda x: x.chunk(2, 1)[1]), steps=0),
    Row(vocab.SPLIT, after_conv(lambda x: torch.split(x, 3, 1)[2]), steps=0),
    Row(vocab.UNBIND, after_conv(lambda x: x.unbind(1)[3]), steps=0),
    Row(vocab.SELECT, after_conv(lambda x: x.select(1, 2)), steps=0),
    Row(vocab.NARROW, after_conv(lambda x: x.narrow(1, 2, 3)), steps=0),
    Row(vocab.GETITEM, after_conv(lambda x: x[:, 1:5, ..., ::2]), steps=0),
    Row(vocab.EXPAND, after_conv(lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1, -1)), steps=0),
    Row(vocab.REPEAT, after_conv(lambda x: x.repeat(1, 2, 1, 1)), steps=0),
    Row(vocab.REPEAT_INTERLEAVE, after_conv(lambda x: x.repeat_interleave(2, 1)), steps=0),
    Row(vocab.FLIP, after_conv(lambda x: x.flip((2,))), steps=0),
    Row(vocab.ROLL, after_conv(lambda x: x.roll(1, 2)), steps=0),
    Row(vocab.PIXEL_SHUFFLE, after_conv(lambda x: F.pixel_shuffle(x, 2)), steps=0),
    Row(vocab.PIXEL_UNSHUFFLE, after_conv(lambda x: F.pixel_unshuffle(x[..., 1:, 1:], 2)), steps=0),
    Row(vocab.CHANNEL_SHUFFLE, lambda: Fn(nn.ChannelShuffle(2)), steps=0),
    Row(vocab.CONTIGUOUS, after_conv(lambda x: x.contiguous()), steps=0),
    Row(vocab.CLONE, after_conv(lambda x: x.clone()), steps=0),
    Row(vocab.SILU, after_conv(F.silu)),
    Row(vocab.GELU, after_conv(F.gelu)),
    Row(vocab.MISH, after_conv(F.mish)),
    Row(vocab.ADAPTIVE_MAX_POOL2D, after_conv(lambda x: F.adaptive_max_pool2d(x, 3)), steps=0),
]


def _name(row: Row) -> str:
    return row.op.name


def _model(row: Row) -> tuple[nn.Module, Tensor]:
    torch.default_generator.manual_seed(0)
    model = row.module().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model, torch.randn(row.shape)


EIGHT_BITS = (vocab.HARDSIGMOID, vocab.TANH)
"""Their kernels hand out codes up to 255, and no others: nothing for layers that saturate."""


class Outcome(NamedTuple):
    """What became of a row."""

    expected: Tensor
    reference: Tensor
    lowered: Tensor
    step: float
    sites: list[qfx.report.Site]


@once
def outcomes(backend: str) -> dict[int, Outcome]:
    """Of every row that ``backend`` has a kernel for, by its index: quantized in one model."""
    table = resolve_backend(backend)
    rows = [i for i, row in enumerate(ROWS) if table.rule(row.op) is not None]
    branches, inputs = zip(*(_model(ROWS[i]) for i in rows), strict=True)
    model, x = Branches(branches), list(inputs)
    quantized = qfx.quantize(model, (x,), backend=backend)
    with torch.no_grad():
        results = zip(model(x), quantized.reference(x), quantized(x), strict=True)
    steps, sites = _steps(quantized), quantized.report.sites
    return {
        row: Outcome(
            *result, step, [s for s in sites if f"{s.module_path}.".startswith(f"branches.{i}.")]
        )
        for i, (row, result, step) in enumerate(zip(rows, results, steps, strict=True))
    }


def outcome(row: Row, backend: str) -> Outcome:
    index = ROWS.index(row)
    if index not in outcomes(backend):
        pytest.skip(f"{backend} has no kernel for {row.op.name}")
    return outcomes(backend)[index]


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack", "x86"])
@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_lowered_agrees_with_reference(row: Row, backend: str) -> None:
    found = outcome(row, backend)
    # qnnpack requantizes in fixed point: its convolutions may be a step off.
    steps = max(row.steps, 1) if backend == "qnnpack" else row.steps
    assert (found.lowered - found.reference).abs().max() <= steps * found.step + 1e-5


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_the_reference_backend_quantizes_it(row: Row) -> None:
    assert resolve_backend("reference").rule(row.op) is not None
    found = outcome(row, "reference")
    assert found.sites
    assert all(site.decision == "quantized" for site in found.sites), found.sites
    error = (found.lowered - found.expected).norm() / found.expected.norm()
    assert error < 0.06, f"relative error {error}"


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_fbgemm_runs_it_in_integers_where_it_has_a_row(row: Row) -> None:
    found = outcome(row, "fbgemm")
    assert found.sites
    if resolve_backend("fbgemm").saturates and row.op in EIGHT_BITS:
        (site,) = (s for s in found.sites if s.op == row.op.name)
        assert site.decision == "float"
        assert site.reason == "unsupported"
        return
    assert all(site.decision == "quantized" for site in found.sites), found.sites


def _steps(model: qfx.QuantizedModel) -> list[float]:
    """The largest scale of a quantize that each output of the reference graph depends on."""
    outputs = next(iter(reversed(model.reference.graph.nodes))).args[0]
    assert isinstance(outputs, (list, tuple))
    return [_largest_scale(node) for node in outputs if isinstance(node, fx.Node)]


def _largest_scale(output: fx.Node) -> float:
    seen, pending = {output}, [output]
    for node in pending:  # which grows
        found = [n for n in node.all_input_nodes if n not in seen]
        seen.update(found)
        pending += found
    return max(float(n.args[1]) for n in pending if vocab.is_op(n, vocab.QUANTIZE))
