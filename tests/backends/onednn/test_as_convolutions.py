"""Large linear layers as 1x1 convolutions, on CPUs where products saturate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.backends.onednn import as_convolutions, calls, packing
from qfx.backends.onednn.arguments import Linear, LinearAdd
from tests.cases.flow import targets

ZEROS = torch.zeros(1, dtype=torch.int8)
GENERATOR = torch.Generator().manual_seed(0)


def codes(*shape: int, high: int = 128) -> Tensor:
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=GENERATOR)


WEIGHT = torch.randint(-127, 128, (24, 40), dtype=torch.int8, generator=GENERATOR)
SCALES = torch.rand(24, generator=GENERATOR) * 0.01 + 1e-3


def both(x: Tensor, zero_point: int, scales: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    """What the linear kernel makes of codes, and what the convolution does."""
    rows = x.numel() // x.shape[-1]
    packed = (
        packing.pack_linear(WEIGHT, x.shape),
        packing.pack_as_convolution((WEIGHT,), rows, shifted=zero_point != 0),
    )
    assert [as_convolutions.widths(each) for each in packed] == [(40, 24)] * 2
    given = (Linear(x, 0.02, zero_point, each, scales, ZEROS, *rest) for each in packed)
    plain, convolved = map(as_convolutions.multiply, given)
    return plain, convolved


@pytest.mark.parametrize("zero_point", [0, 63])
@pytest.mark.parametrize("shape", [(1, 40), (5, 40), (2, 3, 40), (40,)], ids=str)
def test_results_are_the_same(shape: tuple[int, ...], zero_point: int) -> None:
    bias = torch.linspace(-1, 1, 24)
    for scales in (SCALES, SCALES[:1]):
        for ending in ((0.05, 60, torch.uint8, "relu"), (1.0, 0, torch.float32, "none")):
            x = codes(*shape)
            plain, convolved = both(x, zero_point, scales, bias, *ending, [], "")
            assert convolved.shape == (*shape[:-1], 24)
            assert convolved.is_contiguous()
            torch.testing.assert_close(convolved, plain, rtol=1e-6, atol=1e-6)


def test_sums_are_made_where_they_lie() -> None:
    x, before = codes(3, 40), torch.randn(3, 24, generator=GENERATOR)
    expected = before + both(x, 63, SCALES, None, 1.0, 0, torch.float32, "none", [], "")[0]
    packed = packing.pack_as_convolution((WEIGHT,), 3, shifted=True)
    tail = None, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], ""
    as_convolutions.add_in_place(LinearAdd(x, 0.02, 63, packed, SCALES, ZEROS, before, *tail))
    torch.testing.assert_close(before, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("saturates", "outputs", "post", "expected"),
    [
        (True, 1024, "none", True),
        (True, 1024, "hardswish", True),
        (True, 1024, "gelu", False),  # no convolution computes it
        (True, 512, "none", False),  # too small
        (False, 1024, "none", False),  # VNNI
    ],
)
def test_when_it_pays(
    monkeypatch: pytest.MonkeyPatch, saturates: bool, outputs: int, post: str, expected: bool
) -> None:
    monkeypatch.setattr(as_convolutions, "saturates", lambda: saturates)
    parts = [torch.ones(outputs // 2, 128, dtype=torch.int8)] * 2  # merged products count as one
    packed = as_convolutions.pack(parts, (4, 128), 3, post)
    assert as_convolutions.is_convolution(packed) is expected
    assert as_convolutions.pack(parts, (4, 128), 3, post) is packed


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(256, 512), nn.Linear(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_models_agree_with_their_reference(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(as_convolutions, "saturates", lambda: True)
    x = torch.randn(3, 256, generator=GENERATOR)
    qmodel = qfx.quantize(Head().eval(), x, method=method, backend="x86", progress=False)
    assert targets(qmodel).count(calls.linear) == 2
    held = [t for t in qmodel.buffers() if t.dim() == 4 and t.is_mkldnn]
    assert len(held) == 2
    for rows in (x, x[:1], x.repeat(3, 1), x[:0]):
        torch.testing.assert_close(qmodel(rows), qmodel.reference(rows), rtol=0, atol=2e-2)
