"""What a user asks of an activation or a layer decides whether they are fused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import QConfig, QConfigMapping, vocab
from qfx.backends.base import Backend
from qfx.capture.capture import capture
from qfx.configuration.configuration import Configuration
from qfx.testing import check
from qfx.testing.checking import run
from qfx_passes.fusion.fuse_post_ops import FusePostOps
from tests.passes.fusion.fusions import (
    EVERYTHING,
    Apply,
    TwoBranches,
    fused,
)

IMAGE = torch.randn(1, 3, 8, 8)


class ConvAddRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(torch.add(self.conv(x), x))


DEFAULT = qfx.get_default_qconfig("reference", "static")


assert DEFAULT.activation is not None


NARROW = QConfig(replace(DEFAULT.activation, quant_max=127), DEFAULT.weight)


def configured(model: nn.Module, mapping: QConfigMapping, **options: Any) -> list[object]:
    captured = capture(model, (IMAGE,))
    return [EVERYTHING, Configuration(captured, model, mapping, EVERYTHING, "static", **options)]


def everything() -> QConfigMapping:
    return QConfigMapping().set_global(DEFAULT)


@pytest.mark.parametrize(
    ("mapping", "expected", "mismatch"),
    [
        (everything(), ["conv2d+add+relu"], None),
        (QConfigMapping().set_global(None), ["conv2d+add+relu"], None),
        (
            everything().set_object_type(torch.add, None),
            ["conv2d", "add+relu"],
            "the configuration leaves add_relu float (set_object_type(torch.add))",
        ),
        (
            everything().set_module_name("conv", None),
            ["conv2d", "add+relu"],
            "the configuration leaves conv float (set_module_name('conv'))",
        ),
        (
            everything().set_module_name("relu", None),
            ["conv2d+add", "relu"],
            "the configuration leaves relu float (set_module_name('relu'))",
        ),
        (
            everything().set_module_name("relu", NARROW),
            ["conv2d+add", "relu"],
            "the configuration quantizes relu its own way (set_module_name('relu'))",
        ),
        (
            everything().set_object_type(torch.add, NARROW),
            ["conv2d", "add+relu"],
            "the configuration quantizes add_relu its own way (set_object_type(torch.add))",
        ),
        (everything().set_module_name("conv", NARROW), ["conv2d+add+relu"], None),
    ],
)
def test_configuration(mapping: QConfigMapping, expected: list[str], mismatch: str | None) -> None:
    model = ConvAddRelu().eval()
    settings = configured(model, mapping)
    fired = 3 - len(expected)
    result = check(FusePostOps(), model, IMAGE, settings=settings, fired=fired, mismatch=mismatch)
    assert fused(result) == expected


def test_falls_back_on_the_convolution_that_is_quantized() -> None:
    model = TwoBranches().eval()
    settings = configured(model, everything().set_module_name("short", None))
    result = check(FusePostOps(), model, IMAGE, settings=settings, fired=1)
    (total,) = (n for n in result.graph_module.graph.nodes if n.kwargs.get("post"))
    assert total.args[1].target == "main.weight"


def test_types_without_relu_still_fuse_it() -> None:
    model = Apply(F.relu).eval()
    settings = configured(model, everything(), types=[nn.Conv2d])
    assert fused(check(FusePostOps(), model, IMAGE, settings=settings)) == ["conv2d+relu"]


def test_types_without_add_keep_it() -> None:
    model = ConvAddRelu().eval()
    settings = configured(model, everything(), types=[nn.Conv2d])
    result = check(FusePostOps(), model, IMAGE, settings=settings, fired=1)
    assert fused(result) == ["conv2d", "add+relu"]


class Counting(Backend):
    """A backend that counts how often its table is asked."""

    asked = 0

    def post_ops(self, op: vocab.OpDef) -> tuple[tuple[str, ...], ...]:
        Counting.asked += 1
        return super().post_ops(op)


@pytest.mark.slow
def test_work_grows_with_the_graph_and_no_faster() -> None:
    class Chain(nn.Module):
        def __init__(self, blocks: int) -> None:
            super().__init__()
            self.fc, self.blocks = nn.Linear(2, 2), blocks

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.blocks):
                x = F.relu(self.fc(x) + x)
            return x

    asked = []
    for blocks in (25, 50, 100):
        before = Counting.asked
        table = Counting("fake", EVERYTHING.rules, {})
        run(FusePostOps(), Chain(blocks).eval(), torch.randn(1, 2), settings=[table])
        asked.append(Counting.asked - before)
    assert asked[2] - asked[1] == 2 * (asked[1] - asked[0])
