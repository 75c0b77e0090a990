"""Tools aborted where torchvision works: the stand-in for its operators was made all the same.

They import nothing of tests (tests/test_packaging.py holds that), and make it only where the
extension of torchvision itself fails to load.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEFINES = 'lib.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")'
NEEDS = 'torch.library.register_fake("torchvision::nms")(lambda *a: None)'
LIB = 'lib = torch.library.Library("torchvision", "DEF")'
WORKING = f"import torch\n{LIB}\n{DEFINES}\nfrom . import meta, models\n"
"""A torchvision whose extension loads: it defines the operators, and may do so only once."""
BROKEN = "import torch\nfrom . import extension, meta, models\n"
"""One whose extension does not."""


def import_planted(
    path: Path, source: str, *, meta: str = NEEDS
) -> subprocess.CompletedProcess[str]:
    """What ``import_torchvision`` says in a child process that has this package."""
    package = path / "torchvision"
    package.mkdir()
    files = {
        "__init__": source,
        "extension": "",
        "meta": f"import torch\n{meta}",
        "models": "N = 7",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    program = (
        "import sys, torch\nfrom tools.networks import import_torchvision as find\n"
        "assert find() is find() is sys.modules['torchvision']\n"
        "print(find().models.N, torch.ops.torchvision.nms.default._schema.name)"
    )
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("source", [WORKING, BROKEN], ids=["extension", "no extension"])
def test_torchvision_with_and_without_its_extension(source: str, tmp_path: Path) -> None:
    found = import_planted(tmp_path, source)
    assert (found.stdout, found.stderr) == ("7 torchvision::nms\n", "")


@pytest.mark.slow
def test_another_failure_of_torchvision_is_its_own(tmp_path: Path) -> None:
    found = import_planted(tmp_path, BROKEN, meta="raise RuntimeError('no such thing')")
    assert "RuntimeError: no such thing" in found.stderr


NEEDS = {
    "examples.detect": ("torchvision", "pip install the torchvision of this torch"),
    "examples.generate": ("transformers", "pip install transformers"),
    "examples.transcribe": ("transformers", "pip install transformers"),
    "examples.serving.server": ("fastapi", "pip install qfx[serving]"),
    "examples.serving.load_test": ("prometheus_client", "pip install qfx[serving]"),
    "examples.serving.make_model": ("sklearn", "pip install scikit-learn"),
    "tools.demo": ("sklearn", "pip install scikit-learn"),
    "tools.zoo": ("transformers", "install transformers, or choose another --library"),
    "tools.visualize": ("timm", "cannot load 'timm:create_model'"),
}
ARGUMENTS = {
    "tools.zoo": ["--library", "transformers", "--out", "zoo"],
    "tools.visualize": ["timm:create_model", "--shape", "1,3", "--out", "graphs"],
    "tools.demo": ["--out", "demo"],
    "examples.serving.make_model": ["--out", "served"],
    "examples.serving.server": ["digits.qfx", "--shape", "1"],
    "examples.serving.load_test": ["digits.pt2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", NEEDS)
def test_what_is_not_installed_is_said_in_a_line(command: str, tmp_path: Path) -> None:
    missing, remedy = NEEDS[command]
    program = (
        f"import runpy, sys; sys.modules[{missing!r}] = None; "
        f"runpy.run_module({command!r}, run_name='__main__', alter_sys=True)"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'passes'}"}
    line = [sys.executable, "-c", program, *ARGUMENTS.get(command, [])]
    ran = subprocess.run(
        line, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert ran.returncode == 1
    (said,) = ran.stderr.splitlines()
    assert missing in said
    assert remedy in said
