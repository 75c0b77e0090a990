"""Inputs that a quantized model was not made for, and files that it can't be written to."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
from torch import nn

import qfx
from tests.cases.flow import randn, seeded

BACKENDS = ("x86", "fbgemm", "reference")
X = randn(2, 3, 16, 16)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))


@pytest.mark.sweep
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_channels_are_an_error_that_says_what_it_was_made_for(
    backend: str, channels: int
) -> None:
    """The x86 form pads 3 channels to 4: it took a fourth, and dropped it."""
    qmodel = qfx.quantize(seeded(net), X, backend=backend)
    said = rf"input of shape \[2, {channels}, 16, 16\], and was made for \[2, 3, 16, 16\]"
    with pytest.raises(qfx.ConfigError, match=said) as raised:
        qmodel(randn(2, channels, 16, 16))
    assert "primitive" not in str(raised.value)
    assert "ONEDNN_VERBOSE" not in str(raised.value)
    assert qmodel(randn(1, 3, 9, 9)).shape == (1, 8, 5, 5)


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_unbatched_images_are_named(backend: str) -> None:
    qmodel = qfx.quantize(seeded(net), X, backend=backend)
    with pytest.raises(qfx.ConfigError, match=r"shape \[3, 16, 16\], and was made for"):
        qmodel(X[0])


def test_a_failure_that_no_input_explains_stays_what_it_is() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("on purpose")

    qmodel = qfx.quantize(seeded(net), X, backend="x86")
    qmodel.register_forward_pre_hook(lambda module, args: Fails()(*args))
    with pytest.raises(RuntimeError, match="on purpose") as caught:
        qmodel(X)
    assert not isinstance(caught.value, qfx.QfxError)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pickling_says_so_when_saving(backend: str) -> None:
    """It failed only when the file was loaded, or with a message of the kernel's."""
    prepared = qfx.prepare(seeded(net), X, backend=backend)
    for model, said in (
        (prepared, "load that into what qfx.prepare makes"),
        (qfx.convert(qfx.calibrate(prepared, [X])), "Save it with qfx.save"),
    ):
        with pytest.raises(qfx.FormatError, match=said):
            torch.save(model, io.BytesIO())
        with pytest.raises(qfx.FormatError, match=said):
            pickle.dumps(model)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        convolved: torch.Tensor = self.conv(x)
        return convolved + other


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "reference"])
def test_inputs_of_two_batch_sizes_are_named_where_they_do_not_broadcast(backend: str) -> None:
    model = seeded(Residual)
    qmodel = qfx.quantize(model, (X, X), backend=backend, effort="fast")
    small = X[..., :8, :8]
    wanted = model(small, small[:1])
    assert (qmodel(small, small[:1]) - wanted).abs().max() < 0.05 * wanted.abs().max()
    said = r"x of shape \[2, 3, 16, 16\].*; other of shape \[3, 3, 16, 16\].*2.*3"
    with pytest.raises(qfx.ConfigError, match=said):
        qmodel(X, randn(3, 3, 16, 16))
