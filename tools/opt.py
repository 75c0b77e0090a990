r"""Run passes on a model and print the IR after each, as compilers' ``opt`` tools do.

    python tools/opt.py --list
    python tools/opt.py torchvision.models:resnet18 --shape 1,3,224,224 \
        --passes 'canonicalize, fuse-conv-bn' --diff
    python tools/opt.py my.net:build --shape 1,3,32,32 --backend x86 \
        --passes 'canonicalize, fuse-conv-bn, fuse-post-ops' --print last --check

    python tools/opt.py my.net:build --shape 1,3,32,32 --load my_passes.py \
        --passes 'canonicalize, my-pass{limit=3}, my.passes:Other'

Passes are written as they print, options in braces: ``place-observers{fake_quant=true}``. Those
that are not installed come from a file (``--load``), or are named ``module:Class``. With
``calibrate`` among them, as in the text of ``qfx.pipelines.static()``, the model is quantized with
them, and calibrated on the inputs.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "passes")]  # so that it runs from a checkout

from torch import Tensor, nn  # noqa: E402

import qfx  # noqa: E402
from qfx.backends import resolve_backend  # noqa: E402
from qfx.framework.instruments import Instrument  # noqa: E402
from qfx.framework.option_types import hints_of, text_of  # noqa: E402
from qfx.framework.pass_text import format_value, steps  # noqa: E402
from qfx.verification.stages import NumericCheck  # noqa: E402
from tools.loading import add_model_arguments, colored, load  # noqa: E402

WHAT = ("all", "changed", "last", "none")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="opt.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--list", action=_ListPasses, nargs=0, help="list installed passes and exit")
    found.add_argument(
        "--load",
        action=_LoadFile,
        default=[],
        metavar="FILE.py",
        help="passes of a file, which need not be installed; may be repeated",
    )
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
    def __call__(
        self, command_line: argparse.ArgumentParser, arguments: argparse.Namespace, *ignored: object
    ) -> None:
        kinds = {name: qfx.get_pass(name) for name in qfx.list_passes()}
        kinds.update((kind.name, kind) for kind in arguments.load or ())
        for name, kind in sorted(kinds.items()):
            doc = (kind.__doc__ or "").strip().partition("\n")[0]
            print(f"{name:24}  {plain(doc)}".rstrip())
            for line in facts_of(kind):
                print(f"{'':24}    {line}")
        command_line.exit()


class _LoadFile(argparse.Action):
    def __call__(
        self,
        command_line: argparse.ArgumentParser,
        arguments: argparse.Namespace,
        values: object,
        *ignored: object,
    ) -> None:
        arguments.load = [*(arguments.load or ()), *passes_of(Path(str(values)))]


def facts_of(kind: type[qfx.Pass]) -> Iterator[str]:
    """The levels and options of a pass, a line each."""
    levels = ((word, getattr(kind, word)) for word in ("requires", "produces"))
    said = ", ".join(f"{word} {level}" for word, level in levels if level is not None)
    if said:
        yield said
    hints = hints_of(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        told = "" if default is dataclasses.MISSING else f" = {format_value(default)}"
        yield f"{field.name}: {text_of(hints.get(field.name, field.type))}{told}"


def passes_of(path: Path) -> list[type[qfx.Pass]]:
    """The passes that a file defines.

    Raises:
        SystemExit: it can't be read, or defines none.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"--load {path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    own = (found for found in vars(module).values() if _is_own(found, path.stem))
    kinds = [kind for kind in own if kind.name]
    if not kinds:
        raise SystemExit(f"--load {path}: it defines no pass with a name")
    return kinds


def _is_own(found: object, module: str) -> bool:
    return isinstance(found, type) and issubclass(found, qfx.Pass) and found.__module__ == module


def finder(loaded: Sequence[type[qfx.Pass]]) -> Callable[[str], type[qfx.Pass]]:
    """What finds the class of a pass: among those loaded, as ``module:Class``, or installed."""
    own = {kind.name: kind for kind in loaded}

    def find(name: str) -> type[qfx.Pass]:
        if name in own:
            return own[name]
        module, colon, attribute = name.partition(":")
        if not colon:
            return qfx.get_pass(name)
        sys.path.insert(0, str(Path.cwd()))
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise qfx.ConfigError(f"cannot load the pass {name}: {error}") from error
        finally:
            sys.path.remove(str(Path.cwd()))
        if not (isinstance(kind, type) and issubclass(kind, qfx.Pass)):
            raise qfx.ConfigError(f"{name} is no pass: {kind!r}")
        return kind

    return find


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    arguments = parser().parse_args(argv)
    model, inputs = load(arguments)
    check = NumericCheck()
    try:
        history = _run(arguments, model, inputs, [check] if arguments.check else [])
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


def _run(
    arguments: argparse.Namespace,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    instruments: Sequence[Instrument],
) -> qfx.History:
    """Run the passes; with ``calibrate`` among them quantize with them."""
    find, texts = finder(arguments.load), steps(arguments.passes)
    if "calibrate" in texts:
        qmodel = qfx.quantize(
            model,
            inputs,
            pipeline=qfx.parse_pipeline(arguments.passes, find),
            backend=arguments.backend or "auto",
            instruments=instruments,
        )
        return qmodel.history
    settings = [resolve_backend(arguments.backend)] if arguments.backend else []
    passes = [qfx.parse_pass(text, find) for text in texts]
    _, history = qfx.run_passes(
        model, passes, inputs, settings=settings, instruments=instruments, check=False
    )
    return history


def plain(doc: str) -> str:
    """A docstring without the markup of Sphinx: ``:class:`~qfx.graph.Origin``` is ``Origin``."""
    text = re.sub(r":\w+:`~(?:\w+\.)*(\w+)`", r"\1", doc)
    return re.sub(r":\w+:`([^`]+)`", r"\1", text).replace("``", "")


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
