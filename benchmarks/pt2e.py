"""Does a model that went through torch.export compute the same?

    python -m benchmarks.pt2e                           # the 14 models, static
    python -m benchmarks.pt2e resnet18 --methods static dynamic weight_only

Each model is quantized, exported with a free batch, saved, loaded, and run on a batch of another
size. The table compares its outputs with those of the reference graph, and of the model itself.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import qfx
from benchmarks import models
from qfx.numerics.measures import error_of
from qfx.table import table

METHODS = ("static", "dynamic", "weight_only")
_LEAST = 35.0


@dataclass(frozen=True)
class Row:
    """One model, exported and loaded again.

    Attributes:
        model, method: what was exported.
        equal: whether outputs are those of the reference graph, bit for bit.
        sqnr: signal-to-noise ratio in dB against the reference graph.
        operators: of quantized_decomposed in the program.
        integers: bytes of integer tensors in its state, in percent.
        fault: what is wrong, or "".
    """

    model: str
    method: str
    equal: bool = False
    sqnr: float = 0.0
    operators: int = 0
    integers: float = 0.0
    fault: str = ""


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
    with torch.no_grad():
        expected, found = qmodel.reference(others), loaded.module()(others)
    kinds = Counter(str(node.target).split(".")[0] for node in loaded.graph.nodes)
    sizes = Counter[bool]()
    for tensor in loaded.state_dict.values():
        sizes[tensor.dtype in (torch.int8, torch.uint8)] += tensor.nbytes
    sqnr = error_of(expected, found).sqnr
    return Row(
        name,
        method,
        torch.equal(expected, found),
        sqnr,
        kinds["quantized_decomposed"],
        100 * sizes[True] / sizes.total(),
        "" if sqnr >= _LEAST else "other outputs",
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
    header = ["model", "method", "outputs", "SQNR dB", "q/dq operators", "% of state in integers"]
    print(table(header, list(map(_cells, rows)), right=header[3:]))
    return int(any(row.fault not in ("", "-") for row in rows))


def _cells(row: Row) -> list[str]:
    if row.fault:
        said = "nothing to quantize" if row.fault == "-" else row.fault
        return [row.model, row.method, said, "", "", ""]
    said = "equal" if row.equal else "agree"
    shares = [f"{row.sqnr:.1f}", str(row.operators), f"{row.integers:.1f}"]
    return [row.model, row.method, said, *shares]


if __name__ == "__main__":
    sys.exit(main())
