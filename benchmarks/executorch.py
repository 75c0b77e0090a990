"""How much of a model does ExecuTorch run in integers through XNNPACK, and how right?

    python -m venv --system-site-packages .venv-executorch
    .venv-executorch/bin/pip install -r benchmarks/requirements-executorch.txt
    .venv-executorch/bin/python -m benchmarks.executorch               # the three models, static
    .venv-executorch/bin/python -m benchmarks.executorch bert_layer --methods static dynamic
    .venv-executorch/bin/python -m benchmarks.executorch resnet18 --out models     # keeps the .pte

Each model is quantized for backend xnnpack, exported, partitioned and lowered to a ``.pte``, which
ExecuTorch's runtime runs on this machine: the file and delegate of ARM, with other kernels of
XNNPACK. Its outputs are compared with those of the reference graph.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

import qfx
from benchmarks import encoder, models
from qfx.numerics.measures import error_of
from qfx.table import byte_count, table

MODELS = ("resnet18", "mobilenet_v2", "bert_layer")
METHODS = ("static", "dynamic")
_LAYERS = ("convolution", "linear", "addmm", "mm")
_TOKENS = 32


@dataclass(frozen=True)
class Lowered:
    """A program as ExecuTorch has it.

    Attributes:
        data: the bytes of the ``.pte`` file.
        delegates: how many pieces XNNPACK runs.
        taken, left: nodes that XNNPACK took, and those that ExecuTorch's own kernels run.
        integer_layers, layers: layers that XNNPACK runs in integers, and all.
    """

    data: bytes
    delegates: int
    taken: int
    left: int
    integer_layers: int
    layers: int


def lower(program: torch.export.ExportedProgram) -> Lowered:
    """Partition a program for XNNPACK, and write what ExecuTorch runs."""
    import executorch.kernels.quantized  # noqa: F401 - what XNNPACK leaves needs these
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    outer = edge.exported_program().graph_module
    inner = [c.original_module.graph for c in outer.children() if hasattr(c, "original_module")]
    taken = [node for graph in inner for node in _calls(graph)]
    left = [node for node in _calls(outer.graph) if "executorch_call_delegate" not in _name(node)]
    layers = [node for node in (*taken, *left) if _operation(node) in _LAYERS]
    return Lowered(
        bytes(edge.to_executorch().buffer),
        len(inner),
        len(taken),
        len(left),
        sum(_in_integers(node) for node in taken),
        len(layers),
    )


def run(data: bytes, inputs: Tensor) -> Tensor:
    """What ExecuTorch's runtime makes of a ``.pte`` with one input."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(data).load_method("forward")
    result: Tensor = method.execute([inputs])[0]
    return result


def _calls(graph: fx.Graph) -> Iterator[fx.Node]:
    for node in graph.nodes:
        if node.op == "call_function" and "getitem" not in _name(node):
            yield node


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _operation(node: fx.Node) -> str:
    """``convolution`` of ``aten.convolution.default``."""
    return _name(node).replace("aten.", "").partition(".")[0]


def _in_integers(node: fx.Node) -> bool:
    """Whether XNNPACK runs a layer in integers: its input and weight are dequantized."""
    if _operation(node) not in _LAYERS:
        return False
    dequantized = [n for n in node.all_input_nodes if "dequantize" in _name(n)]
    return len(dequantized) >= 2


def build(name: str) -> nn.Module:
    """A model; bert_layer is one layer of BERT-base's shape."""
    if name != "bert_layer":
        return models.build(name)
    torch.manual_seed(0)
    return encoder.Layer().eval()


def inputs(name: str, batch: int, seed: int) -> Tensor:
    """Standard-normal inputs."""
    given = models.images(name, batch, seed=seed)
    return given[:, :_TOKENS].contiguous() if name == "bert_layer" else given


def row(name: str, method: str, out: Path | None) -> list[str]:
    """Quantize, export, lower, run and compare one model."""
    model, x = build(name), inputs(name, 1, 7)
    batches = [inputs(name, 2, seed) for seed in (1000, 1001)]
    qmodel = qfx.quantize(model, x, method=method, backend="xnnpack", calibration_data=batches)
    lowered = lower(qfx.export_pt2e(qmodel, x))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}-{method}.pte").write_bytes(lowered.data)
    found = run(lowered.data, x)
    with torch.no_grad():
        reference, expected = qmodel.reference(x), model(x)
    return [
        name,
        method,
        f"{lowered.taken} of {lowered.taken + lowered.left}",
        f"{lowered.integer_layers} of {lowered.layers}",
        str(lowered.delegates),
        f"{error_of(reference, found).sqnr:.1f}",
        f"{error_of(expected, found).sqnr:.1f}",
        f"{error_of(expected, reference).sqnr:.1f}",
        byte_count(len(lowered.data)),
    ]


HEADER = (
    *("model", "method", "nodes in XNNPACK", "layers in integers", "delegates"),
    *("dB from reference", "dB from float", "reference from float", ".pte"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.executorch", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=("static",))
    parser.add_argument("--out", type=Path, help="folder to keep the .pte files in")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows: list[list[str]] = []
    for name in given.models:
        for method in given.methods:
            rows.append(row(name, method, given.out))
            print(*rows[-1], sep="  ", flush=True)
    print()
    print(table(HEADER, rows, right=HEADER[2:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
