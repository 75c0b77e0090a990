"""Which engine is kept: the fastest that agrees; whatever the others do, the table says so."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.engines import BuildSettings, Built, Piece, choose, compiling, registry
from qfx.export.onnx.forms import OnnxForm
from tests.support.engines import (
    Fake,
    Hanging,
    NaNs,
    Noisy,
    Quick,
    Raising,
    Refusing,
    Residuals,
    Writing,
)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel(x: Tensor) -> qfx.QuantizedModel:
    return qfx.quantize(Residuals().eval(), x, progress=False)


def with_fake(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    known = {"fake": fake, "eager": registry.engines()["eager"]}
    monkeypatch.setattr(registry, "engines", lambda: known)
    monkeypatch.setattr(compiling, "engines", lambda: known)
    monkeypatch.setattr(compiling, "named", known.__getitem__)


@pytest.mark.sweep(first=3)
@pytest.mark.parametrize(
    ("fake", "why"),
    [
        (Noisy(), "disagrees with the reference"),
        (NaNs(), "it yields NaN"),
        (Raising(), "raises RuntimeError: out of luck"),
        (Refusing(), "no such operation"),
        (Hanging(deadline=0.3), "hangs"),
        (Quick(), "disagrees with the reference"),
        (Writing(), "writes to its inputs"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fake) else "",
)
def test_one_that_is_wrong_is_left_out(
    monkeypatch: pytest.MonkeyPatch, qmodel: qfx.QuantizedModel, x: Tensor, fake: Fake, why: str
) -> None:
    with_fake(monkeypatch, fake)
    fast = qfx.compile(qmodel, x)
    assert fast.engine == "eager"
    trials = {trial.name: trial for trial in fast.trials}
    assert why in trials["fake"].why_not
    assert why in str(fast)
    assert trials["eager"].why_not == ""
    assert torch.equal(fast(x), qmodel(x))
    with pytest.raises(qfx.BackendError, match=why):
        qfx.compile(qmodel, x, engine="fake")


def test_the_fastest_that_agrees_is_kept(
    monkeypatch: pytest.MonkeyPatch, qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    fake = Fake()
    with_fake(monkeypatch, fake)
    fast = qfx.compile(qmodel, x, engine=["fake", "eager"], threads=3, float_dtype=torch.bfloat16)
    rows = {trial.name: trial for trial in fast.trials}
    assert rows["fake"].sqnr == math.inf
    assert rows["fake"].version == "1.0"
    assert rows["fake"].macs_inside == 1.0
    median = {name: row.median_ms for name, row in rows.items()}
    assert all(row.least_ms <= row.median_ms for row in rows.values())  # type: ignore[operator]
    assert fast.engine == min(median, key=lambda name: median[name])  # type: ignore[arg-type,return-value]
    assert {settings.threads for settings in fake.built} == {3}
    assert {settings.float_dtype for settings in fake.built} == {torch.bfloat16}
    assert "in use" in str(fast)


class TwoForms(Fake):
    """Has two forms, each of which is built only while the other is, too."""

    def __init__(self) -> None:
        super().__init__()
        self.together = threading.Barrier(2)

    def forms(self, piece: Piece) -> Sequence[OnnxForm]:
        return (OnnxForm.INTEGER, OnnxForm.EXACT)

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        if settings.shapes is not None:
            self.together.wait(timeout=10.0)
        return super().build(piece, settings)


class HangsInOne(TwoForms):
    """Does not come back from building one of them."""

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        if settings.form is OnnxForm.INTEGER:
            time.sleep(3.0)
        return Fake.build(self, piece, settings)


def test_forms_are_built_side_by_side(
    monkeypatch: pytest.MonkeyPatch, qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    monkeypatch.setattr(choose, "cores", lambda: 2)
    with_fake(monkeypatch, TwoForms())
    assert qfx.compile(qmodel, x, engine="fake").trials[0].why_not == ""
    monkeypatch.setattr(choose, "cores", lambda: 1)
    alone = TwoForms()
    alone.together = threading.Barrier(1)
    with_fake(monkeypatch, alone)
    assert qfx.compile(qmodel, x, engine="fake").trials[0].why_not == ""


def test_a_form_that_hangs_takes_no_other_along(
    monkeypatch: pytest.MonkeyPatch, qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    monkeypatch.setattr(choose, "cores", lambda: 2)
    fake = HangsInOne()
    fake.deadline = 0.5
    with_fake(monkeypatch, fake)
    (trial,) = qfx.compile(qmodel, x, engine="fake").trials
    assert (trial.form, trial.why_not) == ("exact", "")


def test_names_that_are_none(qmodel: qfx.QuantizedModel, x: Tensor) -> None:
    with pytest.raises(qfx.ConfigError, match=r"'tensorrt' does not exist.*'auto'.*eager"):
        qfx.compile(qmodel, x, engine="tensorrt")
    with pytest.raises(qfx.ConfigError, match="a name, or a list"):
        qfx.compile(qmodel, x, engine=[])
    with pytest.raises(qfx.ConfigError, match=r"float_dtype is torch\.float16"):
        qfx.compile(qmodel, x, float_dtype=torch.float16)
    with pytest.raises(qfx.ConfigError, match="whole number"):
        qfx.compile(qmodel, x, threads=0)


def test_one_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    lacks = "openvino is not installed: pip install 'qfx[openvino]'"
    engine = registry.engines()["openvino"]
    monkeypatch.setattr(engine, "lacks", lambda: lacks)
    with pytest.raises(qfx.BackendError, match="pip install 'qfx"):
        qfx.compile(qmodel, x, engine="openvino")
    monkeypatch.setattr(registry.engines()["onnxruntime"], "lacks", lambda: lacks)
    with pytest.warns(qfx.QfxWarning, match="no engine is installed"):
        fast = qfx.compile(qmodel, x)
    assert fast.engine == "eager"
    assert [t.why_not for t in fast.trials if t.name == "openvino"] == [lacks]


class Selects(nn.Module):
    """Looks at how many rows the numbers select."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x)
        rows = (x[:, 0] > 0).nonzero()
        return made[rows[:, 0]] if rows.shape[0] else made


def test_sizes_that_data_decides_are_a_reason() -> None:
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    fast = qfx.compile(Selects().eval(), rows, engine=["onnxruntime", "eager"])
    assert fast.engine == "eager"
    assert fast.trials[0].why_not.startswith("sizes that the numbers in tensors decide")
