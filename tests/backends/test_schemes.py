"""Codes that kernels take, as data: validated, and enforced with reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.backends.base import Backend, Emitter, KernelRule, LoweringSite, Output, WeightRule
from qfx.backends.schemes import Scheme, bits_of
from qfx.quant.qparams import QParams

INT8 = Scheme((torch.int8,), bits=(8,), symmetric=True, power_of_two=True)
GOOD = qfx.QuantSpec(torch.int8, symmetric=True, power_of_two=True)
QCONFIG = qfx.QConfig(activation=GOOD, weight=GOOD)
X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.uint8, "quant_min": None, "quant_max": None}, "codes are int8, not uint8"),
        ({"quant_min": -8, "quant_max": 7}, "codes have 8 bits, not 4"),
        ({"symmetric": False}, "codes are symmetric, not affine"),
        ({"power_of_two": False}, "scales are powers of two: set power_of_two=True"),
    ],
)
def test_what_a_scheme_refuses(changes: dict[str, object], reason: str) -> None:
    assert INT8.refusal(GOOD) == ""
    assert INT8.refusal(replace(GOOD, quant_min=-127)) == ""
    assert INT8.refusal(replace(GOOD, **changes)) == reason
    anything = Scheme((torch.uint8, torch.int8))
    assert anything.refusal(replace(GOOD, **changes)) == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtypes": ()}, "dtypes is"),
        ({"dtypes": (torch.float32,)}, "float32 holds no codes"),
        ({"dtypes": (torch.int8,), "bits": (9,)}, "have 1 to 8 bits, not 9"),
        ({"dtypes": (torch.int8,), "bits": ()}, "bits is empty"),
    ],
)
def test_schemes_that_nothing_fits(given: dict[str, object], message: str) -> None:
    with pytest.raises(qfx.BackendError, match=message):
        Scheme(**given)


def test_bits() -> None:
    found = [bits_of(*b) for b in ((0, 255), (0, 127), (-128, 127), (-127, 127), (-8, 7), (0, 15))]
    assert found == [8, 7, 8, 8, 4, 4]


def npu_linear(x: Tensor, weight: Tensor, bias: Tensor | None, shift: float) -> Tensor:
    total = x.to(torch.int32) @ weight.to(torch.int32).T
    total = total if bias is None else total + bias
    return torch.round(total * shift).clamp(-128, 127).to(torch.int8)


def emit(e: Emitter, site: LoweringSite) -> fx.Node:
    (codes, qparams), weight = next(iter(site.inputs.values())), site.weight
    assert weight is not None
    assert site.output is not None
    bias = None if site.bias is None else e.rw.constant("npu.bias", site.bias)
    shift = float(qparams.scale * weight.qparams.scale / site.output.scale)
    held = e.rw.constant("npu.weight", weight.integers)
    return e.rw.call(npu_linear, codes, held, bias, shift)


def quantize(e: Emitter, value: fx.Node, q: QParams) -> fx.Node:
    return e.rw.call(vocab.QUANTIZE, value, q.scale, q.zero_point, dtype=q.dtype)


def dequantize(e: Emitter, codes: fx.Node, q: QParams) -> fx.Node:
    return e.rw.call(vocab.DEQUANTIZE, codes, q.scale, q.zero_point)


ROW = KernelRule(
    vocab.LINEAR, "npu.linear", weight=WeightRule(per_channel=False), bias=torch.int32, emit=emit
)


def npu(row: KernelRule = ROW, **changes: object) -> Backend:
    given = {
        "defaults": {"static": QCONFIG}, "quantize": quantize, "dequantize": dequantize,
        "activations": INT8, "weights": INT8, **changes,
    }  # fmt: skip
    return Backend("npu", (row,), **given)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def test_kernels_get_biases_as_codes_and_results_have_dtypes_and_origins() -> None:
    model = Net().eval()
    qmodel = qfx.quantize(model, X, backend=npu())
    assert qmodel.report.coverage == 1.0
    (site,) = qmodel.report.sites
    assert (site.kernel, site.node) == ("npu.linear", "fc")
    view = qmodel.history[-1].snapshot
    call = next(r for r in view if "npu_linear" in r.target)
    assert call.type_text == "i8[3,4]"
    assert [o.node for o in call.origins] == ["fc"]
    torch.testing.assert_close(qmodel(X), qmodel.reference(X), rtol=0, atol=0.04)
    torch.testing.assert_close(qmodel(X), model(X), rtol=0, atol=0.1)


def test_a_configuration_that_does_not_fit_is_a_reason() -> None:
    narrow = qfx.QConfig(activation=replace(GOOD, quant_min=-8, quant_max=7), weight=GOOD)
    with (
        pytest.warns(qfx.QfxWarning, match="take other activations: codes have 8 bits, not 4"),
        pytest.raises(qfx.CoverageError, match="config-unfit"),
    ):
        qfx.quantize(Net().eval(), X, backend=npu(), qconfig=narrow)


def test_a_reference_form_has_its_schemes_too() -> None:
    row = KernelRule(vocab.LINEAR, "npu", weight=WeightRule(per_channel=False))
    table = Backend("npu", (row,), {"static": QCONFIG}, activations=INT8, weights=INT8)
    assert qfx.quantize(Net().eval(), X, backend=table).report.coverage == 1.0
    wrong = qfx.QConfig(activation=GOOD, weight=replace(GOOD, power_of_two=False))
    with (
        pytest.warns(qfx.QfxWarning, match="take other weights: scales are powers of two"),
        pytest.raises(qfx.CoverageError, match="config-unfit"),
    ):
        qfx.quantize(Net().eval(), X, backend=table, qconfig=wrong)


PER_CHANNEL = qfx.QuantSpec(torch.int8, symmetric=True, power_of_two=True, per_channel=True)


def test_a_scale_per_channel_becomes_one_per_tensor_and_that_is_told() -> None:
    asked = qfx.QConfig(activation=GOOD, weight=PER_CHANNEL)
    told = "npu.linear takes one weight scale per tensor, so per_channel of the QConfig given"
    with pytest.warns(qfx.QfxWarning, match=told):
        qmodel = qfx.quantize(Net().eval(), X, backend=npu(), qconfig=asked)
    assert any(told in warning for warning in qmodel.report.warnings)
    (site,) = qfx.variants(qmodel, qmodel).sites[1:]
    assert " scale " in site.weight[0]  # one
    mapping = qfx.QConfigMapping().set_module_name("fc", asked)
    with pytest.warns(qfx.QfxWarning, match=r"fc .*: npu.linear takes one weight scale .*'fc'"):
        qfx.quantize(Net().eval(), X, backend=npu(), qconfig=mapping)


def test_the_defaults_of_a_backend_are_no_reason_to_warn() -> None:
    """Some of its kernels take a scale per channel, and this one does not."""
    wide = replace(ROW, op=vocab.CONV2D, kernel="npu.conv", weight=WeightRule())
    backend = Backend(
        "npu", (ROW, wide), {"static": qfx.QConfig(activation=GOOD, weight=PER_CHANNEL)},
        quantize, dequantize, activations=INT8, weights=INT8,
    )  # fmt: skip
    assert qfx.quantize(Net().eval(), X, backend=backend).report.coverage == 1.0


def test_activations_per_channel_are_a_reason() -> None:
    asked = qfx.QConfig(activation=PER_CHANNEL, weight=GOOD)
    with (
        pytest.warns(qfx.QfxWarning, match="activations are quantized per tensor"),
        pytest.raises(qfx.CoverageError, match="config-unfit"),
    ):
        qfx.quantize(Net().eval(), X, backend=npu(), qconfig=asked)


# -- layouts --------------------------------------------------------------------------------------
def npu_conv(x: Tensor, weight: Tensor, shift: float) -> Tensor:
    """A kernel that reads pixels, channels innermost, and hands out rows."""
    if x.device.type != "meta":
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert not x.is_contiguous()
    total = torch.nn.functional.conv2d(x.double(), weight.double())
    return torch.round(total * shift).clamp(-128, 127).to(torch.int8).contiguous()


def emit_conv(e: Emitter, site: LoweringSite) -> fx.Node:
    ((codes, qparams),), weight = site.inputs.values(), site.weight
    assert weight is not None
    assert site.output is not None
    shift = float(qparams.scale * weight.qparams.scale / site.output.scale)
    return e.rw.call(npu_conv, codes, e.rw.constant("npu.weight", weight.integers), shift)


CONV = KernelRule(
    vocab.CONV2D, "npu.conv", weight=WeightRule(per_channel=False), emit=emit_conv,
    layout=torch.channels_last,
)  # fmt: skip


def test_operands_are_brought_into_the_layout_that_a_kernel_reads() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    image = torch.randn(2, 3, 6, 6)
    qmodel = qfx.quantize(nn.Sequential(*layers).eval(), image, backend=npu(CONV))
    assert [site.kernel for site in qmodel.report.sites] == ["npu.conv", "npu.conv"]
    assert "kernel-failed-check" not in str(qmodel.report)
    step = 1.01 * float(next(iter(reversed(qmodel.reference.graph.nodes))).args[0].args[1])
    for given in (image, image.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(qmodel(given), qmodel.reference(given), rtol=0, atol=step)


def test_an_operand_without_that_layout_is_a_reason() -> None:
    unbatched = torch.randn(3, 6, 6)
    reads = r"kernel reads torch.channels_last, of 4 dims, and an operand is \[3, 6, 6\]"
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False)).eval()
    row = replace(CONV, weight=None, emit=lambda e, site: None)
    for backend, reason in ((npu(row), reads), (npu(CONV), "no batch dimension")):
        with pytest.raises(qfx.CoverageError, match=reason):
            qfx.quantize(model, unbatched, backend=backend)


def test_a_bias_beyond_the_accumulator_is_a_reason() -> None:
    model = Net().eval()
    with torch.no_grad():
        model.fc.bias.fill_(1e9)
        model.fc.weight.mul_(1e-6)
    with pytest.raises(qfx.CoverageError, match="steps of the accumulator, beyond int32"):
        qfx.quantize(model, X, backend=npu())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda e, site: None, "returned NoneType; return a node, or Mismatch"),
        (lambda e, site: site.node, "returned a node of the float graph: %fc"),
        (
            lambda e, site: e.rw.call(vocab.FLATTEN, next(iter(site.inputs.values()))[0]),
            r"yields shape \[24\], and linear yields \[3, 4\]",
        ),
        (
            lambda e, site: e.rw.call(torch.zeros, (3, 4)),
            r"yields torch.float32, where torch.int8 is asked for",
        ),
    ],
)
def test_emit_is_checked(wrong: Callable[..., object], message: str) -> None:
    with pytest.raises(qfx.BackendError, match=rf"emit of the row linear, 'npu.linear'.*{message}"):
        qfx.quantize(Net().eval(), X, backend=npu(replace(ROW, emit=wrong)))


def test_an_emit_that_raises_is_told_with_its_row_and_node() -> None:
    def wrong(e: object, site: object) -> None:
        raise KeyError("shift")

    with pytest.raises(
        qfx.PassError, match=r"\(rule npu.linear at %fc\) raised KeyError"
    ) as caught:
        qfx.quantize(Net().eval(), X, backend=npu(replace(ROW, emit=wrong)))
    error = caught.value
    assert (error.pass_name, error.rule, error.node) == ("lower", "npu.linear", "fc")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(ROW, bias=torch.int8), "give torch.int32, or None"),
        (lambda: replace(ROW, method="dynamic"), "integer biases go with a weight and known"),
        (lambda: replace(ROW, activations=torch.int8), "activations is .*; give a Scheme"),
        (lambda: replace(ROW, layout="NHWC"), "layout is 'NHWC'; choose of torch"),
        (lambda: replace(CONV, emit=None), "layout goes with an emit"),
        (
            lambda: npu(defaults={"static": qfx.QConfig(activation=GOOD, weight=PER_CHANNEL)}),
            "has a weight scale per channel, and 'npu.linear' takes one per tensor",
        ),
        (
            lambda: npu(defaults={"static": qfx.get_default_qconfig("reference", "static")}),
            "the default QConfig for static does not fit linear: codes are int8, not uint8",
        ),
        (
            lambda: npu(
                KernelRule(
                    vocab.SIGMOID, "lut", output=Output.FIXED, emit=emit,
                    fixed=QParams(0.003, -128, torch.int8, -128, 127),
                )
            ),
            "fixed qparams of the row of sigmoid: codes are symmetric, not affine",
        ),
    ],
)  # fmt: skip
def test_tables_that_contradict_themselves(make: Callable[[], object], message: str) -> None:
    with pytest.raises(qfx.BackendError, match=message):
        make()
