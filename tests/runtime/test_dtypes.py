"""Float dtypes other than float32: they work, or are a typed error that names them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qfx

DTYPES = (torch.float64, torch.float16, torch.bfloat16)
BACKENDS = ("x86", "fbgemm", "reference")
X = torch.linspace(-1.0, 1.0, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()


class FloatFirst(nn.Module):
    """A layer norm reads the input before anything is quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.linear(self.norm(image))
        return y if mask is None else y * mask


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_that_the_float_model_refuses_are_refused(backend: str, method: str) -> None:
    """Some were rounded to the same codes as float32, and nobody was told."""
    qmodel = qfx.quantize(net(), X, backend=backend, method=method)
    for dtype in (*DTYPES, torch.int64):
        with pytest.raises(
            qfx.ConfigError, match=rf"input in {dtype}, .* for torch\.float32.*\.to"
        ):
            qmodel(X.to(dtype))
    assert qmodel(X).dtype is torch.float32  # and it still runs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_halves_are_taken_as_in_float(dtype: torch.dtype) -> None:
    qmodel = qfx.quantize(net(), X, backend="x86")
    expected = qmodel(X.to(dtype).float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(qmodel(X.to(dtype)), expected, rtol=0, atol=0)
        with pytest.raises(qfx.ConfigError, match=r"input in torch\.float64"):
            qmodel(X.double())


class Nested(nn.Module):
    """Moves what it takes out of a dict, and only multiplies by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, batch: dict[str, Tensor], mask: Tensor) -> Tensor:
        return self.linear(batch["image"].flatten(1, 2)) * mask


@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_inputs_in_containers_and_moved_ones(backend: str) -> None:
    mask = torch.ones(1, 1, 4)
    qmodel = qfx.quantize(Nested().eval(), ({"image": X}, mask), backend=backend)
    with pytest.raises(qfx.ConfigError, match=r"with batch in torch\.float16, .*float32"):
        qmodel({"image": X.half()}, mask)
    with pytest.raises(qfx.ConfigError, match=r"with batch in torch\.float16, .*float32"):
        qmodel(mask=mask, batch={"image": X.half()})
    if backend == "x86":  # the mask is not rounded there, and does what it does in float
        assert qmodel({"image": X}, mask.double()).dtype is torch.float64


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_tensor_is_named(backend: str) -> None:
    qmodel = qfx.quantize(net(), X, backend=backend)
    for given, kind in ((X.numpy(), r"numpy\.ndarray"), ("x", "str"), (X.tolist(), "list")):
        with pytest.raises(
            qfx.ConfigError, match=rf"with input as {kind}, and was made for a tensor.*as_tensor"
        ):
            qmodel(given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_that_take_float32_only_name_the_dtype(dtype: torch.dtype) -> None:
    qmodel = qfx.quantize(net(), X, backend="fbgemm")
    for each in (qmodel, copy.deepcopy(qmodel)):
        with pytest.raises(
            qfx.ConfigError, match=rf"input in {dtype}, .* for torch\.float32.*\.to"
        ):
            each(X.to(dtype))
        assert each(X).dtype is torch.float32  # and it still runs


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
def test_integers_are_refused(method: str, backend: str) -> None:
    qmodel = qfx.quantize(net(), X, method=method, backend=backend)
    with pytest.raises(qfx.ConfigError, match=r"input in torch\.int64, .* for torch\.float32"):
        qmodel(X.long())


@pytest.mark.parametrize("backend", BACKENDS)
def test_float_operations_name_the_dtype(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = qfx.get_default_qconfig_mapping(backend, "static")
    mapping.set_object_type(nn.LayerNorm, None)
    qmodel = qfx.quantize(FloatFirst().eval(), X, backend=backend, qconfig=mapping)
    with pytest.raises(qfx.ConfigError, match=r"called with image in torch\.float64") as caught:
        qmodel(image=X.double())
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert capsys.readouterr().err == ""


def test_float64_inputs_that_were_captured_so_are_no_fault() -> None:
    mask = torch.ones(2, 3, 8, 4, dtype=torch.float64)
    promoting = qfx.quantize(FloatFirst().eval(), (X, mask), backend="reference")
    assert promoting(X, mask).dtype is torch.float64  # a float64 input from the first


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_quantized_models_keep_their_dtype(backend: str, dtype: torch.dtype) -> None:
    qmodel = qfx.quantize(net(), X, backend=backend)
    expected = qmodel(X)
    with pytest.raises(qfx.BackendError, match=rf"quantized model computes in .* into {dtype}"):
        qmodel.to(dtype)
    assert torch.equal(qmodel.float()(X), expected)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_prepared_models_keep_their_dtype(backend: str, dtype: torch.dtype) -> None:
    prepared = qfx.prepare(net(), X, backend=backend)
    with pytest.raises(qfx.BackendError, match=rf"prepared model computes in .* into {dtype}"):
        prepared.to(dtype)
    qfx.calibrate(prepared.float(), [X])
    assert qfx.convert(prepared)(X).dtype is torch.float32


@pytest.mark.parametrize("method", ["static", "qat"])
def test_calibration_in_integers_says_what_the_examples_were(method: str) -> None:
    prepared = qfx.prepare(net(), X, backend="x86", method=method)
    with pytest.raises(
        qfx.ConfigError,
        match=r"batch 1 does not fit the model: it has \(int64\[2,3,8,8\]\); the example inputs "
        r"were \(float32\[2,3,8,8\]\)\.\nConvert the batches, as in x\.to\(torch\.float32\)\.",
    ):
        qfx.calibrate(prepared, [X, X.long()])


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_calibration_in_another_dtype_names_it(backend: str, dtype: torch.dtype) -> None:
    prepared = qfx.prepare(net(), X, backend=backend)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(qfx.ConfigError, match=rf"batch 0 does not fit.*\n.*{name}\[2,3,8,8\]"):
        qfx.calibrate(prepared, [X.to(dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_float_models_in_another_dtype_are_named(backend: str, dtype: torch.dtype) -> None:
    with pytest.raises(qfx.ConfigError, match=rf"{dtype}.*model\.float\(\)"):
        qfx.quantize(net().to(dtype), X.to(dtype), backend=backend)
