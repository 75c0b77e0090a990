"""Which backends a machine offers, which it recommends, and why."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

import qfx
from qfx.backends import hardware as facts
from qfx.backends import resolve_backend
from qfx.backends.detection import Detected


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> facts.Hardware:
    """An ARM machine; PyTorch's builds for it list a onednn engine, whose kernels are x86's."""
    return plant(
        monkeypatch,
        machine="aarch64",
        cpu="Neoverse-N1",
        instructions=("NEON", "dot product"),
        without=("I8MM", "SVE"),
        saturates=False,
        engines=("qnnpack", "onednn"),
        onednn=True,
    )


def plant(monkeypatch: pytest.MonkeyPatch, **changes: object) -> facts.Hardware:
    other = replace(facts.hardware(), **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(facts, "hardware", lambda: other)
    return other


def rows(found: Detected) -> dict[str, str]:
    return {line.split()[0]: line for line in str(found).splitlines() if line}


def test_an_arm_machine_gets_qnnpack(arm: facts.Hardware) -> None:
    assert qfx.backends.available() == ("qnnpack", "reference")
    found = qfx.backends.detect()
    assert found == "qnnpack"
    assert found.hardware is arm
    with pytest.raises(qfx.BackendError, match="an x86 CPU; this machine lacks that"):
        resolve_backend("x86")
    lines = rows(found)
    assert "needs an x86 CPU" in lines["x86"]
    assert "recommended" in lines["qnnpack"]
    assert "slower" not in lines["qnnpack"]
    assert lines["CPU"] == "CPU       Neoverse-N1, aarch64: NEON, dot product; not I8MM, SVE"


def test_what_is_detected_is_a_name() -> None:
    found = qfx.backends.detect()
    assert found == qfx.backends.available()[0]
    assert {found: 1}[qfx.backends.available()[0]] == 1
    assert f"{found}|{found:>10}" == "{0}|{0:>10}".format(*qfx.backends.available())
    assert repr(found) == repr(qfx.backends.available()[0])
    assert json.loads(json.dumps(found)) == found
    for again in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert (type(again), again) == (str, found)


def test_it_is_what_auto_stands_for() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    torch.manual_seed(0)
    x = torch.randn(2, 4)
    given = qfx.quantize(model, x, backend=qfx.backends.detect())
    auto = qfx.quantize(model, x)
    assert given.backend == auto.backend == qfx.backends.detect()
    assert type(given.backend) is str
    assert torch.equal(given(x), auto(x))


def test_the_table_says_what_runs_here_and_why() -> None:
    found = qfx.backends.detect()
    text, machine = str(found), facts.hardware()
    assert text.startswith(f"{found:s}: {found.why}\n\n")
    lines = rows(found)
    here = [each.name for each in found.backends if not (each.lacks or each.exports)]
    assert tuple(here) == qfx.backends.available()
    for each in found.backends:
        says = f"needs {each.lacks}" if each.lacks else f"{each.bits} bits"
        assert says in lines[each.name]
        if not each.lacks:
            assert (each.bits == 7) is resolve_backend(each.name).saturates
    assert sum("recommended" in line for line in lines.values()) == 1
    assert torch.__version__ in lines["PyTorch"]
    assert all(name in lines["CPU"] for name in (*machine.instructions, *machine.without))
    assert ("\n7 bits " in text) is any(each.bits == 7 for each in found.backends)
    assert max(map(len, text.splitlines())) <= 120


def saturating(*, yes: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from qfx import backends

    names = (*backends.available(), *backends.TARGETS)
    exact = {name: replace(resolve_backend(name), saturates=yes) for name in names}
    monkeypatch.setattr(backends, "_load", exact.__getitem__)
    yield from str(qfx.backends.detect()).splitlines()


@pytest.mark.parametrize("yes", [False, True])
def test_bits_are_those_that_kernels_add_up_right(
    yes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [line for line in saturating(yes=yes, monkeypatch=monkeypatch) if "bits" in line]
    assert any(line.startswith("7 bits") for line in said) is yes
    assert all(("7 bits" in line) is yes for line in said)


def test_a_target_of_exports_runs_anywhere_in_its_reference_form() -> None:
    assert "xnnpack" not in qfx.backends.available()
    assert "for exports" in rows(qfx.backends.detect())["xnnpack"]
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    qmodel = qfx.quantize(model, x, backend="xnnpack")
    assert qmodel.backend == "xnnpack"
    assert qmodel.needs == ()
    assert torch.equal(qmodel(x), qmodel.reference(x))


def test_settings_that_hide_instructions_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, limits=("ONEDNN_MAX_CPU_ISA=AVX2",))
    assert rows(qfx.backends.detect())["set"] == "set       ONEDNN_MAX_CPU_ISA=AVX2"


def test_a_pytorch_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, cpu="", instructions=(), without=())
    assert "instructions unknown" in rows(qfx.backends.detect())["CPU"]


def test_a_machine_without_kernels_gets_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, machine="riscv64", onednn=False, engines=(), instructions=(), without=())
    found = qfx.backends.detect()
    assert found == "reference"
    assert "float arithmetic" in found.why
    assert "without oneDNN, fbgemm, qnnpack" in str(found)
