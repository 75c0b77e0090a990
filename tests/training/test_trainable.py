"""A prepared model under the habits of training loops."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import qfx
from qfx.numerics.measures import sqnr
from tests.cases.flow import seeded
from tests.cases.test_case_qat import Net, X, batches, four_bits, prepared

DATA = batches(6)


class Plain(Net):
    """Without dropout at all, so that two forwards are alike."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)) + y).mean((2, 3))
        return self.fc(y)


class Short(nn.Module):
    """A folded layer and another: compilers take seconds for each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def plain(**options: object) -> qfx.PreparedModel:
    return prepared(seeded(Plain).train(), **options)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[Tensor]) -> list[float]:
    losses = []
    for x in data:
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("learned", [False, True], ids=["averaged", "lsq"])
@pytest.mark.parametrize("frozen", [False, True], ids=["moving", "frozen"])
def test_interrupted_training_goes_on_bit_by_bit(frozen: bool, learned: bool) -> None:
    options = {}
    if learned:
        options = {"qconfig": four_bits("lsq_per_channel"), "backend": "reference"}
    model = plain(**options)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    steps(model, optimizer, DATA[:3])
    if frozen:
        qfx.freeze_observers(model)
        qfx.freeze_batchnorm(model)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = plain(**options)
    resumed.load_state_dict(saved["model"])
    again = torch.optim.AdamW(resumed.parameters(), 1e-2)
    again.load_state_dict(saved["optimizer"])
    assert steps(resumed, again, DATA[3:]) == steps(model, optimizer, DATA[3:])
    assert_same_state(model, resumed)
    assert torch.equal(qfx.convert(model)(X), qfx.convert(resumed)(X))


def test_float_weights_load_by_their_names() -> None:
    model, other = plain(), seeded(Plain, seed=1)
    missing = model.load_state_dict(other.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert not any(key in other.state_dict() for key in missing.missing_keys)
    assert torch.equal(model.conv1.weight, other.conv1.weight)


def test_copies_are_independent() -> None:
    model = plain()
    steps(model, torch.optim.SGD(model.parameters(), 0.1), DATA[:2])
    qfx.freeze_batchnorm(model)
    copied = copy.deepcopy(model)
    assert_same_state(model, copied)
    assert not copied.train().bn1.training
    before = copied.eval()(X)
    steps(model.train(), torch.optim.SGD(model.parameters(), 0.1), DATA[2:4])
    assert torch.equal(copied(X), before)
    assert not torch.equal(model.eval()(X), before)


def test_an_average_of_weights_converts() -> None:
    model = plain()
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x in DATA:
        steps(model, optimizer, [x])
        average.update_parameters(model)
    converted = qfx.convert(average.module)
    assert torch.equal(average.eval()(X), converted.reference(X))
    assert not torch.equal(average.module.conv1.weight, model.conv1.weight)


def test_parameter_groups_by_name() -> None:
    model = plain()
    named = dict(model.named_parameters())
    assert list(named) == [n for n, _ in seeded(Plain).named_parameters()]
    groups = [
        {"params": [p for n, p in named.items() if n.endswith("weight")], "weight_decay": 0.1},
        {"params": [p for n, p in named.items() if n.endswith("bias")]},
    ]
    steps(model, torch.optim.SGD(groups, 0.1), DATA[:2])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore")
def test_it_compiles(backend: str) -> None:
    """In one graph, with the gradients and the statistics of the model as it is."""
    torch._dynamo.reset()
    model = prepared(seeded(Short).train())
    compiled_model = copy.deepcopy(model)
    compiled = torch.compile(compiled_model, backend=backend, fullgraph=True)
    for x in DATA[:2]:
        for each in (model, compiled):
            each.zero_grad()
            each(x).square().sum().backward()
        for name, parameter in model.named_parameters():
            theirs = compiled_model.get_parameter(name).grad
            if name != "conv.bias":  # zero but for rounding
                assert sqnr(parameter.grad, theirs) > 90, name
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(compiled_model.state_dict()[name], tensor, rtol=1e-4, atol=1e-4)
    assert sqnr(model.eval()(X), compiled.eval()(X)) > 90


def test_a_checkpoint_computes_the_same_again() -> None:
    model, copied = plain(), plain()
    for each in (model, copied):
        each(DATA[1])  # ranges that the next batch moves
    model(X).square().sum().backward()
    checkpoint(copied, X, use_reentrant=False).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, copied.get_parameter(name).grad), name
    for name, fake_quant in model.fake_quants.items():
        assert torch.equal(fake_quant.scale, copied.fake_quants[name].scale), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains(dtype: torch.dtype) -> None:
    model = plain()
    exact = copy.deepcopy(model)(X)
    with torch.autocast("cpu", dtype):
        y = model(X)
    assert y.dtype == dtype
    assert sqnr(exact, y.float()) > 30
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(model.eval()(X), qfx.convert(model).reference(X))


def test_it_runs_in_inference_mode_between_steps() -> None:
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    steps(model, optimizer, DATA[:1])
    with torch.inference_mode():
        shown = model.eval()(X)
    assert torch.equal(shown, model(X))
    assert len(steps(model.train(), optimizer, DATA[1:3])) == 2


def test_evaluating_changes_nothing() -> None:
    model = plain()
    steps(model, torch.optim.SGD(model.parameters(), 0.1), DATA[:2])
    model.eval()
    model(X)
    before = copy.deepcopy(model.state_dict())
    model(10 * X)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


def test_converting_leaves_it_to_train_on() -> None:
    model, alone = plain(), plain()
    for each in (model, alone):
        optimizer = torch.optim.SGD(each.parameters(), 0.1)
        steps(each, optimizer, DATA[:2])
        if each is model:
            qfx.convert(each)
        steps(each, optimizer, DATA[2:])
    assert_same_state(model, alone)


def test_norms_that_are_synchronised_stay_so_in_training() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(seeded(Short)).train()
    trained = prepared(model)
    assert type(trained.get_submodule("bn")) is nn.SyncBatchNorm
    steps(trained, torch.optim.SGD(trained.parameters(), 0.01), DATA[:2])
    assert trained.get_buffer("bn.num_batches_tracked") == 2
    report = qfx.convert(trained).report
    assert [s.decision for s in report.sites if s.op == "SyncBatchNorm"] == ["quantized"]
