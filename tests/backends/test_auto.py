"""Models that generate compute a row at a time, for which oneDNN is slow on some CPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import qfx
from qfx import backends
from tests.cases.regions import Decoder

HERE = backends.available()
IDS = torch.randint(0, 50, (2, 7))


needs_both = pytest.mark.skipif(
    not {"x86", "fbgemm"} <= set(HERE), reason="no x86 CPU, or an old PyTorch"
)


def backend_of(model: nn.Module, **options: object) -> str:
    prepared = qfx.prepare(model.eval(), IDS, **options)  # type: ignore[arg-type]
    name: str = next(iter(prepared.regions.values())).settings.backend.name
    return name


def plant(monkeypatch: pytest.MonkeyPatch, *, saturates: bool) -> None:
    own = backends._own
    x86 = replace(own("x86"), saturates=saturates)
    monkeypatch.setattr(backends, "_own", lambda n: x86 if n == "x86" else own(n))


@needs_both
@pytest.mark.parametrize(("saturates", "name"), [(True, "fbgemm"), (False, "x86")])
def test_auto_is_what_is_fast_for_single_rows(
    monkeypatch: pytest.MonkeyPatch, saturates: bool, name: str
) -> None:
    plant(monkeypatch, saturates=saturates)
    assert backend_of(Decoder(), method="dynamic") == name
    assert backend_of(Decoder(), method="dynamic", backend="x86") == "x86"
    assert backend_of(Decoder(), method="static") == "x86"
    prepared = qfx.prepare(Decoder().eval(), IDS, method="dynamic", regions="whole")
    assert prepared.settings.backend.name == "x86"


@needs_both
def test_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, saturates=True)
    report = qfx.quantize(Decoder().eval(), IDS, method="dynamic").report
    assert report.backend == "fbgemm"
    assert str(report).count("backend='auto' is fbgemm for this model, which generates") == 1
    chosen = qfx.quantize(Decoder().eval(), IDS, method="dynamic", backend="fbgemm").report
    assert "backend='auto'" not in str(chosen)


class Hears(Decoder):
    """Reads with a convolution, as models that transcribe do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(32, 32, 3, padding=1)


@needs_both
def test_x86_stays_where_fbgemm_would_leave_layers_in_float(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, saturates=True)
    assert backends.for_few_rows(Hears()).name == "x86"
    assert backends.for_few_rows(nn.RNN(4, 4)).name == "x86"
    assert backends.for_few_rows(nn.LSTM(4, 4)).name == "fbgemm"


def test_without_fbgemm_auto_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "available", lambda: tuple(n for n in HERE if n != "fbgemm"))
    assert backends.for_few_rows(Decoder()) is backends.resolve_backend("auto")
