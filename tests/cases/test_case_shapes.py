"""Cases 9, 16, 17 and 18: shapes, integers, masks and nests in and around a quantized graph."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.cases.flow import (
    BACKENDS,
    quantized,
    randn,
    run,
    seeded,
)

X = randn(2, 3, 8, 8)


class LongChain(nn.Module):
    """Case 9."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(2, 3, 1)
        self.flat = nn.Flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = F.max_pool2d(x, 2).contiguous()
        x = x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)
        x = self.flat(x)
        x = x.unsqueeze(0)
        x.relu_()
        x = x.squeeze(0).transpose(1, 2)
        x = torch.transpose(x, 1, 2).reshape(x.size(0), -1)
        x = x.view(-1, 4, 4, 4)
        left, _ = x.chunk(2, dim=1)
        return self.second(left)


@pytest.mark.parametrize(
    # x86 has no relu on its own: the chain begins in float and goes on in integers.
    ("backend", "counts"),
    [("fbgemm", (1, 1)), ("x86", (2, 0)), ("reference", (16, 16))],
)
def test_long_chain_stays_integer(backend: str, counts: tuple[int, int]) -> None:
    qmodel = quantized(seeded(LongChain), X, backend, quantize=counts[0], dequantize=counts[1])
    if backend != "x86":
        unused = {"getitem_1": "removed"}
        assert {s.node: s.reason for s in qmodel.report.sites if s.reason} == unused


class ScalarOps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x += 0.5
        x = x * 2.0
        x.add_(1)
        x = F.relu(x, inplace=True)
        return self.second(x)


@pytest.mark.parametrize(
    # x86 computes the scalars in float: the conv hands out float and one quantize follows.
    ("backend", "counts"),
    [("fbgemm", (1, 1)), ("x86", (2, 0)), ("reference", (6, 6))],
)
def test_scalar_operations_stay_integer(backend: str, counts: tuple[int, int]) -> None:
    quantized(seeded(ScalarOps), X, backend, quantize=counts[0], dequantize=counts[1])


class Masked(nn.Module):
    """Case 16: a mask, indices, a number, a dict and a list around one Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        index: Tensor,
        extra: dict[str, Tensor],
        parts: list[Tensor],
        times: int,
    ) -> Tensor:
        y = self.fc(x).masked_fill(mask, 0.0)
        y = y[index] + extra["bias"]
        y = torch.where(extra["keep"], y, parts[0])
        return y.masked_fill(~mask[index], float("-inf")).softmax(-1) * times


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_and_integers_are_never_observed(backend: str) -> None:
    mask = torch.arange(48).reshape(8, 6) % 3 == 0
    extra = {"bias": randn(6), "keep": torch.arange(6) % 2 == 0}
    inputs = (randn(8, 6), mask, torch.tensor([2, 0, 5]), extra, [randn(3, 6)], 3)
    model = seeded(Masked)
    prepared = qfx.prepare(model, inputs, backend=backend)
    run(prepared, inputs)
    observed = [n for n in prepared.graph.nodes if n.op == "call_module"]
    assert observed
    for node in observed:
        assert qfx.graph.meta.is_float_tensor(node), node
    qmodel = quantized(model, inputs, backend)
    assert qmodel.report.coverage == 1.0


class Dims(nn.Module):
    """Case 17."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        dims = x.ndim - 1
        x = x.repeat([1] * (dims + 1))
        x = F.max_pool2d(x, 2)
        scale = x.shape[1] ** -0.5
        x = x.view(x.shape[0], -1)
        return self.fc(x) * scale + dims


@pytest.mark.parametrize(
    # fbgemm and reference also quantize the arithmetic with numbers after the Linear.
    ("backend", "counts"),
    [("fbgemm", (1, 1)), ("x86", (1, 0))],
)
def test_arithmetic_of_shapes(backend: str, counts: tuple[int, int]) -> None:
    model = seeded(Dims)
    qmodel = quantized(model, X, backend, quantize=counts[0], dequantize=counts[1])
    other = randn(5, 3, 8, 8, seed=3)
    assert run(qmodel, (other,)).shape == (5, 3)


def test_arithmetic_of_shapes_reference() -> None:
    quantized(seeded(Dims), X, "reference")


class Nested(nn.Module):
    """Case 18."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.conv(x)
        z = self.fc(y.mean((2, 3)))
        z.sigmoid()  # nobody reads it
        return {"logits": z, "maps": [y, (y.relu(), None)], "none": None, "size": y.shape[2]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_nested_outputs_keep_their_structure(backend: str) -> None:
    qmodel = quantized(seeded(Nested), X, backend)
    output = run(qmodel, (X,))
    assert list(output) == ["logits", "maps", "none", "size"]
    assert output["none"] is None
    assert isinstance(output["maps"], list)
    assert isinstance(output["maps"][1], tuple)
    assert output["maps"][1][1] is None
    assert output["size"] == 6


class DeadInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y.clone().sigmoid_()
        return y


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (1, 1)), ("x86", (1, 0)), ("reference", (2, 2))]
)
def test_dead_code_is_harmless(backend: str, counts: tuple[int, int]) -> None:
    qmodel = quantized(
        seeded(DeadInPlace), randn(8, 4), backend, quantize=counts[0], dequantize=counts[1]
    )
    dead = next(s for s in qmodel.report.sites if "sigmoid" in s.op)
    assert dead.reason == "removed"


class DeadButSeen(DeadInPlace):
    """Nobody reads what ``sigmoid_`` returns, but it changes ``y``."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y.sigmoid_()
        return y


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_place_result_that_is_not_read(backend: str) -> None:
    quantized(seeded(DeadButSeen), randn(8, 4), backend)
