"""The guides' Python runs as it stands, block after block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parent.parent / "docs"


def run(guide: str) -> dict[str, object]:
    """The names that all blocks of a guide leave."""
    text = (DOCS / guide).read_text()
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": guide}
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for number, block in enumerate(blocks, start=1):
        code = compile(block, f"{guide}-{number}.py", "exec", dont_inherit=True)
        exec(code, names)
    return names


def test_passes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("passes.md")
    printed = capsys.readouterr().out
    assert "{'pointwise-to-linear/to_linear': 1}" in printed
    assert "pointwise-to-linear/to_linear at %conv: its kernel is (3, 3)" in printed
    assert "tanh-gelu{under='blocks'}" in printed
    assert "{'tanh-gelu/faster': 1} tanh-gelu/faster at %_1: 1 is not under 2" in printed
    assert "intensity=" in printed
    assert "is 2 deep" in printed
    assert "intensity" in names["qmodel"].report.sites[0].findings  # beside what qfx's passes found
    assert names["variants"].summary() == "-0 +0 nodes, -1 +0 parameters, 1 changed"
    assert "quantized -> float" in printed
    assert (tmp_path / "stages.html").exists()
    assert names["observed"].report.coverage == 1.0


@pytest.mark.filterwarnings("ignore:.*codes have 8 bits, not 4")
def test_backends(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("backends.md")
    printed = capsys.readouterr().out
    assert "codes have 8 bits, not 4" in printed
    assert "npu_linear(" in printed
    assert names["qmodel"].report.coverage == 1.0
    assert {site.kernel for site in names["qmodel"].report.sites} == {"npu.linear"}
