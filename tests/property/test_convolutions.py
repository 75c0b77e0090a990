"""Convolutions of any geometry, on inputs down to those with one output, against the reference."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import Branches, run, steps

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


def cases(dims: int, transposed: bool) -> list[tuple[nn.Module, list[Tensor]]]:
    """Twelve layers, each with four inputs, the same every time."""
    r, found = random.Random(dims + 10 * transposed), []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        while len(found) < 12:
            model = layer(r, dims, transposed).eval()
            shapes = [[r.choice((1, 2, 3, 4, 5, 8)) for _ in range(dims)] for _ in range(4)]
            inputs = [torch.randn(r.choice((1, 2)), model.in_channels, *s) for s in shapes]  # type: ignore[call-overload]
            inputs = [x for x in inputs if fits(model, x)]
            if inputs:
                found.append((model, (4 * inputs)[:4]))
    return found


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_lowered_is_within_a_step_of_the_reference(
    dims: int, transposed: bool, backend: str
) -> None:
    models, inputs = zip(*cases(dims, transposed), strict=True)
    batches = [(list(batch),) for batch in zip(*inputs, strict=True)]
    qmodel = qfx.quantize(Branches(models), batches[0], backend=backend, calibration_data=batches)
    for batch in batches:
        results = (run(each, batch) for each in (qmodel, qmodel.reference))
        for model, x, ours, theirs, size in zip(
            models, *batch, *results, steps(qmodel), strict=True
        ):
            off = (ours - theirs).abs().max()
            assert off <= 1.01 * size + 1e-5, f"{model} on {list(x.shape)}"
