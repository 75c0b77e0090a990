"""Write docs/ops.md: the defaults, every operation, its spellings, and what backends do with it.

    python tools/ops_page.py [--check]

The page is made from the tables that the passes read (``qfx/vocab`` and ``qfx/backends/``), so
it says what they do. ``--check`` writes nothing, and fails if the page is out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "passes")]  # so that it runs from a checkout

from qfx import vocab  # noqa: E402
from qfx.backends import NAMES, TARGETS, resolve_backend  # noqa: E402
from qfx.backends.base import Backend, Demand, KernelRule, Output  # noqa: E402
from qfx.backends.defaults import defaults  # noqa: E402
from qfx.export.onnx.table import EMITTERS  # noqa: E402
from qfx.export.pt2e.operators_of import limits_of, operators_of  # noqa: E402
from qfx.graph.source import qualified_name  # noqa: E402
from qfx.quant.spec import QuantSpec  # noqa: E402
from qfx.vocab import Kind, OpDef  # noqa: E402

PAGE = ROOT / "docs" / "ops.md"
COMMAND = "python tools/ops_page.py"

HEAD = f"""# Operations and kernels

Made by `{COMMAND}` from the tables that the passes read; don't edit it.

A spelling not listed here is left as it was written, in float, with a reason in the report. A
trailing underscore or `inplace=True` is the same operation. `torch.addmm`, `Tensor.addmm`, and
`x @ w` with a constant matrix `w` are read as `linear`; `torch.einsum` as `matmul` where it is one.
In the columns of the backends:

- **S D W**: for which methods there is a kernel: static, dynamic, weight-only.
- **own**: the result has qparams of its own, and is always integers. **own or float**: float where
  the reader wants float. **shares**: the result has the qparams of the input, and moves integers
  only where that costs nothing. **fixed**: qparams known from the mathematics.
- **+ relu**: what is computed in the same kernel (post-ops; `add` is a residual addition).
- An empty cell: no kernel, the operation runs in float.

`xnnpack` is a target of exports ([pt2e.md](pt2e.md)): ExecuTorch runs the kernels, and here its
models run in their reference form.

**ONNX**: the operators that `qfx.export_onnx` writes, and what they can't say ([onnx.md](onnx.md)).
**pt2e**: the same of `qfx.export_pt2e`, of `torch.ops.aten`.

Activations are `uint8` (`xnnpack`: `int8`), affine, per tensor; weights `int8`, symmetric, per
tensor or per output channel (embeddings: per row), where a backend has kernels. `reference` takes
any `QuantSpec`: `int8`, `int16`, `int32`, fewer bits by `quant_min`/`quant_max`, groups, powers of
two.
"""

_REDUCED = """On CPUs without VNNI, whose kernels saturate sums of two products, activations of
`x86` and `fbgemm` have `quant_max=127`. Affine rows have an `offset`: their zero
point is any number.
"""

_TITLES = {
    Kind.MATMUL: "Multiply-accumulate",
    Kind.LOOKUP: "Lookups",
    Kind.ARITHMETIC: "Arithmetic",
    Kind.ACTIVATION: "Activations",
    Kind.NORM: "Normalization",
    Kind.POOL: "Pools and interpolation",
    Kind.REDUCE: "Reductions",
    Kind.SHAPE: "Shapes",
    Kind.JOIN: "Joins",
}
_OUTPUTS = {
    Output.INTEGER: "own",
    Output.EITHER: "own or float",
    Output.SHARED: "shares",
    Output.FIXED: "fixed",
}


def page() -> str:
    """The whole page."""
    backends = [resolve_backend(name) for name in (*NAMES, *TARGETS)]
    return "\n".join([HEAD, *_defaults(), *_sections(backends)])


def _defaults() -> Iterator[str]:
    """The default QConfig of each method, with all 8 bits whatever this machine has."""
    yield "## Defaults\n"
    yield "What `qfx.get_default_qconfig(backend, method)` gives, the same for every backend but"
    yield "`xnnpack`, which has `int8` where it says `uint8`:\n"
    yield "| method | activations | weights | rows of embeddings that no layer shares |"
    yield "|---|---|---|---|"
    for method, qconfig in defaults(reduce_range=False).items():
        specs = (qconfig.activation, qconfig.weight, qconfig.rows)
        yield f"| `{method}` | {' | '.join(map(_spec, specs))} |"
    yield f"\n{_REDUCED}"


def _spec(spec: QuantSpec | None) -> str:
    return "float" if spec is None else f"`{spec}`"


def _sections(backends: Sequence[Backend]) -> Iterator[str]:
    for kind, title in _TITLES.items():
        yield f"## {title}\n"
        yield f"| operation | spellings | {' | '.join(b.name for b in backends)} | ONNX | pt2e |"
        yield "|---|---|" + "---|" * (len(backends) + 2)
        for op in vocab.ops():
            if op.kind is kind:
                cells = (*(_cell(backend.rows(op)) for backend in backends), _onnx(op), _pt2e(op))
                yield f"| `{op.name}` | {_spellings(op)} | {' | '.join(cells)} |"
        yield ""


def _spellings(op: OpDef) -> str:
    modules = (f"nn.{m.__name__}" for m in op.modules)
    functions = (_function(f) for f in op.functions)
    methods = (f"Tensor.{m}" for m in op.methods)
    names = dict.fromkeys((*modules, *functions, *methods))
    return ", ".join(f"`{name}`" for name in names) or "made by qfx"


def _function(function: Callable[..., Any]) -> str:
    """As people write it: ``F.relu``, ``torch.add``."""
    name = function.__name__
    places = {"F": F, "torch": torch}  # wherever a version of torch defines it
    found = (place for place, module in places.items() if getattr(module, name, None) is function)
    place = next(found, None)
    return f"{place}.{name}" if place else qualified_name(function)


def _cell(rows: Sequence[KernelRule]) -> str:
    if not rows:
        return ""
    rule = rows[0]
    parts = [f"`{rule.kernel}`", " ".join(row.method[0].upper() for row in rows)]
    if rule.method == "static":
        follows = rule.demand is not Demand.ASKS and rule.output is not Output.SHARED
        parts.append(_OUTPUTS[rule.output] + (", if its input is integers" if follows else ""))
    parts += [f"+ {' '.join(chain)}" for chain in rule.post]
    return "<br>".join(parts)


def _onnx(op: OpDef) -> str:
    """What a file is written with, and what it can't say."""
    row = EMITTERS.get(op)
    if row is None:
        return "" if op.kind is Kind.PARAMETER else _written((), "all of it")
    return _written(row.operators, row.limits)


def _pt2e(op: OpDef) -> str:
    return _written(operators_of(op), limits_of(op))


def _written(operators: Sequence[str], limits: str) -> str:
    shown = " ".join(f"`{name}`" for name in operators)
    return "<br>".join(part for part in (shown, limits and f"not: {limits}") if part)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    made = page()
    if parser.parse_args(arguments).check:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == made
        if not current:
            print(f"{PAGE.relative_to(ROOT)} is out of date: run {COMMAND}")
        return 0 if current else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(made, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
