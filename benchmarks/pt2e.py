"""Does a model that went through torch.export compute the same?

    python -m benchmarks.pt2e                           # the 14 models, static
    python -m benchmarks.pt2e resnet18 --methods static dynamic weight_only

Each model is quantized, exported with a free batch, saved, loaded, and run on a batch of another
size. Its outputs must be those of the reference graph with the operators of quantized_decomposed in
it, bit for bit. Those that quantize round otherwise than the reference graph where a value lies
halfway between codes: on the same values, codes must be at most a step off, and with the reference
graph's own rounding in their place outputs must be equal. The table has the share of codes that are
off, and what comes of it: the outputs against those of the reference graph.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import qfx
from benchmarks import models
from qfx import vocab
from qfx.export.pt2e.graph import ProgramModule, Trace
from qfx.export.pt2e.table import EMITTERS
from qfx.graph.interpret import NamedInterpreter
from qfx.numerics.measures import error_of
from qfx.table import table

METHODS = ("static", "dynamic", "weight_only")


@dataclass(frozen=True)
class Row:
    """One model, exported and loaded again.

    Attributes:
        model, method: what was exported.
        sqnr: signal-to-noise ratio in dB against the reference graph; inf where equal.
        off: how many codes in a million are rounded otherwise than by the reference graph.
        operators: of quantized_decomposed in the program.
        integers: bytes of integer tensors in its state, in percent.
        fault: what is wrong, or "".
    """

    model: str
    method: str
    sqnr: float = 0.0
    off: float = 0.0
    operators: int = 0
    integers: float = 0.0
    fault: str = ""


_ROUND = (vocab.QUANTIZE, vocab.DYNAMIC_QPARAMS)
_OF_CODES = {op: emitter for op, emitter in EMITTERS.items() if op not in _ROUND}
"""What reads codes; what makes them stays that of the reference graph."""


class _Rounding(NamedInterpreter):
    """Runs a reference graph, and quantizes each of its values by their operators as well."""

    codes = off = most = 0

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation; compare the codes."""
        made = super().call_function(target, args, kwargs)
        if target is vocab.QUANTIZE:
            theirs = EMITTERS[vocab.QUANTIZE](*args, **kwargs)
            steps = (theirs.int() - made.int()).abs()
            self.codes += steps.numel()
            self.off += int(steps.count_nonzero())
            self.most = max(self.most, int(steps.max()))
        return made


def run(name: str, method: str) -> Row:
    """Quantize, export, save, load, compare."""
    inputs, others = models.images(name, 2, seed=7), models.images(name, 3, seed=8)
    try:
        qmodel = qfx.quantize(models.build(name), inputs, method=method, check=False)
    except qfx.CoverageError:
        return Row(name, method, fault="-")
    try:
        made = qfx.export_pt2e(qmodel, inputs, ({0: torch.export.Dim("batch")},))
    except qfx.ExportError as error:
        return Row(name, method, fault=str(error).splitlines()[0])
    file = io.BytesIO()
    torch.export.save(made, file)
    file.seek(0)
    loaded = torch.export.load(file)
    reference = qmodel.reference
    (argument,) = reference.graph.find_nodes(op="placeholder")
    rounding = _Rounding(reference, {str(argument.target): others})
    with torch.no_grad():
        expected, found = rounding.run(), loaded.module()(others)
        traced = ProgramModule(reference, Trace())(others)
        rounded = ProgramModule(reference, Trace(), _OF_CODES)(others)
    kinds = Counter(str(node.target).split(".")[0] for node in loaded.graph.nodes)
    sizes = Counter[bool]()
    for tensor in loaded.state_dict.values():
        sizes[tensor.dtype in (torch.int8, torch.uint8)] += tensor.nbytes
    fault = "other outputs" if not torch.equal(found, traced) else ""
    if not torch.equal(rounded, expected):
        fault = "something else than rounding differs"
    return Row(
        name,
        method,
        error_of(expected, found).sqnr,
        1e6 * rounding.off / max(1, rounding.codes),
        kinds["quantized_decomposed"],
        100 * sizes[True] / sizes.total(),
        fault or ("codes differ by more than a step" if rounding.most > 1 else ""),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.pt2e", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(models.CLASSIFIERS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=("static",))
    given = parser.parse_args(arguments)
    rows = []
    for name in given.models:
        for method in given.methods:
            rows.append(run(name, method))
            print(*_cells(rows[-1]), flush=True)
    print()
    header = ["model", "method", "outputs", "SQNR dB", "off in 1e6", "operators", "% integers"]
    print(table(header, list(map(_cells, rows)), right=header[3:]))
    return int(any(row.fault not in ("", "-") for row in rows))


def _cells(row: Row) -> list[str]:
    if row.fault:
        said = "nothing to quantize" if row.fault == "-" else row.fault
        return [row.model, row.method, said, "", "", "", ""]
    numbers = [f"{row.sqnr:.1f}", f"{row.off:.2f}", str(row.operators), f"{row.integers:.1f}"]
    return [row.model, row.method, "as its operators", *numbers]


if __name__ == "__main__":
    sys.exit(main())
