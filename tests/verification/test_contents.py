"""What passes of qfx may do to contents is what all may: they are spared the look for its cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import preparation
from qfx.framework.pass_base import Pass
from qfx.verification import contents, net

X = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    """Something for each pass: a norm to fold, a pad, a residual, linear layers behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).relu()
        y = nn.functional.max_pool2d(nn.functional.pad(y, (1, 1, 1, 1)), 2).flatten(2).mT
        z: Tensor = self.down(nn.functional.gelu(self.up(self.norm(y))))
        return y + z


@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only", "qat"])
def test_passes_of_ours_write_to_nothing_that_the_graph_reads(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []

    class Looks(contents.KeepsContents):
        def before_pass(self, step: Pass, ctx: qfx.PassContext) -> None:
            super().before_pass(step, ctx)
            looked_at.append((step.name, self._before is not None))

    monkeypatch.setattr(contents, "_OURS", ())
    for module in (preparation, net):
        monkeypatch.setattr(module, "KeepsContents", Looks)
    if method == "qat":
        prepared = qfx.prepare(Net(), X, method="qat")
        prepared(X).sum().backward()
        qfx.convert(prepared.eval())
    else:
        effort = "default" if method == "weight_only" else "high"
        qfx.quantize(Net().eval(), X, method=method, effort=effort)
    assert {looked for _, looked in looked_at} == {True}
    assert {"canonicalize", "fuse-conv-bn", "reference", "lower"} < {name for name, _ in looked_at}
