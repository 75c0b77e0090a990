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


@pytest.mark.slow
def test_python_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QFX_CACHE_DIR", str(tmp_path / "cache"))
    blocks = blocks_of("python")
    assert len(blocks) == 13
    names = {"MyModel": MyModel, "batches": [torch.randn(2, 3, 224, 224) for _ in range(2)]}
    names["loader"] = [(images, torch.tensor([1, 2])) for images in names["batches"]]
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README-{number}.py", "exec"), names)
    printed = capsys.readouterr().out
    assert "{'fuse-relu-relu/relu_twice': 1}" in printed
    assert {"report.html", "model.qfx", "model.onnx"} <= {path.name for path in tmp_path.iterdir()}
    (shown,) = blocks_of("text")
    assert without_sources(shown) == without_sources(f"{names['qblock'].report}\n")
    assert {path.suffix for path in (tmp_path / "stages").iterdir()} >= {".txt", ".dot", ".json"}


def blocks_of(language: str) -> list[str]:
    fences = rf"^```{language}\n(.*?)^```"
    return re.findall(fences, README.read_text(), re.MULTILINE | re.DOTALL)


def without_sources(report: str) -> str:
    """Nor distances and bits, which weights that are drawn and the machine decide."""
    report = re.sub(r"^Activations: 7 bits.*\n", "", report, flags=re.MULTILINE)
    report = re.sub(r"([\d.]+ dB from|equal to)", "... dB from", report)
    return re.sub(r" *(\S+:\d+|source|-+)$", "", report, flags=re.MULTILINE)


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (README.parent / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^    )make ([a-z]+)", README.read_text(), re.MULTILINE))
    assert named >= {"test", "demo", "lint"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
