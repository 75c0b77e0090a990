"""Case 23, and what quantization-aware training adds to cases 1 and 25."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr
from tests.cases.flow import randn, seeded
from tests.support.classifiers import small_classifier
from tests.support.digits import digits

X = randn(8, 3, 8, 8)


class Net(nn.Module):
    """Convolutions with and without bias, a residual, dropout in both spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)) + y)
        y = F.dropout(self.drop(y), 0.1, training=self.training).mean((2, 3))
        return self.fc(y)


def batches(count: int, shape: tuple[int, ...] = (8, 3, 8, 8)) -> list[Tensor]:
    return [randn(*shape, seed=i) for i in range(count)]


def prepared(model: nn.Module, x: Tensor = X, **options: object) -> qfx.PreparedModel:
    return qfx.prepare(model, (x,), method="qat", **{"backend": "x86", **options})


def train(model: nn.Module, data: list[Tensor], lr: float = 1e-2) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for x in data:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


# -- no step of training ---------------------------------------------------------------------------
@pytest.mark.sweep(first=1)
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("resnet18", "x86"),
        ("resnet18", "fbgemm"),
        ("mobilenet_v3_small", "x86"),
        ("mobilenet_v3_small", "reference"),
        ("shufflenet_v2", "fbgemm"),
        ("shufflenet_v2", "reference"),
    ],
)  # what is asked is between two graphs of one backend: each has two networks, each network two
def test_without_a_step_it_is_the_calibrated_model(name: str, backend: str) -> None:
    model, x = small_classifier(name), randn(2, 3, 32, 32)
    calibrated = qfx.quantize(model, (x,), backend=backend)
    start = prepared(model, x, backend=backend, qparams_from=calibrated)
    converted = qfx.convert(start)
    assert torch.equal(converted(x), calibrated(x))
    assert torch.equal(converted.reference(x), calibrated.reference(x))
    assert torch.equal(start(x), converted.reference(x))


def test_calibrated_instead_of_trained_it_is_the_static_model() -> None:
    model = seeded(Net)
    averaged = qfx.get_default_qconfig("x86", "qat")
    pipeline = qfx.pipelines.static(effort="fast")
    static = qfx.prepare(model, (X,), qconfig=averaged, backend="x86", pipeline=pipeline)
    qat = prepared(model)
    for each in (static, qat):
        qfx.calibrate(each, batches(3))
    assert torch.equal(qfx.convert(qat)(X), qfx.convert(static)(X))


def test_qparams_from_another_model_is_an_error() -> None:
    other = qfx.quantize(nn.Sequential(nn.Linear(4, 4)).eval(), randn(2, 4), backend="x86")
    with pytest.raises(qfx.ConfigError, match="no quantized value in common"):
        prepared(seeded(Net), qparams_from=other)
    with pytest.raises(qfx.ConfigError, match=r"give what qfx\.quantize returned"):
        prepared(seeded(Net), qparams_from=seeded(Net))
    with pytest.raises(qfx.ConfigError, match="method='static' has none"):
        qfx.prepare(seeded(Net), (X,), qparams_from=other)


# -- training --------------------------------------------------------------------------------------
@pytest.mark.parametrize("training", [True, False])
def test_without_rounding_it_trains_like_the_model(training: bool) -> None:
    model = seeded(Net).train(training)
    model.drop.p = 0.0
    ours = prepared(model)
    for fake_quant in ours.fake_quants.values():
        fake_quant.fake_quant_enabled = False
    copied = copy.deepcopy(model)
    for each in (ours, copied):
        torch.manual_seed(0)
        each(X).square().sum().backward()
    theirs = dict(copied.named_parameters())
    assert dict(ours.named_parameters()).keys() == theirs.keys()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert sqnr(theirs[name].grad, parameter.grad) > 90 or theirs[name].grad.norm() < 1e-3
    for name, buffer in copied.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


def layers() -> list[tuple[nn.Module, Tensor]]:
    return [
        (nn.Conv1d(4, 6, 3), randn(4, 4, 9)),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), randn(4, 4, 5, 5)),
        (nn.Conv3d(4, 6, 2), randn(4, 4, 5, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 3), randn(4, 4, 9)),
        (nn.ConvTranspose2d(4, 6, 3, 2), randn(4, 4, 5, 5)),
        (nn.Linear(4, 6), randn(8, 4)),
    ]


@pytest.mark.parametrize("index", range(len(layers())))
def test_a_folded_layer_trains_like_an_unfolded_one(index: int) -> None:
    """Per channel, scaling commutes with rounding: folded or not, values and gradients agree.

    Every other layer has the other activation behind it, which folding does not look at.
    """
    torch.manual_seed(0)
    layer, x = layers()[index]
    relu = nn.ReLU6() if index % 2 else nn.ReLU()
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.dim()](6)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    norm.weight.data[1] *= -1
    model = nn.Sequential(layer, norm, relu).train()
    pipeline = qfx.pipelines.qat()
    folded, unfolded = (
        prepared(model, x, pipeline=p) for p in (pipeline, pipeline.without("fuse-conv-bn"))
    )
    for training in (True, False):
        gradients = []
        for each in (folded, unfolded):
            each.train(training).zero_grad()
            y = each(x)
            (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
            gradients.append({n: p.grad.clone() for n, p in each.named_parameters()})
        assert sqnr(unfolded(x), folded(x)) > 100
        for name, gradient in gradients[1].items():
            # In inference gamma is a part of the folded weight: rounding passes its gradient on.
            least = 40 if name == "1.weight" and not training else 100
            if not (name == "0.bias" and training):  # which the batch-norm takes out again
                assert sqnr(gradient, gradients[0][name]) > least, name


@pytest.mark.sweep
@pytest.mark.parametrize("index", range(len(layers())))
@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_conversion_computes_what_evaluation_showed(index: int, backend: str) -> None:
    torch.manual_seed(0)
    layer, x = layers()[index]
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.dim()](6)
    nn.init.zeros_(norm.weight[:2])  # as residual branches start
    model = prepared(nn.Sequential(layer, norm, nn.ReLU()).train(), x, backend=backend)
    train(model, batches(5, tuple(x.shape)))
    converted = qfx.convert(model)
    assert torch.equal(model.eval()(x), converted.reference(x))
    assert sqnr(model(x), converted(x)) > 60
    assert all(p.isfinite().all() for p in model.parameters())
    assert [s.decision for s in converted.report.sites if s.macs] == ["quantized"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_converted_classifiers_agree_after_twenty_steps(name: str) -> None:
    images, labels = digits()
    images = F.interpolate(images[:, None], size=32).repeat(1, 3, 1, 1)
    model = prepared(small_classifier(name).train(), images[:8])
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    losses, drawn = [], torch.randint(0, 1500, (5, 16), generator=generator)
    for chosen in drawn.repeat(4, 1):
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])
    converted, x = qfx.convert(model), images[1500:1532]
    with torch.no_grad():
        assert torch.equal(model.eval()(x), converted.reference(x))
        assert sqnr(model(x), converted(x)) > 40


def test_frozen_ranges_and_statistics_stay() -> None:
    model = prepared(seeded(Net).train())
    train(model, batches(3))
    qfx.freeze_observers(model)
    qfx.freeze_batchnorm(model)
    before = {n: b.clone() for n, b in model.named_buffers()}
    weights = model.conv1.weight.clone()
    train(model.train(), batches(3))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert not torch.equal(model.conv1.weight, weights)
    converted = qfx.convert(model)
    assert torch.equal(model.eval()(X), converted.reference(X))


def test_sites_are_switched_one_by_one() -> None:
    model = prepared(seeded(Net).train())
    train(model, batches(1))
    model.eval()
    site = model.fake_quants["conv1.weight_fake_quant"]
    rounded = model(X)
    site.fake_quant_enabled = False
    unrounded = model(X)
    site.fake_quant_enabled = True
    assert torch.equal(model(X), rounded)
    assert 20 < sqnr(unrounded, rounded) < 60


@pytest.mark.slow
def test_a_mobilenet_with_dropout_converts() -> None:
    model = small_classifier("mobilenet_v3_small").train()
    x = randn(4, 3, 32, 32)
    qat = prepared(model, x)
    torch.manual_seed(0)
    first = qat(x)
    assert not torch.equal(qat(x), first)  # dropout, and moving statistics
    qat.eval()
    assert torch.equal(qat(x), qat(x))
    converted = qfx.convert(qat)
    assert not any("dropout" in str(n.target).lower() for n in converted.graph.nodes)
    assert converted.report.coverage == 1.0


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + 1) if self.training else self.fc(x)


def test_deciding_by_the_training_flag_is_warned_of() -> None:
    with pytest.warns(qfx.QfxWarning, match=r"training flag at .*test_case_qat\.py:\d+"):
        model = prepared(seeded(Branching), randn(2, 4))
    train(model.train(), batches(1, (2, 4)))
    assert any("training flag" in w for w in qfx.convert(model).report.warnings)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_kept_and_the_model_untouched(training: bool) -> None:
    model = seeded(Net).train(training)
    model.bn1.eval()
    state = copy.deepcopy(model.state_dict())
    flags = {n: m.training for n, m in model.named_modules()}
    qat = prepared(model)
    assert qat.training is training
    assert (qat.bn1.training, qat.bn2.training) == (False, training)
    train(qat.train(), batches(2))
    assert {n: m.training for n, m in model.named_modules()} == flags
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())


def test_converting_unseen_sites_is_an_error_that_names_them() -> None:
    with pytest.raises(qfx.CalibrationError, match=r"(?s)have seen no data:\n.*conv1") as error:
        qfx.convert(prepared(seeded(Net)))
    assert "test_case_qat.py" in str(error.value)


def test_before_any_data_values_pass_unrounded() -> None:
    model, qat = seeded(Net), prepared(seeded(Net))
    for fake_quant in qat.fake_quants.values():
        fake_quant.fake_quant_enabled = not fake_quant.initialized
    assert sqnr(model(X), qat(X)) > 100


def test_batches_that_overflow_are_passed_over() -> None:
    qat = prepared(seeded(Net).train())
    qfx.freeze_batchnorm(qat)
    qat(X)
    before = {n: f.scale.clone() for n, f in qat.fake_quants.items()}
    qat(torch.full_like(X, float("inf")))
    assert all(f.scale.isfinite().all() for f in qat.fake_quants.values())
    assert torch.equal(qat.fake_quants[first_activation(qat)].scale, before[first_activation(qat)])


def first_activation(model: qfx.PreparedModel) -> str:
    return next(str(n.target) for n in model.graph.nodes if n.op == "call_module")


# -- how it is quantized ---------------------------------------------------------------------------
def four_bits(observer: str | None = None) -> qfx.QConfig:
    weight = qfx.QuantSpec(
        torch.int8, symmetric=True, per_channel=True, quant_min=-7, quant_max=7, observer=observer
    )
    activation = "lsq" if observer == "lsq_per_channel" else "moving_average_minmax"
    return qfx.QConfig(activation=qfx.QuantSpec(torch.uint8, observer=activation), weight=weight)


@pytest.mark.parametrize("observer", [None, "lsq_per_channel", "per_channel_mse"])
def test_four_bit_weights_train_and_convert(observer: str | None) -> None:
    model = prepared(seeded(Net).train(), backend="reference", qconfig=four_bits(observer))
    scales = {n: f.scale.detach().clone() for n, f in model.fake_quants.items() if "weight" in n}
    names = {n for n, _ in model.named_parameters() if n.endswith("scale")}
    assert bool(names) is (observer == "lsq_per_channel")
    train(model, batches(4))
    assert any(not torch.equal(model.fake_quants[n].scale, s) for n, s in scales.items())
    converted = qfx.convert(model)
    assert torch.equal(model.eval()(X), converted(X))
    codes = [b for n, b in converted.reference.named_buffers() if n.endswith("_q")]
    assert all(int(c.abs().max()) <= 7 for c in codes)


def test_groups_of_a_channel_train() -> None:
    weight = qfx.QuantSpec(
        torch.int8, symmetric=True, per_channel=True, group_size=4, quant_min=-7, quant_max=7
    )
    config = qfx.QConfig(activation=qfx.QuantSpec(torch.uint8), weight=weight)
    x = randn(4, 8)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).train()
    config = qfx.QConfigMapping().set_module_name("0", config)
    model = prepared(model, x, backend="reference", qconfig=config)
    train(model, batches(2, (4, 8)))
    assert model.fake_quants["0.weight_fake_quant"].scale.shape == (6, 2)
    assert torch.equal(model.eval()(x), qfx.convert(model)(x))


@pytest.mark.parametrize("make", [lambda: nn.Sigmoid(), lambda: nn.Softmax(-1)])
def test_fixed_qparams_stay_fixed(make: Callable[[], nn.Module]) -> None:
    x = randn(4, 8)
    model = nn.Sequential(nn.Linear(8, 8), make(), nn.Linear(8, 4)).train()
    qat = prepared(model, x, backend="fbgemm")
    train(qat, batches(3, (4, 8)))
    assert torch.equal(qat.eval()(x), qfx.convert(qat).reference(x))


def test_a_shared_layer_keeps_one_fake_quant() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.fc(x)))

    qat = prepared(seeded(Twice).train(), randn(2, 4))
    assert [n for n in qat.fake_quants if "weight" in n] == ["fc.weight_fake_quant"]
    train(qat, batches(2, (2, 4)))
    assert torch.equal(qat.eval()(randn(2, 4)), qfx.convert(qat).reference(randn(2, 4)))


def test_quantize_says_that_training_comes_between() -> None:
    with pytest.raises(qfx.ConfigError, match=r"train prepared, then qfx\.convert"):
        qfx.quantize(seeded(Net), (X,), method="qat")
