"""What PyTorch's compilers make of a quantized model itself: the same values.

Kernels of integers are called as they are, so that what is left to rounding are floats between
them; at a batch of another size than the one that was compiled, too.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx

pytestmark = pytest.mark.slow

FREE = ({0: torch.export.Dim.DYNAMIC},)
ROUNDED = 1e-6
"""Of the largest output: float operations that a compiler joins round in their last bits."""


class Convs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.side = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.side(x) + x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))  # type: ignore[no-any-return]


class Linears(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 5))


def g(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "static": (Convs, (3, 8, 8)),
    "dynamic": (Linears, (32,)),
    "weight_only": (Linears, (32,)),
}


def quantized(method: str, backend: str) -> qfx.QuantizedModel:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    model, shape = MODELS[method]
    return qfx.quantize(model().eval(), g(2, *shape), method=method, backend=backend)


def inputs(method: str) -> Iterator[Tensor]:
    shape = MODELS[method][1]
    yield from (g(2, *shape, seed=1), g(5, *shape, seed=2))


def same(qmodel: Callable[[Tensor], Tensor], made: Callable[[Tensor], Tensor], method: str) -> None:
    with torch.no_grad():
        for x in inputs(method):
            expected, found = qmodel(x), made(x)
            assert (expected - found).abs().max() <= ROUNDED * expected.abs().max()


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_export_calls_the_same_kernels(method: str, backend: str) -> None:
    qmodel = quantized(method, backend)
    program = torch.export.export(qmodel, (next(inputs(method)),), dynamic_shapes=FREE)
    made = program.module()
    with torch.no_grad():
        assert all(torch.equal(made(x), qmodel(x)) for x in inputs(method))


def test_convolutions_of_three_dims_are_exported_too() -> None:
    """PyTorch can't tell what oneDNN's own operator for them yields."""
    qmodel = qfx.quantize(nn.Sequential(nn.Conv3d(2, 4, 3)).eval(), g(2, 2, 4, 4, 4), backend="x86")
    program = torch.export.export(qmodel, (g(2, 2, 4, 4, 4),), dynamic_shapes=FREE).module()
    assert [site.kernel for site in qmodel.report.sites] == ["onednn.qconv3d"]
    with torch.no_grad():
        x = g(5, 2, 4, 4, 4, seed=1)
        assert torch.equal(program(x), qmodel(x))


def test_packed_weights_are_what_pytorch_saves_no_program_with() -> None:
    """Why files, AOTInductor and C++ take the reference form; docs/deploy.md says so."""
    qmodel = quantized("static", "x86")
    x = next(inputs("static"))
    with pytest.raises(NotImplementedError, match="storage of OpaqueTensorImpl"):
        torch.export.save(torch.export.export(qmodel, (x,)), io.BytesIO())
    file = io.BytesIO()
    torch.export.save(torch.export.export(qmodel.reference, (x,), dynamic_shapes=FREE), file)
    file.seek(0)
    with torch.no_grad():
        loaded = torch.export.load(file).module()
        assert all(torch.equal(loaded(y), qmodel.reference(y)) for y in inputs("static"))


# -- Inductor, which compiles C++ ------------------------------------------------------------------
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler here"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    yield
    torch.compiler.reset()


@needs_compiler
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "backend"),
    [("static", "x86"), ("dynamic", "x86"), ("weight_only", "x86"), ("static", "reference")],
)
def test_inductor_compiles_a_quantized_model_whole(method: str, backend: str) -> None:
    qmodel = quantized(method, backend)
    same(qmodel, torch.compile(qmodel, dynamic=True, fullgraph=True), method)


@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_aotinductor_packages_the_reference_form(tmp_path: Path) -> None:
    qmodel = quantized("dynamic", "x86")
    with torch.no_grad():
        x = next(inputs("dynamic"))
        program = torch.export.export(qmodel.reference, (x,), dynamic_shapes=FREE)
        path = str(tmp_path / "model.pt2")
        package = torch._inductor.aoti_compile_and_package(program, package_path=path)
    same(qmodel.reference, torch._inductor.aoti_load_package(package), "dynamic")
