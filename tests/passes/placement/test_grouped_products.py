"""Experts whose weights are one tensor stay float, with a reason, and their work is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import export

import qfx
from qfx.torch_private import GROUPED_PRODUCTS

ROWS, IN, OUT = 6, 16, 8
LAYER, EXPERTS = ROWS * IN * IN, ROWS * IN * OUT
FALLBACK = "transformers::grouped_mm_fallback"


class Experts(nn.Module):
    """Rows are sorted by expert; each expert multiplies its own."""

    def __init__(self, product: Callable[..., Tensor]) -> None:
        super().__init__()
        self.product = product
        self.first = nn.Linear(IN, IN)
        self.weight = nn.Parameter(torch.randn(3, OUT, IN))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 2, ROWS], dtype=torch.int32)
        return self.product(self.first(x), self.weight.transpose(-2, -1), offs=ends)


class Branches(Experts):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if x.sum() > 0 else -y


def multiply(rows: Tensor, matrices: Tensor, offs: Tensor) -> Tensor:
    starts = [0, *offs.tolist()]
    parts = zip(starts, starts[1:], matrices, strict=False)
    return torch.cat([rows[start:end] @ matrix for start, end, matrix in parts])


def like(rows: Tensor, matrices: Tensor, offs: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], matrices.shape[2])


@pytest.fixture(params=["of torch", "of transformers"])
def product(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "of torch":
        if not GROUPED_PRODUCTS:
            pytest.skip("this PyTorch has no grouped product")
        yield GROUPED_PRODUCTS[0]
        return
    with suppress(ImportError):
        import transformers.integrations.moe  # noqa: F401
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        yield torch.ops.transformers.grouped_mm_fallback
        return
    library = torch.library.Library("transformers", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("grouped_mm_fallback(Tensor input, Tensor weight, Tensor offs) -> Tensor")  # type: ignore[no-untyped-call]
    library.impl("grouped_mm_fallback", multiply, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(FALLBACK, like, lib=library)
    yield torch.ops.transformers.grouped_mm_fallback
    library._destroy()  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # copies of exported programs
@pytest.mark.parametrize("around", ["whole", "regions", "exported"])
def test_experts_in_one_tensor(around: str, product: Any) -> None:
    torch.manual_seed(0)
    model: Any = Experts(product)
    x = torch.randn(ROWS, IN)
    if around == "regions":
        model = nn.Sequential(Branches(product))
    model.eval()
    if around == "exported":
        if product in GROUPED_PRODUCTS:
            pytest.skip("exported for bfloat16 only")
        model = export(model, (x,))
    quantized = qfx.quantize(model, x, method="dynamic")
    assert quantized.report.coverage == pytest.approx(LAYER / (LAYER + EXPERTS))
    if around == "regions":
        return
    (site,) = [s for s in quantized.report.sites if s.reason == "grouped-product"]
    assert (site.macs, site.unknown_macs) == (EXPERTS, False)
    assert "experts in one tensor" in site.message
