r"""Quantize the models of torchvision, timm and transformers, small and with random weights.

    python tools/zoo.py --out zoo-results                      # all of them: hours
    python tools/zoo.py --out zoo-results --library timm       # goes on where it was
    python tools/zoo.py --out zoo-results --only 'resnet*'     # some of them
    python tools/zoo.py --out zoo-results --again              # those that were not all right
    ONEDNN_MAX_CPU_ISA=AVX512_CORE python tools/zoo.py --out zoo-avx512 --short  # other kernels

Vision networks are quantized statically, transformers dynamically and some of them statically. Each
runs at the captured size and at three others, transformers with and without padding, and is
compared with the float model and the reference form. The folder gets ``rows.jsonl``, one line a
model as they end, and the tables ``zoo.md`` and ``zoo.tsv``. The exit status is 1 if a model is
neither all right nor explained (``tools/collection/explained.py``).
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "passes")]  # so that it runs from a checkout

from tools.collection import row as rows  # noqa: E402
from tools.collection.children import Limits, Lost, run_each  # noqa: E402
from tools.collection.explained import EXPLAINED, Explanation  # noqa: E402
from tools.collection.measure import measure  # noqa: E402
from tools.collection.row import Row  # noqa: E402
from tools.collection.subject import Entry  # noqa: E402

LIBRARIES = {
    name: f"tools.collection.{name}_models" for name in ("torchvision", "timm", "transformers")
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="zoo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results")
    found.add_argument(
        "--library", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), help="default: all"
    )
    found.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="of names, as in 'resnet*'"
    )
    found.add_argument("--method", nargs="+", choices=("static", "dynamic"), help="default: both")
    found.add_argument("--backend", default="auto", help="as for qfx.quantize (%(default)s)")
    found.add_argument("--workers", type=int, default=1, help="processes at a time (%(default)s)")
    found.add_argument(
        "--timeout", type=float, default=900.0, metavar="SECONDS", help="for a model (%(default)g)"
    )
    found.add_argument(
        "--memory", type=float, default=12.0, metavar="GIB", help="for a model (%(default)g)"
    )
    found.add_argument(
        "--again", action="store_true", help="try those again that were not all right"
    )
    found.add_argument(
        "--short", action="store_true", help="run at the captured size only, and time nothing"
    )
    found.add_argument("--list", action="store_true", help="print what would be tried, and stop")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    options = parser().parse_args(arguments)
    wanted = [entry for entry in entries(options.library) if _matches(entry, options)]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "rows.jsonl"
    known = rows.read(path)
    open_ones = [entry for entry in wanted if _is_open(known.get(entry.key), options.again)]
    if options.list:
        print("\n".join(entry.key for entry in open_ones))
        return 0
    results = run_each(
        functools.partial(measure, backend=options.backend, short=options.short),
        open_ones,
        workers=options.workers,
        limits=Limits(options.timeout, options.memory),
        preload=[*(LIBRARIES[name] for name in options.library), "tools.collection.warm"],
    )
    for number, (entry, result) in enumerate(results, 1):
        row = Row(entry.key, error=result.why) if isinstance(result, Lost) else result
        rows.append(row, path)
        known[row.key] = row
        print(f"{number:4}/{len(open_ones)}  {in_a_line(row)}", flush=True)
    tried = {entry.key: known[entry.key] for entry in wanted}
    write(tried, options.out)
    print(f"\n{totals(tried.values())}")
    for line in stale(tried):
        print(line)
    return int(any(unexplained(row) for row in tried.values()))


def entries(libraries: Iterable[str]) -> list[Entry]:
    """All entries of some libraries.

    Raises:
        SystemExit: one is not installed.
    """
    found: list[Entry] = []
    for name in libraries:
        try:
            module = importlib.import_module(LIBRARIES[name])
        except (ImportError, OSError, RuntimeError) as error:  # none, or made for another torch
            raise SystemExit(f"{error}; install {name}, or choose another --library") from error
        found += module.entries()
    return found


def unexplained(row: Row) -> list[rows.Trouble]:
    """The troubles of a model for which no explanation is listed."""
    explained = {each.trouble for each in explanations(row)}
    return [trouble for trouble in row.troubles if trouble not in explained]


def explanations(row: Row, table: Sequence[Explanation] = EXPLAINED) -> list[Explanation]:
    """Those of the table that are about a trouble that this model has."""
    return [each for each in table if each.trouble in row.troubles and each.is_about(row)]


def stale(tried: Mapping[str, Row], table: Sequence[Explanation] = EXPLAINED) -> list[str]:
    """Say of which explanations the trouble is gone, among models that were tried."""
    found = []
    for each in table:
        about = [row for row in tried.values() if each.names(row)]
        if about and not any(each in explanations(row, table) for row in about):
            gone = f"{each.trouble.value}: {each.pattern}"
            found.append(f"no longer {gone}; off the list with it, if CPUs without VNNI agree")
    return found


def remarks(row: Row) -> str:
    """What is to be said of a model: explanations, and troubles without one."""
    said = [f"{each.trouble.value}: {each.reason}" for each in explanations(row)]
    said += [f"{trouble.value.upper()}: {_what(row, trouble)}" for trouble in unexplained(row)]
    return "; ".join(said)


def _what(row: Row, trouble: rows.Trouble) -> str:
    return {
        rows.Trouble.FAILS: row.error,
        rows.Trouble.REFUSES: row.refused,
        rows.Trouble.REGIONS: row.regions,
        rows.Trouble.NOISY: f"{row.worst:.1f} dB, {row.shaken:.1f} with noise in float weights",
        rows.Trouble.KERNELS: f"{row.worst:.1f} dB, its reference {row.reference:.1f} dB",
        rows.Trouble.COVERAGE: ", not counted: ".join(filter(None, (row.left, row.uncounted))),
        rows.Trouble.SLOW: f"{row.seconds:.0f} s",
    }[trouble]


def in_a_line(row: Row) -> str:
    """A row for the terminal."""
    cells = rows.cells(row, remarks(row))
    name, method, figures, said = cells[0], cells[1], cells[2:-1], cells[-1]
    return f"{name:40} {method:8}{''.join(f'{cell:>9}' for cell in figures)}  {said}"


def totals(tried: Iterable[Row]) -> str:
    """How many models are all right, how many are explained, and how many are neither."""
    lines = []
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in tried:
        library, _, method = row.key.split("/")
        grouped.setdefault((library, method), []).append(row)
    for (library, method), group in grouped.items():
        good = sum(not row.troubles for row in group)
        bad = sum(bool(unexplained(row)) for row in group)
        ran = sum(not row.error for row in group)
        lines.append(
            f"{library}, {method}: {len(group)} models, {ran} quantized and run, {good} all right, "
            f"{len(group) - good - bad} explained, {bad} neither"
        )
    return "\n".join(lines)


def write(tried: Mapping[str, Row], out: Path) -> None:
    """Write the tables."""
    lines = [rows.cells(row, remarks(row)) for row in tried.values()]
    (out / "zoo.md").write_text(f"{totals(tried.values())}\n\n{rows.markdown(lines)}")
    (out / "zoo.tsv").write_text(rows.separated(lines))


def _matches(entry: Entry, options: argparse.Namespace) -> bool:
    named = any(fnmatch(entry.name, pattern) for pattern in options.only)
    return named and (options.method is None or entry.method in options.method)


def _is_open(row: Row | None, again: bool) -> bool:
    return row is None or (again and bool(row.troubles))


if __name__ == "__main__":
    sys.exit(main())
