"""The same models under settings that have libraries use less of the CPU than there is.

Each setting needs a process of its own: libraries read it once. A CPU that lacks what a setting
allows runs what it has, so every machine runs every one; which ones differ depends on the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.backends import resolve_backend
from qfx.backends.wide_codes import EXACT_SUMS
from qfx.numerics.measures import error_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
SETTINGS = (
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
)
CLOSE = 35.0
"""dB: outputs of the same codes, of which one in thousands is rounded the other way."""


class Net(nn.Module):
    """Every kind of layer that has kernels of its own, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.stem(x))
        x = nn.functional.relu(self.point(self.depthwise(x)) + x)
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))  # type: ignore[no-any-return]


def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def report(folder: str) -> None:
    """What this process makes of the models in ``folder``, and of its own: as JSON."""
    here, expected = qfx.backends.detect(), model()(X)
    found: dict[str, Any] = {"detected": here, "limits": here.hardware.limits, "backends": {}}
    for name in qfx.backends.available():
        qmodel, saved = qfx.quantize(model(), X, backend=name), Path(folder) / f"{name}.qfx"
        assert qmodel.report.checked is not None
        found["backends"][name] = {
            "saturates": resolve_backend(name).saturates,
            "needs": qmodel.needs,
            "put_back": qmodel.report.checked.put_back,
            "coverage": qmodel.report.coverage,
            "float": error_of(expected, qmodel(X)).sqnr,
            "lowered": error_of(qmodel.reference(X), qmodel(X)).sqnr,
            "loaded": _loaded(saved, torch.load(saved.with_suffix(".pt"))),
        }
    print(json.dumps(found))


def _loaded(path: Path, outputs: dict[str, Tensor]) -> dict[str, Any]:
    reference = qfx.load(path, backend="reference")
    said = {"reference": error_of(outputs["reference"], reference(X)).sqnr, "refused": ""}
    try:
        said["lowered"] = error_of(outputs["lowered"], qfx.load(path)(X)).sqnr
    except qfx.BackendError as error:
        said["refused"] = str(error)
    return said


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for each backend of this machine, and what it yields here."""
    folder = tmp_path_factory.mktemp("saved")
    for name in qfx.backends.available():
        qmodel = qfx.quantize(model(), X, backend=name)
        path = qfx.save(qmodel, folder / f"{name}.qfx")
        outputs = {"lowered": qmodel(X), "reference": qmodel.reference(X)}
        torch.save(outputs, path.with_suffix(".pt"))
    return folder


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: ",".join(map("=".join, s.items())))
def test_kernels_are_right_with_fewer_instructions(setting: dict[str, str], saved: Path) -> None:
    found = child(setting, saved)
    assert set(found["limits"]) >= {f"{name}={value}" for name, value in setting.items()}
    assert found["detected"] == next(iter(found["backends"]))
    for name, said in found["backends"].items():
        assert said["put_back"] == 0, name
        assert said["coverage"] == 1.0, name
        assert said["float"] > 25, (name, said)
        assert said["lowered"] > CLOSE, (name, said)
        assert not (said["saturates"] and EXACT_SUMS in said["needs"]), name


@pytest.mark.parametrize("setting", SETTINGS[-1:], ids=str)
def test_what_was_saved_is_the_same_or_refused(setting: dict[str, str], saved: Path) -> None:
    for name, said in child(setting, saved)["backends"].items():
        loaded, wide = said["loaded"], EXACT_SUMS in qfx.load(saved / f"{name}.qfx").needs
        assert loaded["reference"] > CLOSE, name
        assert bool(loaded["refused"]) is (wide and said["saturates"]), (name, loaded)
        if loaded["refused"]:
            assert EXACT_SUMS in loaded["refused"], name
        else:
            assert loaded["lowered"] > CLOSE, (name, loaded)


def child(setting: dict[str, str], saved: Path) -> Any:
    return _child(tuple(setting.items()), saved)


@cache
def _child(setting: tuple[tuple[str, str], ...], saved: Path) -> Any:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "passes", *filter(None, sys.path))))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(saved)],
        env={**os.environ, **dict(setting), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    report(sys.argv[1])
