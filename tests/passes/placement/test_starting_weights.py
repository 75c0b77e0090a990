"""Training starts from the bits, scales and codes of weights that calibration chose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.quant.weight_fake_quant import WeightFakeQuantize
from tests.cases.flow import randn, seeded

FOUR = qfx.QConfig(
    qfx.QuantSpec(torch.uint8, observer="histogram"),
    qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-7, quant_max=7),
)
EIGHT = qfx.QConfig(
    FOUR.activation, qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127)
)
HIGH = qfx.pipelines.static(effort="high")


class Depthwise(nn.Module):
    """As mobile networks are: pointwise and depthwise convolutions, a grouped one, a residual."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 12, 3, padding=1), norm(12)
        self.depth, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), norm(12)
        self.point, self.norm3 = nn.Conv2d(12, 12, 1), norm(12)
        self.grouped, self.head = nn.Conv2d(12, 16, 3, groups=2), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm1(self.first(x)))
        x = x + self.norm3(self.point(F.relu6(self.norm2(self.depth(x)))))
        return self.head(F.relu(self.grouped(x)).mean((2, 3)))


def norm(width: int) -> nn.Module:
    """A batch-norm that has seen data, one factor of which is negative and one zero."""
    made = nn.BatchNorm2d(width)
    nn.init.uniform_(made.running_mean, -0.1, 0.1)
    nn.init.uniform_(made.running_var, 0.5, 1.5)
    nn.init.uniform_(made.weight, 0.5, 1.5)
    with torch.no_grad():
        made.weight[1] *= -1
        made.weight[2] = 0
    return made


NETS: dict[str, Callable[[], nn.Module]] = {
    "batch-norms": lambda: Depthwise(norm),
    "none": lambda: Depthwise(lambda width: nn.Identity()),
}


def batch(seed: int) -> Tensor:
    """Images whose neighbours, and channels, are alike."""
    x = F.interpolate(randn(8, 2, 3, 3, seed=seed), scale_factor=3, mode="bilinear")
    return torch.cat([x, x.sum(1, keepdim=True)], 1)


X = batch(0)


def calibrated(
    model: nn.Module, config: qfx.QConfig, pipeline: qfx.Pipeline | None = None, **options: object
) -> qfx.QuantizedModel:
    data = [batch(i) for i in range(6)]
    options = {"backend": "reference", "qconfig": config, "calibration_data": data, **options}
    return qfx.quantize(model, X, pipeline=pipeline, **options)  # type: ignore[arg-type]


def prepared(
    model: nn.Module, start: qfx.QuantizedModel, config: qfx.QConfig, backend: str = "reference"
) -> qfx.PreparedModel:
    options = {"method": "qat", "backend": backend, "qconfig": config, "qparams_from": start}
    return qfx.prepare(model, X, **options)  # type: ignore[arg-type]


def chosen(model: qfx.QuantizedModel) -> set[str]:
    """The layers whose codes gptq chose."""
    return {str(s.label) for s in model.report.sites if "gptq" in s.findings}


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("config", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
@pytest.mark.parametrize("effort", ["fast", "default", "high"])
@pytest.mark.parametrize("name", NETS)
def test_without_a_step_it_is_the_calibrated_model(
    name: str, effort: str, config: qfx.QConfig
) -> None:
    model = seeded(NETS[name])
    start = calibrated(model, config, effort=effort)
    assert bool(chosen(start)) is (effort != "fast")
    before = parameters(model)
    qat = prepared(model, start, config)
    assert all(torch.equal(p, before[n]) for n, p in parameters(model).items())
    converted = qfx.convert(qat)
    assert torch.equal(converted.reference(X), start.reference(X))
    assert torch.equal(qat.eval()(X), converted.reference(X))
    kept = parameters(qat)
    same = [float((kept[n] == p).float().mean()) for n, p in before.items() if p.dim() > 1]
    assert sum(same) / len(same) > 0.5, "weights stay where the nearest code is the chosen one"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
@pytest.mark.parametrize("effort", ["default", "high"])
def test_kernels_compute_what_those_of_the_calibrated_model_do(backend: str, effort: str) -> None:
    model = seeded(NETS["batch-norms"])
    config = qfx.get_default_qconfig(backend, "static")
    start = calibrated(model, config, backend=backend, effort=effort)
    qat = prepared(model, start, qfx.get_default_qconfig(backend, "qat"), backend)
    assert torch.equal(qfx.convert(qat)(X), start(X))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("config", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
def test_a_step_moves_all_weights_and_scales_go_with_them(name: str, config: qfx.QConfig) -> None:
    model = seeded(NETS[name])
    start = calibrated(model, config, HIGH)
    qat = prepared(model, start, config).train()
    rounding = {n: f for n, f in qat.fake_quants.items() if isinstance(f, WeightFakeQuantize)}
    assert any(f.start is not None for f in rounding.values())
    before, scales = parameters(qat), {n: f.scale.clone() for n, f in rounding.items()}
    optimizer = torch.optim.SGD(qat.parameters(), 0.1)
    qat(X).square().mean().backward()
    optimizer.step()
    qat.eval()(X)
    for layer in ("first", "depth", "point", "grouped", "head"):
        weight = qat.get_parameter(f"{layer}.weight")
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert not torch.equal(weight, before[f"{layer}.weight"])
    assert any(not torch.equal(f.scale, scales[n]) for n, f in rounding.items())
    converted = qfx.convert(qat)
    assert torch.equal(qat(X), converted.reference(X))
    qfx.freeze_observers(qat)
    assert torch.equal(qfx.convert(qat)(X), converted(X))


def test_widened_weights_keep_their_bits_from_a_file_too(tmp_path: Path) -> None:
    model = seeded(NETS["none"])
    start = calibrated(model, FOUR, HIGH)
    widened = {s.label for s in start.report.sites if "widen-weights" in s.findings}
    assert widened
    loaded = qfx.load(qfx.save(start, tmp_path / "start.qfx"))
    assert isinstance(loaded, qfx.QuantizedModel)
    converted = qfx.convert(prepared(model, loaded, FOUR))
    assert torch.equal(converted(X), start(X))
    told = {s.label: s.findings for s in converted.report.sites if s.findings}
    assert told.keys() == widened
    assert {text for found in told.values() for text in found.values()} == {
        "8 bits, as qparams_from has"
    }


@pytest.mark.parametrize(("first", "then"), [(EIGHT, FOUR), (FOUR, EIGHT)])
def test_weights_of_as_many_bits_as_are_asked_for_are_trained(
    first: qfx.QConfig, then: qfx.QConfig
) -> None:
    model = seeded(NETS["batch-norms"])
    pipeline = HIGH.without("widen-weights")
    qat = prepared(model, calibrated(model, first, pipeline), then)
    kept = parameters(qat)
    assert all(torch.equal(p, kept[n]) for n, p in parameters(model).items() if p.dim() > 1)
    codes = [b for n, b in qfx.convert(qat).reference.named_buffers() if n.endswith("weight_q")]
    assert all(int(c.abs().max()) == then.weight.bounds[1] for c in codes)


class Attention(nn.Module):
    """Projections whose weights are parts of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def tokens(seed: int) -> Tensor:
    return randn(4, 7, 4, seed=seed) @ randn(4, 16, seed=9)


def test_weights_that_are_parts_of_one_parameter_start_apart() -> None:
    model, data = seeded(Attention), [tokens(i) for i in range(6)]
    pipeline = HIGH.without("smooth-inputs")
    options = {"backend": "reference", "qconfig": FOUR}
    start = qfx.quantize(model, data[0], calibration_data=data, pipeline=pipeline, **options)
    qat = qfx.prepare(model, data[0], method="qat", qparams_from=start, **options)
    packed = (qat.get_parameter(name) == p for name, p in model.named_parameters() if "in_" in name)
    moved = [bool((~part).any()) for part in next(packed).chunk(3)]
    assert sum(moved) > 1
    assert torch.equal(qfx.convert(qat)(data[0]), start(data[0]))


class Twice(nn.Module):
    """One weight behind which there are two batch-norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm1, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), norm(3), norm(3)
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv(x)))
        return self.last(F.relu(self.norm2(self.conv(x))))


def test_a_weight_that_others_read_keeps_its_nearest_codes() -> None:
    model = seeded(Twice)
    start = calibrated(model, FOUR, HIGH.without("widen-weights"))
    assert chosen(start) & {"conv"}
    qat = prepared(model, start, FOUR)
    assert torch.equal(qat.get_parameter("conv.weight"), model.conv.weight)
    warnings = qfx.convert(qat).report.warnings
    assert any("which others read, too" in each for each in warnings)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(3, 8, 3, groups=1), norm(8)
        self.down = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.norm(self.up(x))))


def test_scales_of_other_observers_are_starts_as_well() -> None:
    model = seeded(Transposed)
    weight = qfx.QuantSpec(
        torch.int8, symmetric=True, per_channel=True, quant_min=-7, quant_max=7,
        observer="per_channel_mse",
    )  # fmt: skip
    start = calibrated(model, qfx.QConfig(FOUR.activation, weight))
    qat = prepared(model, start, FOUR)
    assert torch.equal(qfx.convert(qat)(X), start(X))
    for layer in ("up", "down"):
        name = f"{layer}.weight"
        assert torch.equal(qat.get_parameter(name), model.get_parameter(name))


# -- what is kept ----------------------------------------------------------------------------------
def test_starts_are_part_of_what_is_saved(tmp_path: Path) -> None:
    model = seeded(NETS["batch-norms"])
    qat = prepared(model, calibrated(model, FOUR, HIGH), FOUR).train()
    qat(X)
    loaded = qfx.load(qfx.save(qat, tmp_path / "qat.qfx"))
    assert isinstance(loaded, qfx.PreparedModel)
    assert loaded.state_dict().keys() == qat.state_dict().keys()
    assert torch.equal(qfx.convert(loaded)(X), qfx.convert(qat)(X))
