"""Loading for other hardware: the same values where that is possible, else an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx
from qfx.backends import resolve_backend, x86
from qfx.backends.wide_codes import EXACT_SUMS, wide_layer

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[qfx.QuantizedModel, Path]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    qmodel = qfx.quantize(model, X, backend="x86")
    return qmodel, qfx.save(qmodel, tmp_path_factory.mktemp("m") / "m.qfx")


def test_the_reference_form_runs_anywhere(saved: tuple[qfx.QuantizedModel, Path]) -> None:
    qmodel, path = saved
    loaded = qfx.load(path, backend="reference")
    assert loaded.backend == loaded.report.backend == "reference"
    assert torch.equal(loaded(X), qmodel.reference(X))
    quantized = [site for site in loaded.report.sites if site.decision == "quantized"]
    names = {node.name for node in loaded.graph.nodes}
    assert {site.kernel for site in quantized} == {"reference"}
    assert {site.step for site in quantized} <= names


def test_another_backend_is_refused(saved: tuple[qfx.QuantizedModel, Path]) -> None:
    with pytest.raises(qfx.BackendError, match=r"for backend 'x86'.*and not for 'fbgemm'"):
        qfx.load(saved[1], backend="fbgemm")
    with pytest.raises(qfx.ConfigError, match="give a name"):
        qfx.load(saved[1], backend=7)  # type: ignore[arg-type]


def test_a_backend_that_is_absent_is_named(
    saved: tuple[qfx.QuantizedModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qfx.backends._lacks", lambda name: "an x86 CPU" if name == "x86" else "")
    with pytest.raises(qfx.BackendError, match=r"needs an x86 CPU.*backend='reference'"):
        qfx.load(saved[1])


def test_a_backend_of_ones_own_is_handed_in(tmp_path: Path) -> None:
    own = replace(resolve_backend("x86"), name="mine")
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(8, 4)).eval(), X, backend=own)
    path = qfx.save(qmodel, tmp_path / "m.qfx")
    with pytest.raises(qfx.BackendError, match=r"saved for backend 'mine'.*backend=the_backend"):
        qfx.load(path)
    loaded = qfx.load(path, backend=own)
    assert loaded.backend == "mine"
    assert torch.equal(loaded(X), qmodel(X))


def test_eight_bits_are_refused_where_kernels_saturate(tmp_path: Path) -> None:
    exact = replace(x86.backend(), saturates=False)
    qconfig = qfx.QConfig(
        qfx.QuantSpec(torch.uint8), qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True)
    )
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    qmodel = qfx.quantize(model, X, backend=exact, qconfig=qconfig, check=False)
    assert EXACT_SUMS in qmodel.needs
    path = qfx.save(qmodel, tmp_path / "m.qfx")
    here = replace(exact, saturates=True)
    with pytest.raises(qfx.BackendError, match=r"8-bit activations.*VNNI.*backend='reference'"):
        qfx.load(path, backend=here)
    assert torch.equal(qfx.load(path, backend="reference")(X), qmodel.reference(X))
    assert torch.equal(qfx.load(path, backend=exact)(X), qmodel(X))


def test_seven_bits_are_right_everywhere(saved: tuple[qfx.QuantizedModel, Path]) -> None:
    graph = saved[0].reference.graph
    wide = wide_layer(graph) is not None
    assert wide is not saved[0].report.saturates


def test_what_was_put_back_to_float_stays_so(
    saved: tuple[qfx.QuantizedModel, Path], tmp_path: Path
) -> None:
    """A kernel that was wrong where the model was made is not used again."""
    from qfx.quant.annotation import Annotation, annotate
    from qfx.quant.reasons import refusal

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    qmodel = qfx.quantize(model, X, backend="reference")
    node = next(n for n in qmodel.graph.nodes if getattr(n.target, "name", "") == "linear")
    decision = refusal("kernel-failed-check", op="linear", detail="planted")
    annotate(node, Annotation(decision))
    loaded = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    again = next(n for n in loaded.graph.nodes if n.name == node.name)
    assert again.meta["qfx.annotation"].decision == decision
