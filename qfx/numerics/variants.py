"""variants: what two quantized models of one float model do otherwise, without running them.

Site by site: whether it is quantized, what runs it, the qparams of its result and those of its
weight. Qparams are those of the reference graph, which is what both models mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, fx

from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.graph.text import dtype_text
from qfx.numerics.observation import doubt_of_weights, reference_of
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured, QuantizedWeight, qparams_of, quantized_weight
from qfx.runtime.quantized import QuantizedModel
from qfx.table import table
from qfx.vocab import QUANTIZE, is_op

_COLUMNS = ("decision", "runs as", "result", "weight")


@dataclass(frozen=True)
class SiteVariant:
    """What the two models do at one site, first the one and then the other.

    Attributes:
        label: the site, as in the report; or an input of the model.
        decision: "quantized" or "float"; "" of inputs.
        runs_as: the kernel, or the reason.
        result: qparams of what it yields, as text; "" where that stays float.
        weight: qparams of its weight, as text; "" where it has none in integers.
    """

    label: str
    decision: tuple[str, str]
    runs_as: tuple[str, str]
    result: tuple[str, str]
    weight: tuple[str, str]

    def __bool__(self) -> bool:
        """Whether there is a difference."""
        facts = (self.decision, self.runs_as, self.result, self.weight)
        return any(before != after for before, after in facts)


@dataclass(frozen=True)
class Variants:
    """The result of :func:`variants`; prints as a table of the sites that differ.

    Attributes:
        sites: inputs that are quantized, and all sites, in graph order.
        doubt: a question to the user where they were made of other weights; mostly "".
    """

    sites: tuple[SiteVariant, ...]
    doubt: str = ""

    @property
    def changed(self) -> tuple[SiteVariant, ...]:
        """The sites that differ."""
        return tuple(filter(None, self.sites))

    def __bool__(self) -> bool:
        return bool(self.changed)

    def __str__(self) -> str:
        alike = len(self.sites) - len(self.changed)
        told = "\n".join(
            (f"{alike} of {len(self.sites)} sites are alike", *filter(None, (self.doubt,)))
        )
        if not self.changed:
            return told
        rows = [
            (s.label, *map(_change, (s.decision, s.runs_as, s.result, s.weight)))
            for s in self.changed
        ]
        return f"{table(('site', *_COLUMNS), rows)}\n{told}"


def variants(a: QuantizedModel, b: QuantizedModel) -> Variants:
    """What ``b`` does otherwise than ``a``, both made of one float model.

    Raises:
        ConfigError: they were not, or one is no quantized model.
    """
    graphs = [_Qparams(reference_of(each)) for each in (a, b)]
    theirs = {site.node: site for site in b.report.sites}
    if theirs.keys() != {site.node for site in a.report.sites}:
        odd = sorted(theirs.keys() ^ {site.node for site in a.report.sites})
        raise ConfigError(
            "the two quantized models were not made from the same float model: only one has "
            + ", ".join(odd[:5])
        )
    inputs = [n.name for n in graphs[0].owner.graph.nodes if n.op == "placeholder"]
    found = [
        SiteVariant(f"{name} (input)", ("", ""), ("", ""), _pair(graphs, name), ("", ""))
        for name in inputs
        if any(name in each.results for each in graphs)
    ]
    for site in a.report.sites:
        other = theirs[site.node]
        weights = [each.weights.get(site.node) for each in graphs]
        found.append(
            SiteVariant(
                site.label,
                (site.decision, other.decision),
                (site.runs_as or site.reason, other.runs_as or other.reason),
                _pair(graphs, site.node),
                _weight_texts(*weights),
            )
        )
    return Variants(tuple(found), doubt_of_weights(a.report, b.report))


class _Qparams:
    """The qparams of a reference graph, by what was captured.

    Attributes:
        owner: of the graph.
        results: as text, by the captured operation or input whose result has them.
        weights: by the captured operation.
    """

    def __init__(self, owner: fx.GraphModule) -> None:
        self.owner = owner
        self.results: dict[str, str] = {}
        self.weights: dict[str, QuantizedWeight] = {}
        for node in owner.graph.nodes:
            if is_op(node, QUANTIZE):
                self.results[_captured(node.all_input_nodes[0])] = _text(qparams_of(node, owner))
                continue
            for operand in _operands(node):
                weight = quantized_weight(operand, owner)
                if weight is not None and meta.origins(node):
                    self.weights.setdefault(meta.origins(node)[0].node, weight)


def _operands(node: fx.Node) -> Iterator[fx.Node]:
    return iter(node.all_input_nodes if node.op == "call_function" else ())


def _captured(node: fx.Node) -> str:
    """The captured operation whose result a node yields, or the input."""
    sources = meta.origins(node)
    return sources[-1].node if sources and node.op != "placeholder" else node.name


def _pair(graphs: list[_Qparams], name: str) -> tuple[str, str]:
    first, second = (each.results.get(name, "") for each in graphs)
    return first, second


def _weight_texts(a: QuantizedWeight | None, b: QuantizedWeight | None) -> tuple[str, str]:
    """The qparams of two weights; where these are alike and codes are not, how many of them."""
    first, second = ("" if each is None else _text(each.qparams) for each in (a, b))
    if a is None or b is None or a.integers.shape != b.integers.shape:
        return first, second
    off = int((a.integers != b.integers).sum())
    return first, f"{second}, {off:,} of {b.integers.numel():,} codes differ" if off else second


def _text(qparams: QParams | Measured) -> str:
    """``u8 scale 0.0123 zero 128``; of many scales their ends."""
    if isinstance(qparams, Measured):
        return f"{dtype_text(qparams.dtype)} measured"
    kind = dtype_text(qparams.dtype)
    codes = f" {qparams.quant_min}..{qparams.quant_max}"
    if isinstance(qparams.scale, Tensor):
        low, high = qparams.scale.min().item(), qparams.scale.max().item()
        return f"{kind}{codes} {qparams.scale.numel()} scales {low:.6g}..{high:.6g}"
    return f"{kind}{codes} scale {qparams.scale:.6g} zero {float(qparams.zero_point):g}"


def _change(pair: tuple[str, str]) -> str:
    before, after = pair
    return before if before == after else f"{before or '-'} -> {after or '-'}"
