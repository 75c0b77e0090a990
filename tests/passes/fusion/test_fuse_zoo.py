"""Fusion of real networks: how many kernels of which kind remain, and that outputs agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from qfx.testing import check
from qfx_passes.fusion.fuse_conv_bn import FuseConvBN
from qfx_passes.fusion.fuse_post_ops import FusePostOps
from tests.passes.fusion.test_fuse_post_ops import backend, fused
from tools.networks import classifier

RELU, CLAMP, SILU, ADD = ("relu",), ("clamp",), ("silu",), ("add",)
TABLE = backend(
    conv2d=(RELU, CLAMP, SILU, ADD, (*ADD, *RELU)), batch_norm=(RELU,), linear=(RELU,), add=(RELU,)
)

COUNTS = {
    "mobilenet_v2": {"conv2d+clamp": 35, "conv2d": 7, "conv2d+add": 10, "linear": 1},
    "resnet50": {"conv2d+relu": 33, "conv2d+add+relu": 16, "conv2d": 4, "linear": 1},
    "densenet121": {"conv2d+relu": 59, "conv2d": 61, "batch_norm+relu": 62, "linear": 1},
    "efficientnet_b0": {"conv2d+silu": 49, "conv2d": 23, "conv2d+add": 9, "linear": 1},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("name", COUNTS)
def test_kernels_of(name: str) -> None:
    model = classifier(name)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    passes = [FuseConvBN(), FusePostOps()]
    fired = sum(n * kernel.count("+") for kernel, n in COUNTS[name].items())
    result = check(passes, model, image, settings=[TABLE], fired=fired, atol=1e-4)
    kinds = ("conv2d", "linear", "batch_norm", "add", "relu", "clamp", "silu")
    counts = Counter(name for name in fused(result) if name.split("+")[0] in kinds)
    assert dict(counts) == COUNTS[name]
