"""``F.conv2d(..., groups=b * c)`` captured at b=1 had its groups baked in, and failed at b=4.

Attributes that are computed from sizes stay computed, in float and with a reason; those that a
parameter settles are settled, and guarded.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr


class Correlation(nn.Module):
    """As trackers correlate a template with a search region."""

    def __init__(self) -> None:
        super().__init__()
        self.search, self.template = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        y, k = self.search(x), self.template(z)
        b, c, h, w = y.shape
        kernel = k.reshape(b * c, 1, *k.shape[2:])
        out = F.conv2d(y.reshape(1, b * c, h, w), kernel, groups=b * c)
        return out.reshape(b, c, *out.shape[2:])


class Modulated(nn.Module):
    """As StyleGAN modulates its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Linear(5, 3)
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3) / 5)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        b, c, h, w = x.shape
        weight = self.weight[None] * self.style(z)[:, None, :, None, None]
        weight = weight.reshape(b * 4, c, 3, 3)
        out = F.conv2d(x.reshape(1, b * c, h, w), weight, groups=b, padding=1)
        return out.reshape(b, 4, h, w)


@pytest.mark.sweep
@pytest.mark.parametrize("make", [Correlation, Modulated])
@pytest.mark.parametrize("backend", ["reference", "x86", "fbgemm"])
def test_groups_of_a_batch(make: Callable[[], nn.Module], backend: str) -> None:
    if backend not in qfx.backends.available():
        return
    model = seeded(make)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        return randn(n, 3, 8, 8), randn(n, 3, 5, 5) if make is Correlation else randn(n, 5)

    quantized = qfx.quantize(
        model, batch(1), calibration_data=[batch(1), batch(4)], backend=backend
    )
    site = next(s for s in quantized.report.sites if s.node == "conv2d")
    assert (site.decision, site.reason) == ("float", "unknown-form")
    assert "its groups is computed" in site.message
    assert any(s.decision == "quantized" for s in quantized.report.sites)
    for n in (1, 4, 2):
        expected, found = model(*batch(n)), quantized(*batch(n))
        assert sqnr(expected, found) > 20


class Attributed(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3, padding=1), function
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.conv(x)))


ATTRIBUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "normalized_shape": lambda y: F.layer_norm(y, y.shape[1:]),
    "num_groups": lambda y: F.group_norm(y, y.shape[1] // 2),
    "output_size": lambda y: F.adaptive_avg_pool2d(y, (y.shape[2] // 2, 1)),
    "output_size of max": lambda y: F.adaptive_max_pool2d(y, y.shape[2] // 2),
    "kernel_size": lambda y: F.avg_pool2d(y, y.shape[2:]),
    "kernel_size and stride": lambda y: F.max_pool2d(y, y.shape[2] // 4, stride=y.shape[3] // 4),
    "stride": lambda y: F.conv2d(y, torch.ones(4, 1, 3, 3), groups=4, stride=y.shape[2] // 4),
    "padding": lambda y: F.conv2d(y, torch.ones(4, 1, 3, 3), groups=4, padding=y.shape[2] // 8),
    "dilation": lambda y: F.conv2d(y, torch.ones(4, 1, 3, 3), None, 1, 0, (y.shape[2] // 8, 1), 4),
    "transposed groups": lambda y: F.conv_transpose2d(y, torch.ones(4, 1, 2, 2), groups=len(y[0])),
    "bound": lambda y: y.clamp(0, y.shape[2] / 8),
}
SETTLED: dict[str, Callable[[Tensor], Tensor]] = {
    "pad": lambda y: F.pad(y, [y.shape[2] // 4] * 4),
    "shifts": lambda y: torch.roll(y, y.shape[2] // 2, 2),
    "repeats": lambda y: y.repeat_interleave(y.shape[2] // 4, 2),
    "scale_factor": lambda y: F.interpolate(y, scale_factor=y.shape[2] / 4),
    "size": lambda y: F.interpolate(y, size=y.shape[2] * 2),
    "dim": lambda y: F.softmax(y, y.dim() - 1),
    "negative_slope": lambda y: F.leaky_relu(y, 1 / y.shape[2]),
}


@pytest.mark.sweep(first=11)
@pytest.mark.parametrize("name", [*SETTLED, *ATTRIBUTES])
def test_attributes_from_sizes(name: str) -> None:
    model = seeded(lambda: Attributed((ATTRIBUTES | SETTLED)[name]))
    batches = [randn(2, 3, 8, 8), randn(4, 3, 12, 8), randn(1, 3, 16, 16)]
    quantized = qfx.quantize(model, batches[0], calibration_data=batches)
    computed = [s for s in quantized.report.sites if s.reason == "unknown-form"]
    assert bool(computed) is (name in ATTRIBUTES)
    assert all("is computed when the model runs" in s.message for s in computed)
    for x in batches:
        assert sqnr(model(x), quantized(x)) > 25


def test_groups_that_a_parameter_settles() -> None:
    class Depthwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 1, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight / self.weight.std(), groups=x.shape[1])

    quantized = qfx.quantize(seeded(Depthwise), randn(1, 4, 8, 8))
    assert quantized.report.coverage == 1.0
    assert quantized(randn(3, 4, 9, 12)).shape == (3, 4, 7, 10)
    with pytest.raises(qfx.ConfigError, match=r"groups of the convolution .* = 4, .* make it 2"):
        quantized(randn(3, 2, 9, 12))
