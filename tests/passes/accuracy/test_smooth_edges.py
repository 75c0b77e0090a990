"""Where scales of channels would do harm, or have another place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr
from qfx.runtime.samples import Room
from qfx_passes.accuracy.gptq import Gptq
from tests.cases.flow import randn

DATA = [randn(4, 5, 16, seed=i) for i in range(4)]


class Residual(nn.Module):
    """A norm that a layer reads, and a residual; its shape is asked for, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 16)
        with torch.no_grad():
            self.norm.weight[::8] = 40.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y: Tensor = x + self.fc(x).reshape(x.shape)
        return y


class Shaped(Residual):
    """Only the shape of the norm is asked for beside the layer."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y: Tensor = self.fc(x).reshape(x.shape[0], -1)
        return y


class Images(nn.Module):
    """A GELU whose channels are no last dim, before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        scale = 4.0 ** torch.arange(8).reshape(8, 1, 1, 1)
        with torch.no_grad():
            self.up.weight *= scale
            self.down.weight /= scale.transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x)))
        return y


def made(model: nn.Module, data: list[Tensor] = DATA, **options: str) -> qfx.QuantizedModel:
    return qfx.quantize(model, data[0], calibration_data=data, **options)  # type: ignore[arg-type]


def scaled(qmodel: qfx.QuantizedModel, name: str) -> bool:
    return bool(qmodel.history[name].events)


def reasons(qmodel: qfx.QuantizedModel) -> list[str]:
    return [miss.reason for miss in qmodel.history["smooth-norms"].near_misses]


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
def test_norms_in_integers_that_others_read_stay(backend: str) -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    qmodel = made(model, backend=backend)
    assert reasons(qmodel) == ["it yields integers, and others read it, too"]
    assert sqnr(model(DATA[1]), qmodel(DATA[1])) > 20


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_who_asks_for_the_shape_needs_no_product(backend: str) -> None:
    torch.manual_seed(0)
    qmodel = made(Shaped().eval(), backend=backend)
    assert scaled(qmodel, "smooth-norms")
    assert " mul(" not in qmodel.history["smooth-norms"].snapshot.to_text()


def test_channels_are_where_the_layer_has_them() -> None:
    torch.manual_seed(0)
    model, data = Images().eval(), [randn(2, 3, 8, 9, seed=i) for i in range(4)]
    qmodel = made(model, data, backend="x86")
    assert scaled(qmodel, "smooth-inputs")
    assert sqnr(model(data[1]), qmodel(data[1])) > 30


def test_batches_that_are_kept_tell_the_range() -> None:
    torch.manual_seed(0)
    model, quiet = Residual().eval(), [x * 0 + 1e-4 * x for x in DATA * 2]
    qmodel = made(model, [*quiet, *DATA], backend="x86")
    assert not scaled(qmodel, "smooth-norms")
    assert sqnr(model(DATA[1]), qmodel(DATA[1])) > 20


def test_one_row_says_nothing() -> None:
    torch.manual_seed(0)
    assert not scaled(made(Shaped().eval(), [DATA[0][:1, :1]], backend="x86"), "smooth-norms")


def test_training_starts_without_the_scales() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    qmodel = made(model, backend="x86")
    assert scaled(qmodel, "smooth-norms")
    with pytest.warns(qfx.QfxWarning, match='scaled; none are with effort="fast"'):
        prepared = qfx.prepare(model, DATA[0], method="qat", backend="x86", qparams_from=qmodel)
    prepared.train()
    for x in DATA:
        prepared(x)
    trained = qfx.convert(prepared.eval())
    assert sqnr(model(DATA[1]), trained(DATA[1])) > 25


def test_training_starts_of_norms_without_a_weight() -> None:
    torch.manual_seed(0)
    plain = nn.LayerNorm(16, elementwise_affine=False)
    model = nn.Sequential(plain, nn.Linear(16, 8)).eval()
    qmodel = made(model, backend="x86")
    prepared = qfx.prepare(model, DATA[0], method="qat", backend="x86", qparams_from=qmodel)
    assert torch.equal(qfx.convert(prepared)(DATA[1]), qmodel(DATA[1]))


def test_batches_that_are_too_large_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8)).eval()
    monkeypatch.setattr(Gptq, "room", property(lambda self: Room(self.batches, size=2**20)))
    for effort, most in (("default", 32), ("high", 1)):
        qmodel = made(model, [torch.randn(1, most * 2**14 + 1, 16)], backend="x86", effort=effort)
        assert reasons(qmodel) == [
            f"calibration kept no batch to measure on (up to {most} MiB): all stays as it is"
        ]


class Masked(Residual):
    def forward(self, x: Tensor, mask: Tensor | None = None, times: int = 1) -> Tensor:
        x = super().forward(x) * times
        return x if mask is None else x * mask


@pytest.mark.parametrize("given", ["keywords", "numbers", "default"])
def test_batches_keep_their_form_in_the_state(given: str) -> None:
    torch.manual_seed(0)
    model, mask = Masked().eval(), torch.ones(4, 5, 1)
    examples = (DATA[0], mask, 2)
    prepared, fresh = (qfx.prepare(model, examples, backend="x86") for _ in range(2))
    for x in DATA:
        if given == "keywords":
            prepared(times=2, mask=mask, x=x)
        elif given == "numbers":
            prepared(x, mask, 3)
        else:
            prepared(x, mask)
    fresh.load_state_dict(prepared.state_dict())
    assert len(fresh.samples) == len(DATA)
    assert [s.args[2] for s in fresh.samples] == [s.args[2] for s in prepared.samples]
    assert torch.equal(qfx.convert(fresh)(*examples), qfx.convert(prepared)(*examples))


def test_other_keys_of_that_name_are_unexpected() -> None:
    prepared = qfx.prepare(Residual().eval(), DATA[0], backend="x86")
    state = {**prepared.state_dict(), "samples.first": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"samples.first"'):
        prepared.load_state_dict(state)
