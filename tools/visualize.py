r"""See what qfx does to a model: the graph at every stage, and the differences.

    python tools/visualize.py torchvision.models:resnet18 --shape 1,3,224,224 --out graphs
    python tools/visualize.py my.net:build --shape 1,3,32,32 --out graphs --backend x86 \
        --diff canonicalize fuse-conv-bn

Writes, for every stage, the IR as text, the graph as DOT and JSON, and (where Graphviz's ``dot`` is
installed) as SVG; for every step what it changed; the report (report.html); and a page, index.html,
to click through them. What an earlier run left in the folder goes; nothing else in it is touched.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "passes")]  # so that it runs from a checkout

import qfx  # noqa: E402
from qfx.history.history import file_name  # noqa: E402
from qfx.report.text import covered  # noqa: E402
from qfx.table import columns  # noqa: E402
from tools.loading import add_model_arguments, colored, load  # noqa: E402
from tools.page import page  # noqa: E402

REPORT = "report.html"
METHODS = ("static", "dynamic", "weight_only", "qat", "none")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="visualize.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(found)
    found.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    found.add_argument(
        "--method",
        choices=METHODS,
        default="static",
        help="how to quantize; qat shows the graph in training, without training it; none only "
        "captures (default: %(default)s)",
    )
    found.add_argument(
        "--backend",
        default="auto",
        help="auto, x86, fbgemm, qnnpack or reference (default: %(default)s)",
    )
    found.add_argument(
        "--stages",
        nargs="*",
        default=None,
        metavar="STAGE",
        help="write these stages only, by number or name (default: all)",
    )
    found.add_argument(
        "--diff",
        nargs=2,
        metavar=("A", "B"),
        help="print the difference between two stages, by number or name, and draw it too",
    )
    found.add_argument("--no-svg", action="store_true", help="don't run dot")
    found.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="give up on an SVG after so long (default: %(default)g)",
    )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    arguments = parser().parse_args(argv)
    model, inputs = load(arguments)
    try:
        history, report = run(model, inputs, arguments.method, arguments.backend)
        stages = choose(history, arguments.stages)
        asked = history.diff(*map(which, arguments.diff)) if arguments.diff else None
    except (qfx.QfxError, IndexError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    try:
        clear(arguments.out)
        write(history, stages, arguments.out)
        if report is not None:
            report.to_html(arguments.out / REPORT)
        if asked is not None:
            write_diff(asked, arguments.out)
    except OSError as error:
        print(f"cannot write to {arguments.out}: {error}; choose another --out", file=sys.stderr)
        return 1
    if asked is not None:
        print(f"{colored(asked.to_text(), sys.stdout.isatty())}\n")
    svg = "not asked for" if arguments.no_svg else render(arguments.out, arguments.timeout)
    backend = "" if report is None else f", backend {report.backend}"
    title = f"{arguments.model}, {arguments.method}{backend}"
    (arguments.out / "index.html").write_text(page(title, history, stages, arguments.out))
    print(summary(history, stages))
    print(f"\nSVG: {svg}\nWritten to {arguments.out}; open {arguments.out / 'index.html'}")
    if report is not None:
        print(f"\n{in_one_line(report)}")
    return 0


def run(
    model: nn.Module, inputs: tuple[Tensor, ...], method: str, backend: str
) -> tuple[qfx.History, qfx.QuantizationReport | None]:
    """The history of quantizing ``model``, and the report if it is."""
    if method == "none":
        return qfx.run_passes(model, [], inputs)[1], None
    if method == "qat":
        prepared = qfx.prepare(model, inputs, method=method, backend=backend)
        quantized = qfx.convert(qfx.calibrate(prepared, [inputs], progress=False))
    else:
        quantized = qfx.quantize(model, inputs, method=method, backend=backend, progress=False)
    return quantized.history, quantized.report


def in_one_line(report: qfx.QuantizationReport) -> str:
    """How much was quantized."""
    done = sum(site.decision == "quantized" for site in report.sites)
    share = "" if report.coverage is None else f", {covered(report)} in integers"
    return f"{done} of {len(report.sites)} sites quantized{share}"


def which(text: str) -> int | str:
    """A stage by number or name."""
    return int(text) if text.lstrip("-").isdigit() else text


def choose(history: qfx.History, names: Sequence[str] | None) -> list[qfx.Stage]:
    """The stages to write: those named, or all."""
    return [history[which(name)] for name in names] if names else list(history)


def clear(out: Path) -> None:
    """Remove what an earlier run wrote: stages are told by having all three forms."""
    stages = [
        path.stem
        for path in out.glob("[0-9][0-9]*-*.json")
        if all(path.with_suffix(suffix).exists() for suffix in (".txt", ".dot"))
    ]
    differences = [p.stem for p in out.glob("diff-*--*.dot") if p.with_suffix(".txt").exists()]
    found = [out / stem for stem in (*stages, *differences)]
    found += [out / "diffs" / stem for stem in stages]
    for path in found:
        for suffix in (".txt", ".dot", ".json", ".svg"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    if stages:
        (out / REPORT).unlink(missing_ok=True)


def write(history: qfx.History, stages: Sequence[qfx.Stage], out: Path) -> None:
    """The files of each stage, and of what it changed."""
    (out / "diffs").mkdir(parents=True, exist_ok=True)
    for stage in stages:
        name = file_name(stage)
        (out / f"{name}.txt").write_text(history.to_text(stage.index))
        (out / f"{name}.dot").write_text(stage.snapshot.to_dot().source)
        (out / f"{name}.json").write_text(stage.snapshot.to_json())
        step = history.diff(stage.index)
        if step:
            (out / "diffs" / f"{name}.txt").write_text(step.to_text())
            (out / "diffs" / f"{name}.dot").write_text(step.to_dot().source)


def write_diff(diff: qfx.GraphDiff, out: Path) -> None:
    """The difference that was asked for, as ``diff-1-canonicalize--3-fuse.txt`` and ``.dot``."""
    name = "diff-" + "--".join(label.replace(" ", "-") for label in diff.labels)
    (out / f"{name}.txt").write_text(diff.to_text())
    (out / f"{name}.dot").write_text(diff.to_dot().source)


def render(out: Path, timeout: float) -> str:
    """Draw every DOT file under ``out`` as SVG next to it; says how that went."""
    dot = shutil.which("dot")
    if dot is None:
        return "none, as Graphviz's `dot` is not installed (apt-get install graphviz); see the .dot"
    late = []
    files = sorted(out.rglob("*.dot"))
    for file in files:
        target = file.with_suffix(".svg")
        try:
            subprocess.run(
                [dot, "-Tsvg", str(file), "-o", str(target)], check=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            target.unlink(missing_ok=True)
            late.append(file.name)
    drawn = f"{len(files) - len(late)} drawn"
    return f"{drawn}; not within {timeout:g} s: {', '.join(late)}" if late else drawn


def summary(history: qfx.History, stages: Sequence[qfx.Stage]) -> str:
    """A line per stage: its size, what it changed, how often its rules fired, how long it took."""
    rows = [("stage", "nodes", "change", "rules fired", "ms")]
    for stage in stages:
        change = history.diff(stage.index).summary() if stage.index else "capture"
        fired = str(len(stage.events) or "")
        rows.append(
            (stage.title, str(len(stage.snapshot)), change, fired, f"{stage.seconds * 1e3:.1f}")
        )
    return columns(rows)


if __name__ == "__main__":
    sys.exit(main())
