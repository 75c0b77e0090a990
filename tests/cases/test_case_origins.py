"""Cases 19, 21, 24 and 25: what can't be traced, transposed convolutions, source lines, dropout."""

import inspect

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.graph import meta
from tests.cases.flow import (
    BACKENDS,
    quantized,
    randn,
    run,
    seeded,
    targets,
)

TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Upscale(nn.Module):
    """Case 21."""

    def __init__(self, dims: int, groups: int = 1) -> None:
        super().__init__()
        self.up = TRANSPOSED[dims](4, 6, 3, stride=2, output_padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x).relu()


@pytest.mark.sweep
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", TRANSPOSED)
@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (1, 1)), ("x86", (1, 0)), ("reference", (2, 2))]
)
def test_transposed_convolution(
    backend: str, counts: tuple[int, int], dims: int, groups: int
) -> None:
    x = randn(2, 4, *[5, 6, 3][:dims])
    model = seeded(Upscale, dims, groups)
    qmodel = quantized(model, x, backend, quantize=counts[0], dequantize=counts[1])
    assert run(qmodel, (randn(3, 4, *[7, 4, 5][:dims]),)).shape[0] == 3


class Untraceable(nn.Module):
    """Case 19, so far an error."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


def test_untraceable_is_a_capture_error() -> None:
    with pytest.raises(qfx.CaptureError, match=r"test_case_origins\.py:\d+"):
        qfx.quantize(seeded(Untraceable), randn(2, 3), backend="fbgemm")


class Lines(nn.Module):
    """Case 24."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)  # conv
        x = self.bn(x)
        x = torch.nn.functional.gelu(x)
        x = x.amax((2, 3))
        return self.fc(x)


def line_of(text: str) -> str:
    """ "file:line" of a line of this file's models, by its text."""
    lines, first = inspect.getsourcelines(Lines.forward)
    found = next(i for i, line in enumerate(lines) if text in line)
    return f"test_case_origins.py:{first + found}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_source_lines_survive_to_the_lowered_graph(backend: str) -> None:
    qmodel = quantized(seeded(Lines), randn(2, 3, 8, 8), backend)
    found = set()
    for node in qmodel.graph.nodes:
        if node.op.startswith("call_"):
            assert meta.origins(node), node
            found.update(origin.source for origin in meta.origins(node))
    assert found >= {line_of(t) for t in ("# conv", "self.bn(", "gelu", "amax", "self.fc(")}
    sites = {s.node: s.source for s in qmodel.report.sites}
    assert sites["conv"].endswith(line_of("# conv"))
    assert sites["bn"].endswith(line_of("self.bn("))
    kernel = next(n for n in qmodel.graph.nodes if "conv2d" in str(n.target).lower())
    chain = str(qmodel.history.blame(kernel.name))
    assert "fuse-conv-bn" in chain
    assert line_of("# conv") in chain


class Idle(nn.Module):
    """Case 25."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.keep = nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Identity()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.keep(self.drop(self.conv(x)))
        x = torch.nn.functional.dropout(x.amax((2, 3)), 0.5, training=self.training)
        return self.fc(x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_and_identity_vanish(backend: str) -> None:
    qmodel = quantized(seeded(Idle), randn(2, 3, 8, 8), backend)
    assert not [t for t in targets(qmodel) if "dropout" in str(t).lower()]
    assert not [m for m in qmodel.modules() if isinstance(m, (nn.Dropout, nn.Identity))]
    gone = [s for s in qmodel.report.sites if s.reason == "removed"]
    assert {s.module_path for s in gone} >= {"drop", "keep"}
    expected = run(qmodel, (randn(2, 3, 8, 8),))
    with pytest.warns(qfx.QfxWarning, match=r"train\(\) changes nothing"):
        qmodel.train()
    assert run(qmodel, (randn(2, 3, 8, 8),)).equal(expected)
