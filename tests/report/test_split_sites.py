"""An operation that passes have made several of: its site is the one that multiplies."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.backends.base import KernelRule, WeightRule, pulls


class Pointwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.point = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.point(x))


@qfx.rewrite(qfx.Op(vocab.CONV2D, qfx.Any("x"), qfx.Attr("w"), bias=qfx.Any("b"), bind="conv"))
def pointwise(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node | qfx.Mismatch:
    weight = rw.tensor(match["w"])
    if weight.shape[2:] != (1, 1):
        return qfx.Mismatch("kernel is {0}", tuple(weight.shape[2:]))
    rows = rw.call(vocab.PERMUTE, match["x"], dims=(0, 2, 3, 1))
    flat = rw.constant("flat", weight.flatten(1))
    return rw.call(vocab.PERMUTE, rw.call(vocab.LINEAR, rows, flat, match["b"]), dims=(0, 3, 1, 2))


class PointwiseToLinear(qfx.PatternPass):
    name = "pointwise-to-linear"
    patterns = (pointwise,)


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def quantized(**options: object) -> tuple[nn.Module, qfx.QuantizedModel]:
    model = Pointwise().eval()
    steps = qfx.pipelines.static().insert_after("canonicalize", PointwiseToLinear())
    return model, qfx.quantize(model, X, pipeline=steps, **options)  # type: ignore[arg-type]


def test_the_kernel_that_multiplies_is_shown() -> None:
    model, qmodel = quantized(backend="x86")
    point, conv = qmodel.report.sites
    assert (point.op, point.kernel, point.macs) == ("Conv2d", "onednn.qlinear", 3 * 4 * 64)
    assert conv.kernel == "onednn.qconv2d"
    rows = {row.node for row in qfx.compare(model, qmodel, [X]).sites}
    assert rows == {"point", "conv"}


def test_float_products_between_integer_moves_are_float() -> None:
    conv_rule = KernelRule(vocab.CONV2D, "conv", weight=WeightRule())
    defaults = {"static": qfx.get_default_qconfig("reference", "static")}
    backend = qfx.Backend("toy", (conv_rule, pulls(vocab.PERMUTE, "permute")), defaults)
    _, qmodel = quantized(backend=backend)
    point, conv = qmodel.report.sites
    assert (point.decision, point.kernel, point.reason) == ("float", "", "no-kernel")
    assert conv.decision == "quantized"
