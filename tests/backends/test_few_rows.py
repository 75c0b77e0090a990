"""Models that generate compute a row at a time, for which oneDNN has no kernel on some CPUs."""

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


def backend_of(model: nn.Module, **options: object) -> str:
    prepared = qfx.prepare(model.eval(), IDS, **options)  # type: ignore[arg-type]
    name: str = next(iter(prepared.regions.values())).settings.backend.name
    return name


@pytest.mark.skipif(not {"x86", "fbgemm"} <= set(HERE), reason="no x86 CPU, or an old PyTorch")
@pytest.mark.parametrize(("saturates", "name"), [(True, "fbgemm"), (False, "x86")])
def test_auto_is_what_is_fast_for_single_rows(
    monkeypatch: pytest.MonkeyPatch, saturates: bool, name: str
) -> None:
    own = backends._own
    x86 = replace(own("x86"), saturates=saturates)
    monkeypatch.setattr(backends, "_own", lambda n: x86 if n == "x86" else own(n))
    assert backend_of(Decoder(), method="dynamic") == name
    assert backend_of(Decoder(), method="dynamic", backend="x86") == "x86"
    assert backend_of(Decoder(), method="static") == "x86"
    prepared = qfx.prepare(Decoder().eval(), IDS, method="dynamic", regions="whole")
    assert prepared.settings.backend.name == "x86"
