"""The page of a history: all stages, escaped, in one file that loads nothing."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.relu() + 1.0).tanh()


@qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))
def to_clamp(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return rw.call(vocab.CLAMP, match["x"], min=0.0)


@qfx.rewrite(qfx.Op(vocab.TANH, qfx.Any("x")))
def never(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
    return qfx.Mismatch("1 < 2 & <script>")


class Clamps(qfx.PatternPass):
    name = "clamps"
    patterns = to_clamp + never


class Reader(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def history() -> qfx.History:
    return qfx.run_passes(Net(), [Clamps()], torch.randn(2, 4))[1]


def test_the_page_has_every_stage_and_loads_nothing(history: qfx.History, tmp_path: Path) -> None:
    path = history.to_html(tmp_path / "stages.html")
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    assert not {"script", "link", "img"} & set(reader.tags)
    for stage in history:
        assert stage.title in reader.text
        assert stage.snapshot.to_text() in reader.text
    assert history.diff("clamps").to_text().splitlines()[0] in reader.text
    assert "clamps/to_clamp x1" in reader.text
    assert "1 < 2 & <script>" in reader.text
    assert "tried  matched  applied\n" in reader.text


def test_two_pages_are_equal(history: qfx.History, tmp_path: Path) -> None:
    again = qfx.run_passes(Net(), [Clamps()], torch.randn(2, 4))[1]
    pages = [h.to_html(tmp_path / "page.html").read_bytes() for h in (history, again)]
    assert pages[0] == pages[1]
