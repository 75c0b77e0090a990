"""Holding an ONNX file, as ONNX Runtime runs it, against the quantized model that it is of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.errors import ConfigError, FormatError
from qfx.export.arguments import check_quantized
from qfx.export.onnx import model
from qfx.export.onnx.arguments import by_name, check_feeds, feeds, of_file
from qfx.export.onnx.graph import named_outputs
from qfx.export.onnx.packages import require
from qfx.export.onnx.site_checks import SiteCheck, given_codes, moved_by_an_ulp, summary
from qfx.graph.interpret import NamedInterpreter
from qfx.numerics.measures import error_of
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import qparams_of
from qfx.runtime.quantized import QuantizedModel
from qfx.table import table
from qfx.torch_private import pytree
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
        own: SQNR in dB of the model against itself, each number that it rounds moved to the next
            float; None unless it was asked for by site.
        sites: how codes differ that are made of the model's own, worst first; likewise.
    """

    outputs: tuple[OutputCheck, ...]
    kernels: Mapping[str, int]
    own: float | None = None
    sites: tuple[SiteCheck, ...] = ()

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
        """The integer operators, and how often each stands there."""
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
        lines = [table(header, rows, right=header[2:]), f"integer kernels: {counts or 'none'}"]
        return "\n".join([*lines, *self._by_site()])

    def _by_site(self) -> Iterator[str]:
        if self.own is None:
            return
        moved = "each number that it rounds moved to the next float"
        yield f"the model against itself, {moved}: {self.own:.1f} dB"
        yield summary(self.sites)


def check_onnx(
    qmodel: QuantizedModel, path: str | os.PathLike[str], inputs: object, *, by_site: bool = False
) -> OnnxCheck:
    """Run a file with ONNX Runtime, and compare with what the quantized model means.

    Args:
        qmodel: the model that the file was made of; its reference graph is run.
        path: of the file, or what ``export_onnx`` returned.
        inputs: as the model takes them: a tensor, a tuple of positional arguments, or a mapping of
            arguments by name.
        by_site: whether to look at each site, too, given the model's own codes, and at what the
            model makes of the smallest differences: that tells what the file does otherwise from
            what the model's depth makes of it.

    Returns:
        The differences; ``print`` shows a table.

    Raises:
        ConfigError: an argument is wrong, or the file has other inputs or outputs than the model.
        FormatError: ONNX Runtime can't load the file.
        BackendError: ONNX Runtime is not installed (``pip install qfx[onnx]``).
    """
    check_quantized(qmodel, "check_onnx")
    session, kernels = open_session(_file(path))
    arguments = by_name(qmodel.reference, inputs, called="inputs", takes=of_file(session))
    checked = compare(qmodel, session, arguments, kernels)
    if not by_site:
        return checked
    own = moved_by_an_ulp(qmodel.reference, arguments)
    return replace(checked, own=own, sites=_sites(qmodel.reference, _file(path), arguments))


def _sites(
    reference: fx.GraphModule, path: str, arguments: Mapping[str, Any]
) -> tuple[SiteCheck, ...]:
    """How the codes differ that ONNX Runtime makes of the model's own."""
    given = given_codes(reference, path, arguments)
    with TemporaryDirectory() as folder:
        cut = str(Path(folder) / "cut.onnx")
        model.save(given.model, cut)
        session, _ = open_session(cut)
    made = run(session, [*feeds(reference, arguments), *given.codes.values()])
    names = [output.name for output in session.get_outputs()]
    return given.compare(dict(zip(names, made, strict=True)))


def compare(
    qmodel: QuantizedModel,
    session: object,
    arguments: Mapping[str, object],
    kernels: Mapping[str, int],
) -> OnnxCheck:
    """Run a session beside the reference graph, on arguments by name.

    Raises:
        ConfigError: the file has other inputs or outputs than the model.
    """
    tensors = feeds(qmodel.reference, arguments)
    check_feeds(session, tensors)
    with torch.no_grad():
        expected = NamedInterpreter(qmodel.reference, arguments).run()
    made = run(session, tensors)
    pairs = [(n, v) for n, v in named_outputs(expected) if isinstance(v, Tensor)]
    if len(pairs) != len(made):
        raise ConfigError(
            f"the file has {len(made)} outputs, the model {len(pairs)}: it was made of "
            "another model"
        )
    steps = output_steps(qmodel.reference)
    rows = (
        _row(name, want, have, steps[i] if i < len(steps) else None)
        for i, ((name, want), have) in enumerate(zip(pairs, made, strict=True))
    )
    return OnnxCheck(tuple(rows), kernels)


def _file(path: object) -> str:
    """The path of a file that is there."""
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(
            f"path is {type(path).__name__}; give the path of a file, or what qfx.export_onnx "
            "returned"
        )
    found = os.fspath(path)
    if not Path(found).is_file():
        what = "is a directory" if Path(found).is_dir() else "does not exist"
        raise ConfigError(f"{found} {what}; give the path of an ONNX file")
    return found


def _row(name: str, want: Tensor, have: Tensor, step: float | None) -> OutputCheck:
    error = error_of(want.float(), have.float())
    steps = None if step is None else error.max_error / step
    return OutputCheck(name, tuple(have.shape), error.sqnr, error.max_error, steps)


def output_steps(reference: fx.GraphModule) -> list[float | None]:
    """The step of each output that is the value of codes, in order."""
    (output,) = reference.graph.find_nodes(op="output")
    leaves = pytree.tree_leaves(output.args)
    return [_step(leaf) for leaf in leaves if isinstance(leaf, fx.Node)]


def _step(node: fx.Node) -> float | None:
    if not is_op(node, vocab.DEQUANTIZE):
        return None
    owner = node.graph.owning_module
    assert owner is not None
    qparams = qparams_of(node, owner)
    scale = qparams.scale if isinstance(qparams, QParams) else None
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
        try:
            session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base of their own
            raise FormatError(f"ONNX Runtime can't load {path}: {_first_line(error)}") from error
        graph = onnx.load(optimized, load_external_data=False).graph
    return session, dict(Counter(_operators(graph)).most_common())


def _operators(graph: Any) -> Iterator[str]:
    """Of every node, those of bodies too: what a Scan runs at each step."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _operators(attribute.g)


def run(session: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a file."""
    names = [i.name for i in session.get_inputs()]
    given = {n: t.detach().cpu().numpy() for n, t in zip(names, tensors, strict=True)}
    try:
        made = session.run(None, given)
    except Exception as error:  # its exceptions have no base of their own
        raise ConfigError(
            f"ONNX Runtime can't run the file with these inputs: {_first_line(error)} "
            f"The file takes {of_file(session)}"
        ) from error
    return [torch.from_numpy(array) for array in made]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
