"""Convolutions of any geometry, on inputs down to those with one output, against the reference."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import step

Sizes = tuple[int, ...]


def layer(r: random.Random, dims: int, transposed: bool) -> nn.Module:
    """A convolution of random geometry."""

    def some(*values: int) -> Sizes:
        return tuple(r.choice(values) for _ in range(dims))

    groups = r.choice((1, 1, 2))
    channels = [groups * r.choice((1, 3, 4, 8, 16, 17)) for _ in range(2)]
    if r.random() < 0.15:
        groups = channels[1] = channels[0]
    geometry = {"stride": some(1, 1, 2, 3), "padding": some(0, 0, 1, 2)}
    if not transposed:
        geometry["dilation"] = some(1, 1, 2)
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    made: nn.Module = getattr(nn, name)(*channels, some(1, 2, 3, 4), groups=groups, **geometry)
    return made


def fits(model: nn.Module, x: Tensor) -> bool:
    try:
        return bool(model(x).numel())
    except RuntimeError:
        return False


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_lowered_is_within_a_step_of_the_reference(
    dims: int, transposed: bool, backend: str
) -> None:
    r, seen = random.Random(dims + 10 * transposed), 0
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        while seen < 12:
            model = layer(r, dims, transposed).eval()
            shapes = [[r.choice((1, 2, 3, 4, 5, 8)) for _ in range(dims)] for _ in range(4)]
            inputs = [torch.randn(r.choice((1, 2)), model.in_channels, *s) for s in shapes]  # type: ignore[call-overload]
            inputs = [x for x in inputs if fits(model, x)]
            if not inputs:
                continue
            seen += 1
            try:
                qmodel = qfx.quantize(model, inputs[0], backend=backend, calibration_data=inputs)
            except qfx.CoverageError:
                continue  # no kernel, and a reason
            for x in inputs:
                off = (qmodel(x) - qmodel.reference(x)).abs().max()
                assert off <= 1.01 * step(qmodel) + 1e-5, f"{model} on {list(x.shape)}"
