from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qfx.semantics.folding import fold_weight
from qfx.testing import check
from qfx.testing.checking import run
from qfx_passes.fusion.fuse_conv_bn import FuseConvBN

DIMS = (1, 2, 3)
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomised(model: nn.Module) -> nn.Module:
    """``model`` in eval mode, with statistics that are not those of the identity."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


def image(dims: int, channels: int = 4) -> Tensor:
    return torch.randn(2, channels, *(7, 6, 5)[:dims])


def ops_of(result: Any) -> list[str]:
    return [n.target.name for n in result.graph_module.graph.nodes if n.op == "call_function"]


@pytest.mark.sweep
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("kind", [CONVS, TRANSPOSED])
def test_folds_into_every_convolution(
    kind: dict[int, Callable[..., nn.Module]], dims: int, groups: int, bias: bool, affine: bool
) -> None:
    conv = kind[dims](4, 6, 3, stride=2, padding=1, groups=groups, bias=bias)
    model = randomised(nn.Sequential(conv, NORMS[dims](6, affine=affine, eps=1e-3))).double()
    result = check(FuseConvBN(), model, image(dims).double(), fired=1, atol=1e-12)
    assert len(ops_of(result)) == 1
    assert set(result.graph_module.state_dict()) == {"0.weight_1", "0.bias_1" if bias else "0.bias"}


@pytest.mark.parametrize("bias", [True, False])
def test_folds_into_linear(bias: bool) -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 6, bias=bias), nn.BatchNorm1d(6)))
    check(FuseConvBN(), model, torch.randn(5, 4), fired=1, atol=1e-6)


def test_folds_norms_that_were_synchronised_in_training() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(4, 6, 3), nn.SyncBatchNorm(6)))
    check(FuseConvBN(), model, image(2), fired=1, atol=1e-5)


def test_keeps_padding_mode_and_names_the_fused_node() -> None:
    model = randomised(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4))
    )
    check(
        FuseConvBN(),
        model,
        fired=1,
        atol=1e-6,
        after="""
            %input_1 : f32[1,3,8,8]   = input('input')
            %_0_1    : f32[1,3,10,10] = pad(%input_1, pad=(1, 1, 1, 1), mode='circular')
            %_0_3    : f32[1,4,8,8]   = conv2d(%_0_1, @0.weight_1, @0.bias_1)
            return %_0_3
        """,
    )


def test_agrees_with_eager_folding() -> None:
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    model = randomised(nn.Sequential(conv, norm))
    eager = torch.nn.utils.fuse_conv_bn_eval(conv, norm)
    result = check(FuseConvBN(), model, fired=1, atol=1e-6)
    state = result.graph_module.state_dict()
    torch.testing.assert_close(state["0.weight_1"], eager.weight.data, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state["0.bias_1"], eager.bias.data, rtol=1e-6, atol=1e-6)


def test_rounds_once() -> None:
    """A fold of float32 parameters is that of exact arithmetic, rounded to the nearest float32."""
    weight, var, gamma = torch.randn(8, 3, 3, 3), torch.rand(8) + 0.1, torch.randn(8)
    folded = fold_weight(weight, var, gamma, eps=1e-5)
    exact = weight.double() * (gamma.double() / (var.double() + 1e-5).sqrt()).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(folded, exact.float(), rtol=0, atol=0)


class OneConvTwoNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.conv(self.a(self.conv(x))))


def test_shared_convolution_gets_weights_of_its_own_for_each_norm() -> None:
    result = check(FuseConvBN(), randomised(OneConvTwoNorms()), fired=2, atol=1e-5)
    assert ops_of(result) == ["conv2d", "conv2d"]
    assert len(result.graph_module.state_dict()) == 4


class BlockTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.block(x) * self.block(y)


def test_block_called_twice_keeps_one_weight() -> None:
    inputs = (torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4))
    result = check(FuseConvBN(), randomised(BlockTwice()), inputs, fired=2, atol=1e-6)
    assert set(result.graph_module.state_dict()) == {"block.0.weight_1", "block.0.bias_1"}


def test_folds_norm_after_norm() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    result = check(FuseConvBN(), model, fired=2, atol=1e-5)
    assert ops_of(result) == ["conv2d"]


class TiedWeight(nn.Module):
    """The folded weight is also used without its batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) - self.conv(x.relu())


def test_tied_weight_keeps_its_value_elsewhere() -> None:
    result = check(FuseConvBN(), randomised(TiedWeight()), fired=1, atol=1e-6)
    names = {"conv.weight", "conv.bias", "conv.weight_1", "conv.bias_1"}
    assert set(result.graph_module.state_dict()) == names


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).to(dtype)
    result = run(FuseConvBN(), model, torch.randn(1, 3, 4, 4, dtype=dtype))
    assert {t.dtype for t in result.graph_module.state_dict().values()} == {dtype}


def test_training_flags_and_statistics_of_the_model_stay() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    before = copy.deepcopy(model.state_dict())
    run(FuseConvBN(), model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


# -- near-misses -----------------------------------------------------------------------------------


class ConvReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_keeps_convolution_read_twice() -> None:
    check(
        FuseConvBN(),
        randomised(ConvReadTwice()),
        fired=0,
        mismatch="layer: expected 1 user, has 2",
    )


class ComputedWeight(nn.Module):
    def __init__(self, *, bias_only: bool) -> None:
        super().__init__()
        self.bias_only = bias_only
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 1, 1)), nn.Parameter(torch.randn(4))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean()
        weight = self.weight if self.bias_only else self.weight * scale
        return self.norm(nn.functional.conv2d(x, weight, self.bias * scale))


def test_keeps_computed_weight() -> None:
    check(
        FuseConvBN(),
        randomised(ComputedWeight(bias_only=False)),
        fired=0,
        mismatch="layer: expected weight to be a parameter or constant, is %mul",
    )


def test_keeps_computed_bias() -> None:
    check(
        FuseConvBN(),
        randomised(ComputedWeight(bias_only=True)),
        fired=0,
        mismatch="%mul is computed, not a constant",
    )


def test_keeps_linear_over_three_dims() -> None:
    """Batch-norm of (N, L, C) normalizes L."""
    model = randomised(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5)))
    check(
        FuseConvBN(),
        model,
        torch.randn(2, 5, 4),
        fired=0,
        mismatch="dim 1 of the rank-3 result of _0 is not its channel dim",
    )


def test_keeps_unbatched_convolution() -> None:
    """Batch-norm of (C, L) normalizes L."""
    model = randomised(nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(5)))
    check(
        FuseConvBN(),
        model,
        torch.randn(4, 5),
        fired=0,
        mismatch="dim 1 of the rank-2 result of _0 is not its channel dim",
    )


def test_norm_before_convolution_stays() -> None:
    model = randomised(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)))
    result = check(FuseConvBN(), model, fired=0)
    assert ops_of(result) == ["batch_norm", "conv2d"]
