"""compare: how far every operation of the quantized model is from the float model.

The values are those of the reference graph, which the lowered one reproduces to within one step;
the last row, the output, is that of the model as it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.errors import ConfigError
from qfx.history.labels import label
from qfx.numerics import observation
from qfx.numerics.compared_graphs import ComparedGraph, Pair
from qfx.numerics.measures import Error, cosine, sqnr
from qfx.runtime.quantized import QuantizedModel
from qfx.table import table

__all__ = ["Comparison", "SiteNumerics", "compare", "cosine", "sqnr"]


@dataclass(frozen=True)
class SiteNumerics:
    """How far one operation is from its float result.

    Attributes:
        node: its name in the captured graph, as in the report: of a model in several regions
            ``region:node``; "output" for the whole model.
        module_path: the module that holds it.
        source: "file:line", or "".
        op: the operation as written.
        decision: "quantized" or "float"; of two quantized models "float -> quantized" where it is
            another in the second.
        sqnr: in dB; inf where the values are equal.
        cosine: cosine similarity.
        max_error: largest absolute difference.
    """

    node: str
    module_path: str
    source: str
    op: str
    decision: str
    sqnr: float
    cosine: float
    max_error: float

    @property
    def label(self) -> str:
        """The place of the site in one word, as in the report."""
        return label(self.node, self.module_path)


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`; prints as a table, worst first.

    Attributes:
        sites: in graph order; an operation fused into a later one has no value of its own, and
            stands in the row of that one.
        output: the whole model, as it runs.
        doubt: a question to the user where the two models hardly belong together; mostly "".
    """

    sites: tuple[SiteNumerics, ...]
    output: SiteNumerics
    doubt: str = ""

    @property
    def worst_first(self) -> tuple[SiteNumerics, ...]:
        """The sites by falling error."""
        return tuple(sorted(self.sites, key=lambda s: -inf if isnan(s.sqnr) else s.sqnr))

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[SiteNumerics]:
        return iter(self.sites)

    def __getitem__(self, node: str) -> SiteNumerics:
        """The site of a node or label, as printed; ConfigError if there is none."""
        found = next((s for s in self.sites if node in (s.node, s.label)), None)
        if found is None:
            raise ConfigError(
                f"no site {node!r} was compared; there are: {', '.join(s.node for s in self.sites)}"
            )
        return found

    def __str__(self) -> str:
        header = ("site", "SQNR dB", "cosine", "max error", "op", "decision", "source")
        rows = [_row(site) for site in (*self.worst_first, self.output)]
        told = (self.doubt,) if self.doubt else ()
        return "\n".join((*told, table(header, rows, right=header[1:4])))


def compare(model: nn.Module, qmodel: nn.Module, data: Iterable[object]) -> Comparison:
    """Compare the quantized model with the float model, operation by operation.

    Args:
        model: the float model, in eval mode; not mutated. Or another quantized model that was made
            of it: then the two are compared with one another.
        qmodel: what ``qfx.quantize`` or ``qfx.convert`` made of it. Each region of one that has
            several is given what the float model gives it.
        data: iterable of batches, as for calibration.

    Raises:
        ConfigError: the two don't belong together, or there is no data.
    """
    pair = Pair(model, qmodel)
    errors = {part: {o: Error() for o in part.points.values()} for part in pair.parts}
    for batch in pair.batches(data):
        for part, given in pair.given(batch):
            expected, result = part.expected(errors[part], given)
            run_against(part.reference, given, part.points, expected, errors[part])
            if not pair.has_regions:
                pair.add_output(result, _run(part.graph, given))
    sites = tuple(site for part, found in errors.items() for site in _sites(part, found))
    total = _numbers("output", pair.output)
    return Comparison(sites, total, pair.doubt(total.sqnr))


def run_against(
    reference: fx.GraphModule,
    batch: observation.Batch,
    points: dict[fx.Node, str],
    expected: dict[str, Tensor],
    errors: dict[str, Error],
    *,
    corrected: bool = False,
) -> Any:
    """Run a reference graph, adding the error at each observation point to ``errors``.

    Args:
        reference: explicit q/dq graph.
        batch: what to run it on.
        points: nodes to observe, with their captured operations.
        expected: float values of those operations.
        errors: sums per operation.
        corrected: go on with the float value after each point, so that every operation shows the
            error that it makes by itself.
    """

    def measure(node: fx.Node, value: Any) -> Any:
        origin = points.get(node)
        if origin is None or not observation.alike(value, expected.get(origin)):
            return value
        errors[origin].add(expected[origin], value)
        return expected[origin].to(value.dtype) if corrected else value

    try:
        return observation.run_watched(reference, batch, measure)
    except RuntimeError as error:
        raise ConfigError(_NOT_OF_IT + str(error).partition("\n")[0]) from error


_NOT_OF_IT = (
    "a graph of the quantized model does not take what the float model computes: was it made from "
    "this float model?\n"
)


def _run(qmodel: QuantizedModel, batch: observation.Batch) -> Any:
    args, kwargs = batch
    with torch.no_grad():
        return qmodel(*args, **kwargs)


def _sites(part: ComparedGraph, errors: dict[str, Error]) -> Iterator[SiteNumerics]:
    other = part.module if isinstance(part.module, QuantizedModel) else None
    was = {} if other is None else {site.node: site.decision for site in other.report.sites}
    for site in part.graph.report.sites:
        error = errors.get(site.node)
        if error is not None and error.count:
            yield SiteNumerics(
                part.addressed(site.node),
                site.module_path,
                site.source,
                site.op,
                _change(was.get(site.node, site.decision), site.decision),
                error.sqnr,
                error.cosine,
                error.max_error,
            )


def _change(before: str, after: str) -> str:
    return after if before == after else f"{before} -> {after}"


def _numbers(name: str, error: Error) -> SiteNumerics:
    return SiteNumerics(name, "", "", "", "", error.sqnr, error.cosine, error.max_error)


def _row(site: SiteNumerics) -> tuple[str, ...]:
    return (
        site.label,
        f"{site.sqnr:.1f}",
        f"{site.cosine:.6f}",
        f"{site.max_error:.3g}",
        site.op,
        site.decision,
        site.source,
    )
