"""A patch embedding was proven with three channels and run with four, where the kernel is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.backends.onednn import conv_calls as x86_conv_calls
from qfx.backends.onednn import verified_convs as x86_proven
from qfx.backends.onednn.verified_convs import is_suspect
from tests.cases.flow import randn, seeded, sqnr
from tests.support.wrong_kernels import planted

pytestmark = pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86 here")


def embedding() -> nn.Module:
    return nn.Conv2d(3, 48, 32, stride=32)


def same(qmodel: qfx.QuantizedModel, *inputs: Tensor) -> bool:
    return all(sqnr(qmodel.reference(x), qmodel(x)) > 40 for x in inputs)


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_wrong_fourth_channel_is_not_used(method: str) -> None:
    model, x = seeded(embedding), randn(1, 3, 64, 64)
    with planted(lambda channels, outputs, groups: channels == 4):
        qmodel = qfx.quantize(model, x, backend="x86", method=method)
        assert qmodel.report.coverage == 1.0
        assert same(qmodel, x, randn(2, 3, 96, 96))


def test_a_right_fourth_channel_is_used() -> None:
    with planted(lambda *_: False) as seen:
        qmodel = qfx.quantize(seeded(embedding), randn(1, 3, 64, 64), backend="x86")
        assert "quantize_rgbx" in qmodel.code
        assert (4, 48, 1) in seen.seen


def test_wrong_three_channels_do_not_matter_to_four() -> None:
    model, x = seeded(embedding), randn(1, 3, 64, 64)
    with planted(lambda channels, outputs, groups: channels == 3):
        qmodel = qfx.quantize(model, x, backend="x86")
        assert same(qmodel, x)


def test_wrong_in_every_form_is_float_with_a_reason() -> None:
    model = seeded(lambda: nn.Sequential(embedding(), nn.Conv2d(48, 8, 1)))
    x = randn(1, 3, 64, 64)
    with planted(lambda channels, outputs, groups: outputs == 48):
        qmodel = qfx.quantize(model, x, backend="x86")
        site = qmodel.report.sites[0]
        assert (site.decision, site.reason) == ("float", "unsupported")
        assert "is wrong here for kernel (32, 32), 3 to 48 channels" in site.message
        assert site.remedy
        assert sqnr(model(x), qmodel(x)) > 30


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 48, 3, padding=1)
        self.second = nn.Conv2d(48, 48, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return torch.relu(y + self.second(y))


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "image": (embedding, (1, 3, 64, 64)),
    "image, relu": (lambda: nn.Sequential(embedding(), nn.ReLU()), (1, 3, 64, 64)),
    "between": (
        lambda: nn.Sequential(nn.Conv2d(3, 48, 3), nn.ReLU(), nn.Conv2d(48, 36, 3, groups=2)),
        (1, 3, 12, 12),
    ),
    "residual": (Residual, (1, 3, 12, 12)),
    "hardswish": (
        lambda: nn.Sequential(nn.Conv2d(32, 64, 3, groups=2), nn.Hardswish()),
        (1, 32, 9, 9),
    ),
    "sequence": (lambda: nn.Conv1d(16, 16, 8), (1, 16, 40)),
    "volume": (lambda: nn.Conv3d(32, 32, (1, 1, 8), groups=2), (1, 32, 3, 3, 12)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 64, 4, 2, 1, groups=2), (1, 8, 8, 8)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("name", NETS)
def test_what_is_emitted_was_proven(
    name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of a suspect geometry in the lowered graph, as it was tried."""
    make, shape = NETS[name]
    if method == "dynamic" and name == "transposed":
        pytest.skip("static only")
    proven: set[str] = set()
    original = x86_conv_calls.write, x86_conv_calls.write_sum

    def call_of(args: tuple[Any, ...]) -> str:
        """All of a call that is no tensor, scale or code."""
        return str([list(a) if isinstance(a, (list, tuple)) else a for a in args])

    def noted(call: Any, ending: Any, *rest: Any) -> str:
        proven.add(str((call, ending)))
        return fault(call, ending, *rest)

    fault = x86_proven.fault
    monkeypatch.setattr(x86_proven, "fault", noted)
    emitted: set[str] = set()

    from qfx.backends.onednn import convs as x86_convs

    ending_of = x86_convs._ending
    endings: list[Any] = []

    def remembered(*args: Any, **kwargs: Any) -> Any:
        endings.append(ending_of(*args, **kwargs))
        return endings[-1]

    def written(call: Any, *args: Any, **kwargs: Any) -> Any:
        if is_suspect(call):
            emitted.add(str((call, endings[-1])))
        return original[0](call, *args, **kwargs)

    def written_sum(call: Any, *args: Any) -> Any:
        if is_suspect(call):
            emitted.add(str((call, endings[-1])))
        return original[1](call, *args)

    monkeypatch.setattr(x86_convs, "_ending", remembered)
    monkeypatch.setattr(x86_convs, "write", written)
    monkeypatch.setattr(x86_convs, "write_sum", written_sum)
    qmodel = qfx.quantize(seeded(make), randn(*shape), backend="x86", method=method)
    assert emitted
    assert emitted <= proven
    assert same(qmodel, randn(*shape))
