"""The package of extra passes: what it registers, installed, is found by name."""

from __future__ import annotations

import re
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import qfx
from examples.passes import demo
from tests.support.sources import ROOT

HOME = ROOT / "examples" / "passes"


def declared() -> dict[str, str]:
    """Entry points by name, as written in the package's pyproject.toml."""
    table = (HOME / "pyproject.toml").read_text().split('[project.entry-points."qfx.passes"]')[1]
    rows = table.strip().split("\n[")[0]
    parser = ConfigParser(delimiters="=")
    parser.read_string(f"[passes]\n{rows}")
    return {name: value.strip('"') for name, value in parser["passes"].items()}


def test_installed_passes_are_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an installer leaves it: metadata beside the package on the path."""
    info = tmp_path / "qfx_extras-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qfx-extras\nVersion: 0.1.0\n")
    points = "\n".join(f"{name} = {value}" for name, value in declared().items())
    (info / "entry_points.txt").write_text(f"[qfx.passes]\n{points}\n")
    monkeypatch.syspath_prepend(str(HOME))
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {"share-subexpressions", "plan-memory", "split-stages"}
    assert set(declared()) == names <= set(qfx.list_passes())
    for name in names:
        assert qfx.get_pass(name).name == name
        assert qfx.get_pass(name).__module__.startswith("qfx_extras.")
    step = qfx.parse_pass("split-stages{stages=4}")
    assert str(step) == "split-stages{stages=4}"
    for module in [name for name in sys.modules if name.partition(".")[0] == "qfx_extras"]:
        del sys.modules[module]


def test_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (HOME / "README.md").read_text(), re.M | re.S)
    exec(compile(block, "README.py", "exec", dont_inherit=True), {"__name__": "README"})
    printed = capsys.readouterr().out
    assert "peak_bytes_before=16512 peak_bytes=4608 arena_bytes=4608" in printed
    assert "3 moved" in printed


def test_the_demo_draws_and_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.shutil, "which", lambda name: None)
    demo.main(["--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "- %sigmoid_1 " in printed
    assert "moved" in printed
    assert "bytes handed on" in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{step.name}{kind}.dot" for _, step in demo.CASES for kind in ("", "-diff")
    }
    assert "cluster_stage=2" in (tmp_path / "split-stages.dot").read_text()
    for _, step in demo.CASES:  # no empty picture
        assert "%" in (tmp_path / f"{step.name}-diff.dot").read_text()
