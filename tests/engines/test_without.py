"""Without OpenVINO and ONNX Runtime, everything works, and says what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import sys, warnings
for name in ("openvino", "onnxruntime", "onnx", "onnx_ir"):
    sys.modules[name] = None
import torch, qfx
assert qfx.engines.available()[-1:] == ("eager",), qfx.engines.available()
assert not {"openvino", "onnxruntime"} & set(qfx.engines.available())
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
x = torch.randn(1, 3, 8, 8)
qmodel = qfx.quantize(model, x, progress=False)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fast = qfx.compile(qmodel, x)
assert any("pip install 'qfx[openvino]'" in str(w.message) for w in caught), caught
assert torch.equal(fast(x), qmodel(x))
print(fast)
try:
    qfx.compile(qmodel, x, engine="onnxruntime")
except qfx.BackendError as error:
    print(error)
"""


_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PATH": "", "QFX_CACHE_DIR": "off"}


@pytest.mark.slow
def test_everything_works_without_them() -> None:
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'passes'}", **_ENVIRONMENT},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "openvino, onnx_ir is not installed: pip install 'qfx[openvino]'" in ran.stdout
    assert "engine 'onnxruntime' can't be used" in ran.stdout
