"""What a wheel promises: a light import, no deprecated PyTorch, layers that stay apart, names."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx
from tests.support.sources import ROOT, SOURCES, nodes, tree

PUBLIC = {
    *("quantize", "prepare", "calibrate", "convert"),
    *("QConfig", "QConfigMapping", "QuantSpec", "QuantStub", "DeQuantStub"),
    *("get_default_qconfig", "get_default_qconfig_mapping"),
    *("QuantizedModel", "QuantizationReport", "History", "Stage", "Snapshot", "GraphDiff"),
    *("snapshot", "diff", "backends", "ops", "vocab", "pipelines"),
    *("Pass", "PatternPass", "rewrite", "Op", "Any", "Mismatch"),
    *("run_passes", "get_pass", "list_passes"),
    *("QfxWarning", "QfxError", "CaptureError", "ConfigError", "PatternError", "PassError"),
    *("VerifyError", "CalibrationError", "CoverageError", "BackendError", "FormatError"),
}

# What `import torch` does not load, costs time, and is loaded when it is asked for.
HEAVY = (
    "graphviz",
    "hypothesis",
    "networkx",
    "onnx",
    "qfx.api",
    "qfx.engines",
    "qfx.export",
    "qfx.runtime.quantized",
    "qfx.storage",
    "qfx_passes",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torchvision",
    "tqdm",
)


@pytest.fixture(scope="module")
def import_cost() -> set[str]:
    """Modules that ``import qfx`` loads and ``import torch`` does not."""
    path = f"import json, sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'passes')]}"
    program = f"{path}\nimport torch\nbefore = set(sys.modules)\nimport qfx\n"
    command = [sys.executable, "-c", f"{program}print(json.dumps([*(set(sys.modules) - before)]))"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.slow
def test_import_loads_nothing_heavy(import_cost: set[str]) -> None:
    assert "qfx" in import_cost
    assert import_cost.isdisjoint(HEAVY)


@pytest.mark.slow
def test_import_adds_nothing_of_torch_ao(import_cost: set[str]) -> None:
    deprecated = ("torch.ao", "torch.quantization")
    assert not [name for name in import_cost if name.startswith(deprecated)]


@pytest.mark.slow
def test_nothing_warns_where_numpy_is_absent(tmp_path: Path) -> None:
    """PyTorch warns, when it is imported itself."""
    program = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'passes')]}\n"
        "sys.modules['numpy'] = None\n"
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n    import torch\n"
        "assert 'NumPy' in str(caught[0].message), caught\n"
        "warnings.simplefilter('error')\nimport qfx\n"
        "x = torch.ones(2, 8)\n"
        "qmodel = qfx.quantize(torch.nn.Linear(8, 8).eval(), x)\n"
        "fast = qfx.compile(qmodel, x, engine='eager')\n"
        "assert torch.equal(fast(x), qmodel(x))\n"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "QFX_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.stderr == ""
    assert done.returncode == 0


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(absolute module name, whether at module level) of every import statement in a file."""
    top_level = {id(node) for node in tree(path).body}
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top_level) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            yield from ((name, id(node) in top_level) for name in names)


def offenders(forbidden: tuple[str, ...], *rooms: str, anywhere: bool = True) -> list[str]:
    """Imports of ``forbidden`` packages in the files under ``rooms``; or at module level only."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        if any(path.is_relative_to(ROOT / room) for room in rooms)
        for name, top in imports(path)
        if (anywhere or top) and name.startswith(forbidden)
    ]


def test_no_source_imports_torch_ao() -> None:
    assert len(SOURCES) > 20
    assert offenders(("torch.ao", "torch.quantization"), "qfx", "passes") == []


def test_no_source_reaches_for_torch_ao_by_attribute() -> None:
    reached = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.Attribute)
        and node.attr in ("ao", "quantization")
        and ast.unparse(node.value) == "torch"
    ]
    assert reached == []


@pytest.mark.slow
def test_passes_are_imported_by_the_framework_only_inside_functions() -> None:
    assert offenders(("qfx_passes",), "qfx", anywhere=False) == []
    users = {line.split()[0] for line in offenders(("qfx_passes",), "qfx")}
    assert users <= {
        "qfx/api.py",
        "qfx/framework/registry.py",
        "qfx/framework/pipeline.py",
        "qfx/pipelines.py",
    }


def test_graph_and_rewrite_know_nothing_of_quantization() -> None:
    upper = ("qfx.quant", "qfx.backends", "qfx.report", "qfx.runtime", "qfx.api", "qfx_passes")
    assert offenders(upper, "qfx/graph", "qfx/rewrite") == []


def test_tools_and_benchmarks_import_nothing_of_tests() -> None:
    files = sorted([*ROOT.glob("tools/**/*.py"), *ROOT.glob("benchmarks/**/*.py")])
    assert len(files) > 20
    found = [(path.name, name) for path in files for name, _ in imports(path)]
    assert [(file, name) for file, name in found if name.split(".")[0] == "tests"] == []


def test_public_names() -> None:
    assert set(qfx.__all__) >= PUBLIC
    assert len(qfx.__all__) == len(set(qfx.__all__))
    assert not [name for name in qfx.__all__ if not hasattr(qfx, name)]


def test_dir_and_star_import_agree_with_all() -> None:
    namespace: dict[str, object] = {}
    exec("from qfx import *", namespace)
    assert set(qfx.__all__) <= set(namespace) | {"__version__"}
    assert set(qfx.__all__) <= set(dir(qfx))


def test_dir_shows_nothing_internal() -> None:
    shown = {name for name in dir(qfx) if not name.startswith("__")}
    assert shown == {name for name in qfx.__all__ if not name.startswith("__")}


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="quantise"):
        qfx.quantise  # type: ignore[attr-defined]  # noqa: B018


def test_package_is_typed() -> None:
    assert (ROOT / "qfx" / "py.typed").exists()


def test_built_in_passes_are_registered_as_anyone_elses() -> None:
    declared = [entry for entry in entry_points(group="qfx.passes") if entry.name == "builtin"]
    if not declared:
        pytest.skip("qfx is not installed, only on the path")
    names = {kind.name for kind in declared[0].load()}
    assert names <= set(qfx.list_passes())
    assert "fuse-conv-bn" in names


def test_a_method_that_is_none_names_those_that_are() -> None:
    with pytest.raises(qfx.ConfigError, match="'static', 'dynamic', 'weight_only', 'qat'"):
        qfx.prepare(nn.Linear(2, 2).eval(), torch.ones(1, 2), method="magic")


QUANTIZING = """
import sys
import torch, qfx
from torch import nn

class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU6())
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        y = nn.functional.interpolate(self.deep(x), scale_factor=2.0, mode="bilinear")
        return self.head(torch.cat([x + y, y], 1).mean((2, 3)))

block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
models = (Pyramid().eval(), torch.randn(2, 3, 8, 8)), (block.eval(), torch.randn(2, 5, 8))
for method in ("static", "dynamic", "weight_only"):
    for model, x in models:
        qfx.quantize(model, (x,), method=method)
for model, x in models:
    for backend in qfx.backends.available():
        qfx.quantize(model, (x,), backend=backend)
    prepared = qfx.prepare(model, (x,), method="qat")
    qfx.calibrate(prepared, [(x,)])
    qfx.convert(prepared)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


@pytest.mark.slow
def test_quantizing_does_not_load_the_compiler() -> None:
    path = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'passes')]}"
    command = [sys.executable, "-W", "ignore", "-c", path + QUANTIZING]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert output.splitlines()[-1] == "[]"
