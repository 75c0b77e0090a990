from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qfx
from tools import loading, opt

MODEL = ["tests.tools.toy:ready", "--shape", "1,3,8,8"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert opt.main([*MODEL, *arguments]) == 0
    return capsys.readouterr().out


def test_prints_the_ir_after_each_pass(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "--passes", "canonicalize, fuse-conv-bn")
    heads = [line for line in printed.splitlines() if line.startswith("# stage")]
    assert [h.split()[2].strip(":") for h in heads] == ["0", "1", "2"]
    assert "%conv_bn" in printed


def test_pass_without_effect_is_printed_on_request_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    twice = ("--passes", "canonicalize, fuse-conv-bn, fuse-conv-bn")
    assert run(capsys, *twice).count("# stage") == 3
    assert run(capsys, *twice, "--print", "all").count("# stage") == 4
    assert run(capsys, *twice, "--print", "last").count("# stage") == 1
    assert run(capsys, *twice, "--print", "none") == ""


def test_diff_check_blame_and_dump(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    printed = run(
        capsys, "--passes", "canonicalize, fuse-conv-bn", "--diff", "--check",
        "--blame", "conv_bn", "--dump", str(tmp_path),
    )  # fmt: skip
    assert "# 1 canonicalize -> 2 fuse-conv-bn" in printed
    assert "# check canonicalize: exact" in printed
    assert "# check fuse-conv-bn: " in printed
    assert "%conv, %bn -> %conv_bn\n" in printed
    assert (tmp_path / "02-fuse-conv-bn.txt").exists()


def test_backend_reaches_the_passes_that_read_its_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    passes = ("--passes", "canonicalize, fuse-conv-bn, fuse-post-ops", "--print", "last")
    assert "conv2d+relu(" in run(capsys, *passes, "--backend", "reference")


def test_unknown_pass_is_an_error_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert opt.main([*MODEL, "--passes", "fuse-conv-bm"]) == 1
    assert "did you mean fuse-conv-bn" in capsys.readouterr().err


def test_lists_installed_passes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        opt.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert "    fake_quant: bool = false" in (line[24:] for line in lines)
    assert names == list(qfx.list_passes())


def test_with_calibrate_the_model_is_quantized(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = str(qfx.pipelines.static(backend="reference", effort="fast"))
    printed = run(capsys, "--passes", pipeline, "--backend", "reference", "--print", "last")
    assert "quantize(" in printed


def test_inputs_of_every_kind() -> None:
    assert loading.make_input("2,3").shape == (2, 3)
    assert loading.make_input("").shape == ()
    integers = loading.make_input("4:int64")
    assert integers.dtype is torch.int64
    assert set(integers.tolist()) <= {0, 1}


def test_colours_are_for_terminals_only() -> None:
    text = "# head\n- old\n+ new\n  %x = input   # note\n"
    assert loading.colored(text, enabled=False) == text.rstrip("\n")
    coloured = loading.colored(text, enabled=True).splitlines()
    assert coloured[1] == "\033[31m- old\033[0m"
    assert coloured[3] == "  %x = input\033[2m   # note\033[0m"


def test_why_says_where_a_rule_nearly_applied(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tests.tools.toy:ReadTwice", "--shape", "1,3,8,8", "--print", "none"]
    assert opt.main([*arguments, "--passes", "canonicalize, fuse-conv-bn", "--why"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("# why not: fuse-conv-bn/fold-batch-norm at %bn: layer: expected 1 user")
    assert "toy.py:" in line


def test_the_list_shows_no_markup() -> None:
    doc = "Write an :class:`~qfx.quant.Annotation` on ``x``, see :func:`run`."
    assert opt.plain(doc) == "Write an Annotation on x, see run."


OWN = '''
import qfx


class Limited(qfx.Pass):
    """Does nothing, up to a limit."""

    name = "limited"
    requires = qfx.Level.CANONICAL
    limit: int = 3
    names: tuple[str, ...] = ()

    def run(self, graph, ctx):
        assert self.limit == 5
'''


def test_passes_that_are_not_installed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own_passes_of_opt.py"
    file.write_text(OWN)
    monkeypatch.chdir(tmp_path)
    by_file = ("--load", str(file), "--passes", "canonicalize, limited{limit=5}")
    assert "# stage 2: limited" in run(capsys, *by_file, "--print", "all")
    by_name = ("--passes", "canonicalize, own_passes_of_opt:Limited{limit=5}")
    assert "# stage 2: limited" in run(capsys, *by_name, "--print", "all")
    with pytest.raises(SystemExit):
        opt.main(["--load", str(file), "--list"])
    printed = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(printed) if line.startswith("limited"))
    assert [line.strip() for line in printed[at + 1 : at + 4]] == [
        "requires CANONICAL",
        "limit: int = 3",
        "names: tuple[str, ...] = ()",
    ]


def test_passes_that_can_not_be_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no such Python file"):
        opt.main([*MODEL, "--load", str(tmp_path / "no.py"), "--passes", "canonicalize"])
    assert opt.main([*MODEL, "--passes", "tests.tools.toy:nothing"]) == 1
    assert "cannot load the pass tests.tools.toy:nothing" in capsys.readouterr().err
    assert opt.main([*MODEL, "--passes", "tests.tools.toy:ready"]) == 1
    assert "is no pass" in capsys.readouterr().err
