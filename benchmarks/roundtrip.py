"""Does a saved model compute the same in a process that knows nothing of it?

    python -m benchmarks.roundtrip                        # the 14 models, every method
    python -m benchmarks.roundtrip resnet18 --methods static dynamic

Each model is quantized, saved, and loaded in a fresh process that imports qfx alone; its outputs on
the same inputs must be those of the model that was saved, bit for bit. The table gives the size of
the file beside that of the tensors it needs: at most 1.03 times these and 256 KiB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import qfx
from benchmarks import models
from benchmarks.roundtrip_worker import digest
from qfx.table import table

METHODS = ("static", "dynamic", "weight_only")
_MOST, _SLACK = 1.03, 256 << 10


@dataclass(frozen=True)
class Row:
    """One round trip.

    Attributes:
        model, method: what was saved.
        file, needed: bytes of the file, and of the tensors that the reference form reads.
        fault: what is wrong, or "".
    """

    model: str
    method: str
    file: int = 0
    needed: int = 0
    fault: str = ""


def needed_bytes(qmodel: qfx.QuantizedModel) -> int:
    """Bytes of the distinct tensors of the reference form."""
    reference: nn.Module = qmodel.reference
    tensors = (*reference.parameters(), *reference.buffers())
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def run(name: str, method: str, folder: Path) -> Row:
    """Quantize, save, load elsewhere, compare."""
    inputs = models.images(name, 2, seed=7)
    try:
        qmodel = qfx.quantize(models.build(name), inputs, method=method, check=False)
    except qfx.CoverageError:
        return Row(name, method, fault="-")
    path, data = folder / f"{name}.{method}.qfx", folder / "inputs.pt"
    qfx.save(qmodel, path)
    torch.save(inputs, data)
    with torch.inference_mode():
        expected = digest(qmodel(inputs))
    command = [sys.executable, "-m", "benchmarks.roundtrip_worker", str(path), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    file, needed = path.stat().st_size, needed_bytes(qmodel)
    path.unlink()
    return Row(name, method, file, needed, _fault(done, expected, file, needed))


def _fault(done: subprocess.CompletedProcess[str], expected: str, file: int, needed: int) -> str:
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    if done.stdout.strip() != expected:
        return "other outputs"
    return "too large" if file > _MOST * needed + _SLACK else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.roundtrip", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(models.CLASSIFIERS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    given = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.models:
            for method in given.methods:
                rows.append(run(name, method, Path(folder)))
                print(*_cells(rows[-1]), flush=True)
    print()
    header = ["model", "method", "file", "tensors", "outputs"]
    print(table(header, list(map(_cells, rows)), right=("file", "tensors")))
    return int(any(row.fault not in ("", "-") for row in rows))


def _cells(row: Row) -> list[str]:
    said = {"": "equal", "-": "nothing to quantize"}.get(row.fault, row.fault)
    return [row.model, row.method, f"{row.file:,}", f"{row.needed:,}", said]


if __name__ == "__main__":
    sys.exit(main())
