"""Linear layers on more than matrices, in the integer form: engines take no other in integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx

runtime = pytest.importorskip("onnxruntime")


class Feeds(nn.Module):
    """A feed-forward block; the second layer has no bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(16, 40), nn.Linear(40, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nn.functional.gelu(self.first(x)))  # type: ignore[no-any-return]


def run(path: Path, x: Tensor) -> Tensor:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(made)


@pytest.mark.parametrize("shape", [(2, 5, 16), (2, 3, 4, 16), (6, 16)], ids=str)
def test_they_run_in_integers_at_every_size(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    qmodel = qfx.quantize(Feeds().eval(), x, progress=False, check=False)
    path = tmp_path / "model.onnx"
    file = qfx.export_onnx(qmodel, path, form="integer", example_inputs=x)
    free = [size for size in file.inputs["x"] if isinstance(size, str)]
    assert len(free) == len(shape) - 1
    assert file.operators["Gemm"] >= 1
    checked = qfx.check_onnx(qmodel, path, x)
    assert checked.integers["QGemm"] >= 1
    assert "Gemm" not in checked.kernels
    assert checked.sqnr > 60
    smaller = x[1:, ..., :-1, :] if len(shape) > 2 else x[1:]
    torch.testing.assert_close(run(path, smaller), qmodel.reference(smaller), rtol=0, atol=2e-2)


def test_with_fixed_sizes_it_is_chosen(tmp_path: Path) -> None:
    """Of MatMul and Add of known sizes ONNX Runtime makes a Gemm, in float."""
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    qmodel = qfx.quantize(Feeds().eval(), x, progress=False, check=False)
    path = tmp_path / "model.onnx"
    file = qfx.export_onnx(qmodel, path, example_inputs=x, dynamic_shapes={})
    assert file.form == "integer"
    exact, integer = file.trials[:2]
    assert exact.integer_kernels < integer.integer_kernels
