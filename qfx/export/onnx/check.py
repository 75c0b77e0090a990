"""Holding an ONNX file, as ONNX Runtime runs it, against the quantized model that it is of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qfx import vocab
from qfx.errors import ConfigError
from qfx.export.onnx.graph import named_outputs
from qfx.export.onnx.packages import require
from qfx.numerics.measures import error_of
from qfx.runtime.quantized import QuantizedModel
from qfx.table import table
from qfx.vocab import is_op

INTEGER_KERNELS = (
    "QLinear",
    "QGemm",
    "Integer",
    "DynamicQuantize",
    "NBits",
    "GatherBlockQuantized",
)
"""What ONNX Runtime's operators on integers have in their names."""


@dataclass(frozen=True)
class OutputCheck:
    """One output of a file against that of the model.

    Attributes:
        name: of the output.
        shape: of what it yielded.
        sqnr: signal-to-noise ratio in dB; inf where the two are equal.
        max_error: largest difference.
        max_steps: the same in steps of the output's codes; None where it is no codes' value.
    """

    name: str
    shape: tuple[int, ...]
    sqnr: float
    max_error: float
    max_steps: float | None


@dataclass(frozen=True)
class OnnxCheck:
    """What ONNX Runtime makes of a file; it prints as a table.

    Attributes:
        outputs: a row for each.
        kernels: how often each operator stands in ONNX Runtime's optimized graph.
    """

    outputs: tuple[OutputCheck, ...]
    kernels: Mapping[str, int]

    @property
    def sqnr(self) -> float:
        """That of the worst output."""
        return min(row.sqnr for row in self.outputs)

    @property
    def integer_kernels(self) -> int:
        """How many operators of the optimized graph compute with integers."""
        return sum(self.integers.values())

    @property
    def integers(self) -> dict[str, int]:
        """Those operators, and how often each stands there."""
        kinds = self.kernels.items()
        return {k: n for k, n in kinds if any(part in k for part in INTEGER_KERNELS)}

    def __str__(self) -> str:
        rows = [
            [
                row.name,
                "x".join(map(str, row.shape)),
                f"{row.sqnr:.1f}",
                f"{row.max_error:.3g}",
                "" if row.max_steps is None else f"{row.max_steps:.1f}",
            ]
            for row in self.outputs
        ]
        header = ["output", "shape", "SQNR dB", "max error", "max steps"]
        counts = ", ".join(f"{count} {kind}" for kind, count in self.integers.items())
        return f"{table(header, rows, right=header[2:])}\ninteger kernels: {counts or 'none'}"


def check_onnx(qmodel: QuantizedModel, path: str | os.PathLike[str], inputs: Any) -> OnnxCheck:
    """Run a file with ONNX Runtime, and compare with what the quantized model means.

    Args:
        qmodel: the model that the file was made of; its reference graph is run.
        path: of the file.
        inputs: as the model takes them: a tensor, a tuple of positional arguments, or a mapping of
            arguments by name.

    Returns:
        The differences; ``print`` shows a table.

    Raises:
        ConfigError: the file has other inputs or outputs than the model.
        BackendError: ONNX Runtime is not installed (``pip install qfx[onnx]``).
    """
    arguments = by_name(qmodel.reference, inputs)
    with torch.no_grad():
        expected = qmodel.reference(**arguments)
    session, kernels = open_session(os.fspath(path))
    made = run(session, feeds(qmodel.reference, arguments))
    pairs = [(n, v) for n, v in named_outputs(expected) if isinstance(v, Tensor)]
    if len(pairs) != len(made):
        raise ConfigError(
            f"{path} has {len(made)} outputs, the model {len(pairs)}: it was made of another model"
        )
    steps = output_steps(qmodel.reference)
    rows = (
        _row(name, want, have, steps[i] if i < len(steps) else None)
        for i, ((name, want), have) in enumerate(zip(pairs, made, strict=True))
    )
    return OnnxCheck(tuple(rows), kernels)


def _row(name: str, want: Tensor, have: Tensor, step: float | None) -> OutputCheck:
    error = error_of(want.float(), have.float())
    steps = None if step is None else error.max_error / step
    return OutputCheck(name, tuple(have.shape), error.sqnr, error.max_error, steps)


def by_name(reference: fx.GraphModule, inputs: Any) -> dict[str, Any]:
    """The arguments of the model by name."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    names = [str(node.target) for node in reference.graph.find_nodes(op="placeholder")]
    if len(given) > len(names):
        raise ConfigError(f"the model takes {len(names)} arguments, not {len(given)}")
    return dict(zip(names, given, strict=False))


def feeds(reference: fx.GraphModule, arguments: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among the arguments, in the order of the inputs."""
    found: list[Tensor] = []
    for node in reference.graph.find_nodes(op="placeholder"):
        value = arguments.get(str(node.target).lstrip("*"))
        found += [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def output_steps(reference: fx.GraphModule) -> list[float | None]:
    """The step of each output that is the value of codes, in order."""
    (output,) = reference.graph.find_nodes(op="output")
    leaves = pytree.tree_leaves(output.args)
    return [_step(leaf) for leaf in leaves if isinstance(leaf, fx.Node)]


def _step(node: fx.Node) -> float | None:
    if not is_op(node, vocab.DEQUANTIZE):
        return None
    scale = vocab.bound(node)["scale"]
    return scale if isinstance(scale, float) else None


# -- ONNX Runtime ----------------------------------------------------------------------------------
def open_session(path: str) -> tuple[Any, dict[str, int]]:
    """A session on the CPU, and how often each operator stands in its optimized graph."""
    runtime, onnx = require("onnxruntime"), require("onnx")
    with TemporaryDirectory() as folder:
        optimized = str(Path(folder) / "optimized.onnx")
        options = runtime.SessionOptions()
        options.optimized_model_filepath = optimized
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # its warning that the optimized graph fits this machine
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized, load_external_data=False).graph
    return session, dict(Counter(node.op_type for node in graph.node).most_common())


def run(session: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a file."""
    inputs = session.get_inputs()
    if len(inputs) != len(tensors):
        raise ConfigError(
            f"the file takes {len(inputs)} tensors, {', '.join(i.name for i in inputs)}; "
            f"{len(tensors)} were given"
        )
    given = {i.name: t.detach().cpu().numpy() for i, t in zip(inputs, tensors, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, given)]
