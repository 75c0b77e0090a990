from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from torch import nn

import qfx
from tools import loading, visualize

MODEL = ["tests.tools.toy:Net", "--shape", "1,3,8,8"]
REFERENCE = ["--backend", "reference"]


def test_writes_every_stage_and_prints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert visualize.main([*MODEL, *REFERENCE, "--out", str(tmp_path), "--no-svg"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["stage", "nodes", "change", "rules", "fired", "ms"]
    assert "0 capture" in printed
    assert "sites quantized" in printed
    texts = sorted(tmp_path.glob("*.txt"))
    assert len(texts) == len(list(tmp_path.glob("*.dot"))) == len(list(tmp_path.glob("*.json"))) > 4
    assert texts[0].name == "00-capture.txt"
    assert "Conv2d[@conv](%x)" in texts[0].read_text()
    assert not list(tmp_path.rglob("*.svg"))


def test_chosen_stages_and_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*MODEL, *REFERENCE, "--out", str(tmp_path), "--no-svg", "--set", "width=8"]
    arguments += ["--stages", "0", "fuse-conv-bn", "--diff", "canonicalize", "fuse-conv-bn"]
    assert visualize.main(arguments) == 0
    assert [p.name for p in sorted(tmp_path.glob("0*.txt"))] == [
        "00-capture.txt", "03-fuse-conv-bn.txt",
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "# 1 canonicalize -> 3 fuse-conv-bn" in printed
    assert "- %bn" in printed
    assert (tmp_path / "diff-1-canonicalize--3-fuse-conv-bn.dot").exists()
    page = (tmp_path / "index.html").read_text()
    assert 'src="00-capture.txt"' in page
    assert "diffs/03-fuse-conv-bn.txt" in page


def test_shows_the_graph_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*MODEL, *REFERENCE, "--out", str(tmp_path), "--no-svg", "--method", "qat"]
    assert visualize.main(arguments) == 0
    (text,) = tmp_path.glob("*-training-form.txt")
    assert "weight_fake_quant" in text.read_text()
    assert "sites quantized" in capsys.readouterr().out


def test_a_used_folder_shows_the_new_run_only(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path), "--no-svg"]
    assert visualize.main([*MODEL, *REFERENCE, *out, "--diff", "0", "1"]) == 0
    mine = [tmp_path / name for name in ("notes.txt", "01-notes.txt", "diff-a--b.txt", "x.dot")]
    for path in mine:
        path.write_text("mine")
    (tmp_path / "05-fuse-post-ops.svg").write_text("drawn by the first run")
    assert visualize.main([*MODEL, "--method", "none", *out]) == 0
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    stage = {"00-capture.txt", "00-capture.dot", "00-capture.json", "index.html"}
    assert left == {path.name for path in mine} | stage


def test_links_the_report_and_names_the_backend(tmp_path: Path) -> None:
    assert visualize.main([*MODEL, "--out", str(tmp_path), "--no-svg"]) == 0
    page = (tmp_path / "index.html").read_text()
    assert 'href="report.html"' in page
    assert f"static, backend {qfx.backends.detect()}<" in page
    assert "conv" in (tmp_path / "report.html").read_text()


def test_a_folder_that_can_not_be_written_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "out")
    assert visualize.main([*MODEL, *REFERENCE, "--out", out, "--no-svg"]) == 1
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_draws_where_graphviz_is_installed(tmp_path: Path) -> None:
    assert visualize.main([*MODEL, "--method", "none", "--out", str(tmp_path)]) == 0
    assert "<svg" in (tmp_path / "00-capture.svg").read_text()
    assert 'src="00-capture.svg"' in (tmp_path / "index.html").read_text()


def test_says_when_graphviz_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert visualize.main([*MODEL, "--method", "none", "--out", str(tmp_path)]) == 0
    assert "Graphviz's `dot` is not installed" in capsys.readouterr().out


def test_says_which_drawing_took_too_long(tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    edges = "".join(f"{i} -> {j};" for i in range(60) for j in range(i + 1, 60))
    (tmp_path / "dense.dot").write_text(f"digraph {{{edges}}}")
    assert visualize.render(tmp_path, 0.05) == "0 drawn; not within 0.05 s: dense.dot"
    assert not (tmp_path / "dense.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tests.tools.toy", "--shape", "1"], "names no factory"),
        (["tests.tools.toy:nope", "--shape", "1"], "cannot load 'tests.tools.toy:nope'"),
        (["tests.tools.missing:f", "--shape", "1"], "cannot load 'tests.tools.missing:f'"),
        (["tests.tools.toy:number", "--shape", "1"], "gave int, not an nn.Module"),
        (["tests.tools.toy:Net", "--shape", "1,x"], "'1,x' is no shape"),
        (["tests.tools.toy:Net", "--shape", "1:f3"], "torch has no dtype 'f3'"),
        (["tests.tools.toy:Net", "--shape", "1", "--set", "width"], "'width' has no value"),
    ],
)
def test_bad_arguments_are_explained(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        visualize.main([*arguments, "--out", str(tmp_path)])


def test_a_module_of_the_users_is_not_hidden_by_one_of_the_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python tools/visualize.py zoo:Mine`` took ``tools/zoo.py``."""
    (tmp_path / "zoo.py").write_text("from torch.nn import Identity as Mine")
    tools = str(Path(visualize.__file__).parent)
    monkeypatch.setattr(sys, "path", [tools, *sys.path])
    monkeypatch.chdir(tmp_path)
    try:
        assert isinstance(loading.build("zoo:Mine", {}), nn.Identity)
        with pytest.raises(SystemExit, match=rf"no attribute 'Net' \(zoo is {tmp_path}/zoo\.py\)"):
            loading.build("zoo:Net", {})
    finally:
        sys.modules.pop("zoo", None)


def test_unknown_stage_is_an_error_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*MODEL, "--method", "none", "--out", str(tmp_path), "--diff", "0", "lower"]
    assert visualize.main(arguments) == 1
    assert "no stage called 'lower'" in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        visualize.main(["--help"])
    assert stop.value.code == 0
    assert "torchvision.models:resnet18 --shape 1,3,224,224" in capsys.readouterr().out
