"""Models whose training graph once meant something else than their calibrated one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr
from tests.cases.flow import randn, seeded
from tests.cases.test_case_qat import Net, X, batches, prepared, train

TOKENS = randn(2, 5, 16)


class Cross(nn.Module):
    """Attention over another sequence: query, key and value have projections of their own."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, dropout, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x + 1, x + 1, need_weights=False)[0]


class Dropped(nn.Module):
    """A residual that is added behind a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.down(self.drop(F.gelu(self.up(self.norm(x))))))


MODELS = {
    "cross": Cross,
    "cross, dropout": lambda: Cross(0.1),
    "encoder": lambda: nn.TransformerEncoderLayer(16, 4, 32, 0.1, batch_first=True),
    "encoder, no dropout": lambda: nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True),
    "dropped residual": Dropped,
}


ALIKE = [(name, "x86") for name in MODELS] + [
    (name, ("fbgemm", "reference")[i % 2]) for i, name in enumerate(MODELS)
]
"""What is asked is between two graphs of one backend: the others share the models."""


@pytest.mark.sweep(first=2)
@pytest.mark.parametrize(("name", "backend"), ALIKE)
def test_without_a_step_blocks_are_the_calibrated_ones(name: str, backend: str) -> None:
    model = seeded(MODELS[name])
    calibrated = qfx.quantize(model, (TOKENS,), backend=backend)
    qat = prepared(model, TOKENS, backend=backend, qparams_from=calibrated)
    converted = qfx.convert(qat)
    assert sqnr(calibrated.reference(TOKENS), converted.reference(TOKENS)) > 100
    assert torch.equal(qat(TOKENS), converted.reference(TOKENS))
    theirs = [s.kernel for s in calibrated.report.sites if s.macs]
    assert [s.kernel for s in converted.report.sites if s.macs] == theirs


def test_dropout_acts_inside_blocks_in_training_only() -> None:
    for make in MODELS.values():
        qat = prepared(seeded(make), TOKENS)
        train(qat.train(), [TOKENS])
        qfx.freeze_observers(qat)
        drops = any("Dropout" in type(m).__name__ for m in qat.modules())
        assert torch.equal(qat(TOKENS), qat(TOKENS)) is not drops
        qat.eval()
        assert torch.equal(qat(TOKENS), qat(TOKENS))


def test_what_dropout_scales_up_is_no_range() -> None:
    model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Dropout(0.9), nn.Linear(16, 4)).train()
    x = randn(8, 4, 4)
    qat = prepared(model, x)
    for _ in range(20):
        qat(x)
    (site,) = (f for n, f in qat.fake_quants.items() if "weight" not in n)
    assert site.observer.max_val.item() == pytest.approx(x.max().item())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True, dropout=0.5)
        self.head = nn.Sequential(nn.RReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def test_layers_that_stay_as_they_are_infer_once_converted() -> None:
    x = randn(4, 7, 8)
    qat = prepared(seeded(Recurrent).train(), x)
    qat(x)
    converted = qfx.convert(qat)
    assert not any(module.training for module in (converted, converted.lstm))
    assert torch.equal(converted(x), converted(x))
    assert qat.lstm.training


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_dropout_before_a_layer_that_measures(backend: str) -> None:
    model, x = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 4)).train(), randn(8, 4)
    dynamic = qfx.get_default_qconfig(backend, "dynamic")
    qat = prepared(model, x, backend=backend, qconfig=dynamic)
    train(qat, batches(2, (8, 4)))
    assert sqnr(qat.eval()(x), qfx.convert(qat)(x)) > 30


def test_rows_with_offsets_are_rounded_as_converted() -> None:
    indices = torch.arange(20).reshape(4, 5)
    config = qfx.get_default_qconfig("reference", "weight_only")
    qat = prepared(nn.Embedding(20, 8).train(), indices, backend="reference", qconfig=config)
    qat(indices)
    assert torch.equal(qat.eval()(indices), qfx.convert(qat)(indices))


# -- learned scales --------------------------------------------------------------------------------
LEARNED = qfx.QConfig(
    activation=qfx.QuantSpec(torch.uint8, observer="lsq"),
    weight=qfx.QuantSpec(
        torch.int8, symmetric=True, per_channel=True, quant_min=-127, observer="lsq_per_channel"
    ),
)


def test_frozen_scales_are_learned_no_more() -> None:
    qat = prepared(seeded(Net).train(), qconfig=LEARNED)
    optimizer = torch.optim.Adam(qat.parameters(), 1e-2)

    def step() -> list[Tensor]:
        optimizer.zero_grad()
        qat(X).square().mean().backward()
        optimizer.step()
        return [f.scale.detach().clone() for f in qat.fake_quants.values()]

    first, second = step(), step()
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    qfx.freeze_observers(qat)
    assert all(torch.equal(a, b) for a, b in zip(second, step(), strict=True))
    copied = prepared(seeded(Net).train(), qconfig=LEARNED)
    copied.load_state_dict(qat.state_dict())
    assert not any(f.scale.requires_grad for f in copied.fake_quants.values())


def test_learned_scales_start_where_calibration_ended() -> None:
    model = seeded(Net)
    calibrated = qfx.quantize(model, (X,), qconfig=LEARNED, backend="reference")
    qat = prepared(model, qconfig=LEARNED, backend="reference", qparams_from=calibrated)
    assert torch.equal(qfx.convert(qat)(X), calibrated(X))
    assert torch.equal(qat(X), calibrated(X))


def test_a_first_batch_that_overflows_starts_no_scale() -> None:
    qat = prepared(seeded(Net).train(), qconfig=LEARNED)
    qfx.freeze_batchnorm(qat)
    qat(torch.full_like(X, torch.inf))
    train(qat, batches(2))
    assert torch.equal(qat.eval()(X), qfx.convert(qat).reference(X))


# -- what can't be as asked ------------------------------------------------------------------------
def test_biases_of_other_weights_are_not_taken() -> None:
    model, other = seeded(Net), seeded(Net, seed=1)
    with torch.no_grad():
        for each in (other.conv1, other.conv2, other.fc):
            each.weight.mul_(-3)
        other.fc.bias.add_(5)
    calibrated = qfx.quantize(other, (X,), backend="x86")
    qat = prepared(model, qparams_from=calibrated)
    assert torch.equal(qat.fc.bias, model.fc.bias)
    narrow = qfx.quantize(nn.Sequential(nn.Linear(4, 4)).eval(), randn(2, 4), backend="x86")
    wide = nn.Sequential(nn.Linear(4, 6)).eval()
    assert torch.equal(
        prepared(wide, randn(2, 4), qparams_from=narrow).get_parameter("0.bias"), wide[0].bias
    )


def test_a_pipeline_of_another_method_is_an_error() -> None:
    with pytest.raises(qfx.ConfigError, match=r"start from qfx\.pipelines\.qat"):
        prepared(seeded(Net), pipeline=qfx.pipelines.static())
    with pytest.raises(qfx.ConfigError, match=r"start from qfx\.pipelines\.static"):
        qfx.prepare(seeded(Net), (X,), pipeline=qfx.pipelines.qat())


def test_calibrating_with_nan_is_an_error() -> None:
    with pytest.raises(qfx.CalibrationError, match="NaN"):
        qfx.calibrate(prepared(seeded(Net)), [torch.full_like(X, torch.nan)])


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "norm",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
    ],
)
def test_computed_weights_are_trained_as_plain_ones_with_a_warning(
    norm: Callable[[nn.Module], nn.Module],
) -> None:
    model, x = nn.Sequential(norm(nn.Linear(8, 4)), nn.ReLU()), randn(4, 8)
    model(x)  # spectral norm has no idea of its norm before
    expected = model.eval()(x)
    with pytest.warns(qfx.QfxWarning, match="the weights of 0 are computed"):
        qat = prepared(model.train(), x)
    assert {n for n, _ in qat.named_parameters()} == {"0.weight", "0.bias"}
    qat(x)
    assert (qfx.convert(qat.eval())(x) - expected).abs().max() < 0.05
    before = qat.get_parameter("0.weight").detach().clone()
    qat.train()(x).sum().backward()
    torch.optim.SGD(qat.parameters(), 0.1).step()
    assert not torch.equal(qat.get_parameter("0.weight"), before)
    with torch.no_grad():
        assert torch.equal(qfx.convert(qat.eval())(x), qfx.convert(qat)(x))
        assert (qfx.convert(qat)(x) - qat(x)).abs().max() < 0.01, "what was trained is what runs"
    assert torch.equal(model.eval()(x), expected)


class Functional(nn.Module):
    """Batch-norm as a function, as image libraries write it, on a module that is another's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        bn, training = self.bn, self.training
        y = F.batch_norm(
            self.conv(x), bn.running_mean, bn.running_var, bn.weight, bn.bias, training
        )
        return torch.relu(y)


def test_functional_batch_norm_keeps_its_statistics_with_a_warning() -> None:
    with pytest.warns(qfx.QfxWarning, match=r"does in training what it does in inference: .*batch"):
        qat = prepared(seeded(Functional).train())
    train(qat, batches(2))
    assert torch.equal(qat.bn.running_mean, torch.zeros(4))
    assert torch.equal(qat.eval()(X), qfx.convert(qat).reference(X))


def test_nested_modes_survive_loading() -> None:
    model = seeded(Net).train()
    model.bn1.eval()
    qat = prepared(model)
    qat.load_state_dict(qat.state_dict())
    assert (qat.bn1.training, qat.bn2.training) == (False, True)


def test_all_prepared_models_of_a_wrapper_are_frozen() -> None:
    pair = nn.ModuleList([prepared(seeded(Net)), prepared(seeded(Net))])
    qfx.freeze_batchnorm(pair)
    qfx.freeze_observers(pair)
    assert all(m.batchnorm_frozen for m in pair)
    assert not any(f.observer_enabled for m in pair for f in m.fake_quants.values())


def test_wrappers_are_named_when_they_are_to_be_converted() -> None:
    average = torch.optim.swa_utils.AveragedModel(prepared(seeded(Net)))
    with pytest.raises(qfx.ConfigError, match=r"give \.module of the AveragedModel"):
        qfx.convert(average)  # type: ignore[arg-type]
