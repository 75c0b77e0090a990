"""The README's Python runs as it stands, block after block, with a model of the reader's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

README = Path(__file__).resolve().parent.parent / "README.md"


class MyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 8, 3, stride=4)
        self.bn1 = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.relu(self.bn1(self.conv1(x))))
        return self.head(self.pool(x).flatten(1))


def test_python_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names = {"MyModel": MyModel, "batches": [torch.randn(2, 3, 224, 224) for _ in range(2)]}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "fuse-relu-relu" in printed
    stage = names["qmodel"].history["fuse-relu-relu"]
    assert sum(stage.fired.values()) == 1
    assert {path.suffix for path in (tmp_path / "stages").iterdir()} >= {".txt", ".dot", ".json"}


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (README.parent / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^    )make ([a-z]+)", README.read_text(), re.MULTILINE))
    assert named >= {"test", "demo", "lint"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
