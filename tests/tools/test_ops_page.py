"""docs/ops.md says what the tables say."""

from __future__ import annotations

import pytest

from qfx import get_default_qconfig
from qfx.argument_checks import METHODS_OF_USERS
from qfx.backends import NAMES, TARGETS, available
from qfx.backends.defaults import defaults
from tools import ops_page

pytestmark = pytest.mark.skipif(
    set(available()) != set(NAMES), reason="the page shows every backend, and some are absent here"
)


def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert ops_page.main(["--check"]) == 0, capsys.readouterr().out


def test_the_defaults_are_those_of_every_backend() -> None:
    described = [defaults(reduce_range=reduced) for reduced in (False, True)]
    for name in NAMES:
        assert {m: get_default_qconfig(name, m) for m in METHODS_OF_USERS} in described
    (row,) = (r for r in ops_page.page().splitlines() if r.startswith("| `weight_only` |"))
    weights, rows = described[0]["weight_only"].weight, described[0]["weight_only"].rows
    assert row == f"| `weight_only` | float | `{weights}` | `{rows}` |"


def test_a_row_shows_spellings_methods_and_fusions() -> None:
    (row,) = (line for line in ops_page.page().splitlines() if line.startswith("| `conv2d` |"))
    _, _, spellings, x86, fbgemm, _, reference, xnnpack, onnx, pt2e, _ = row.split("|")
    assert spellings.strip() == "`nn.Conv2d`, `F.conv2d`"
    assert x86.startswith(" `onednn.qconv2d`<br>S D<br>own or float<br>+ relu<br>")
    assert "+ add relu" in x86
    assert "quantized.conv2d" in fbgemm
    assert "S D W" in reference
    assert xnnpack.strip() == "`XNNPACK`<br>S<br>own<br>+ relu<br>+ clamp"
    assert onnx.strip() == "`Conv` `ConvInteger`"
    assert pt2e.strip() == "`conv2d`<br>not: weights in groups"


def test_an_operation_without_a_kernel_has_an_empty_cell() -> None:
    (row,) = (line for line in ops_page.page().splitlines() if line.startswith("| `log_softmax` |"))
    assert [cell.strip() for cell in row.split("|")[3:-3]] == [""] * len((*NAMES, *TARGETS))
