"""In-place operations that stay as written, because a view of what they overwrite is read later."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.testing import check
from qfx_passes import Canonicalize
from tests.cases.flow import randn, seeded, sqnr

X = randn(1, 4, 8, 8)


class AddAfterView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.other = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = x * 1
        w = z.view(1, -1)
        z.add_(5)
        return self.conv(z), w, self.other(x)


class ReluAfterFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        flat = y.flatten(1)
        F.relu(y, inplace=True)
        return self.second(y), flat


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "reference"])
@pytest.mark.parametrize("model", [seeded(AddAfterView), seeded(ReluAfterFlatten)])
def test_views_see_the_change(model: nn.Module, backend: str) -> None:
    """Kernels hand out channels_last, of which a flatten is a copy and sees nothing."""
    qmodel = qfx.quantize(model, X, backend=backend)
    before = X.clone()
    for expected, got in zip(model(X), qmodel(X), strict=True):
        assert sqnr(expected, got) > 30
    assert X.equal(before)
    assert "overwritten" in {site.reason for site in qmodel.report.sites}


def test_the_layout_is_pinned_once() -> None:
    result = check([Canonicalize()], seeded(ReluAfterFlatten), X)
    assert sum(n.target is vocab.CONTIGUOUS for n in result.graph_module.graph.nodes) == 1
