r"""Run passes on a model and print the IR after each, as compilers' ``opt`` tools do.

    python tools/opt.py --list
    python tools/opt.py torchvision.models:resnet18 --shape 1,3,224,224 \
        --passes 'canonicalize, fuse-conv-bn' --diff
    python tools/opt.py my.net:build --shape 1,3,32,32 --backend x86 \
        --passes 'canonicalize, fuse-conv-bn, fuse-post-ops' --print last --check

Passes are written as they print, options in braces: ``place-observers{fake_quant=true}``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "passes")]  # so that it runs from a checkout

import qfx  # noqa: E402
from qfx.backends import resolve_backend  # noqa: E402
from qfx.verification.stages import NumericCheck  # noqa: E402
from tools.loading import add_model_arguments, colored, load  # noqa: E402

WHAT = ("all", "changed", "last", "none")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="opt.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--list", action=_ListPasses, nargs=0, help="list installed passes and exit")
    add_model_arguments(found)
    found.add_argument(
        "--passes", required=True, metavar="LIST", help="passes, separated by commas"
    )
    found.add_argument(
        "--backend", help="what passes that read a backend's table get: auto, x86, fbgemm..."
    )
    found.add_argument(
        "--print",
        dest="what",
        choices=WHAT,
        default="changed",
        help="stages to print (default: those that %(default)s something)",
    )
    found.add_argument(
        "--diff", action="store_true", help="print what each stage changed, not all of it"
    )
    found.add_argument(
        "--check", action="store_true", help="compare outputs before and after each pass"
    )
    found.add_argument("--blame", metavar="NODE", help="print the history of a node")
    found.add_argument(
        "--why", action="store_true", help="print where rules nearly applied, and why they did not"
    )
    found.add_argument(
        "--dump", type=Path, metavar="DIR", help="write every stage as text, DOT and JSON"
    )
    return found


class _ListPasses(argparse.Action):
    def __call__(self, command_line: argparse.ArgumentParser, *ignored: object) -> None:
        for name in qfx.list_passes():
            doc = (qfx.get_pass(name).__doc__ or "").strip().partition("\n")[0]
            print(f"{name:24}  {plain(doc)}".rstrip())
        command_line.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    arguments = parser().parse_args(argv)
    model, inputs = load(arguments)
    check = NumericCheck()
    try:
        passes = [qfx.parse_pass(text) for text in split(arguments.passes)]
        settings = [resolve_backend(arguments.backend)] if arguments.backend else []
        instruments = [check] if arguments.check else []
        _, history = qfx.run_passes(
            model, passes, inputs, settings=settings, instruments=instruments, check=False
        )
        blame = history.blame(arguments.blame) if arguments.blame else None
    except qfx.QfxError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for stage in choose(history, arguments.what):
        show(history, stage, diff=arguments.diff)
    if arguments.why:
        print("\n".join(f"# why not: {miss}" for stage in history for miss in stage.near_misses))
    for name, ratio in check.sqnr.items():
        print(f"# check {name}: {'exact' if ratio == float('inf') else f'{ratio:.1f} dB SQNR'}")
    if blame is not None:
        print(blame)
    if arguments.dump:
        history.dump(arguments.dump)
    return 0


def plain(doc: str) -> str:
    """A docstring without the markup of Sphinx: ``:class:`~qfx.graph.Origin``` is ``Origin``."""
    text = re.sub(r":\w+:`~(?:\w+\.)*(\w+)`", r"\1", doc)
    return re.sub(r":\w+:`([^`]+)`", r"\1", text).replace("``", "")


def split(text: str) -> list[str]:
    """Cut a list of passes at the commas outside of braces; line ends separate too."""
    parts, depth = [""], 0
    for char in text.replace("\n", ","):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def choose(history: qfx.History, what: str) -> list[qfx.Stage]:
    """The stages to print."""
    if what == "last":
        return [history[-1]]
    if what == "none":
        return []
    return [s for s in history if what == "all" or s.index == 0 or history.diff(s.index)]


def show(history: qfx.History, stage: qfx.Stage, *, diff: bool) -> None:
    """Print a stage, or what it changed; the capture is printed in full."""
    whole = not diff or stage.index == 0
    text = history.to_text(stage.index) if whole else history.diff(stage.index).to_text()
    print(f"{colored(text, sys.stdout.isatty())}\n")


if __name__ == "__main__":
    sys.exit(main())
