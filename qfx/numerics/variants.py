"""variants: what two quantized models of one float model do otherwise, without running them.

Site by site: whether it is quantized, what runs it, the qparams of its result and those of its
weights, and what it reads that stayed in float: biases, which conversion corrects, weights of norms
and of sites in float. All of it is that of the reference graph, which is what both models mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from torch import Tensor, fx

from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.graph.lookup import attribute_of
from qfx.graph.text import dtype_text
from qfx.numerics.observation import doubt_of_weights, reference_of
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured, QuantizedWeight, qparams_of, quantized_weight
from qfx.runtime.quantized import QuantizedModel
from qfx.table import table
from qfx.vocab import DEQUANTIZE, QUANTIZE, OpDef, bound, is_op

_COLUMNS = ("decision", "runs as", "result", "weight", "constants")


@dataclass(frozen=True)
class SiteVariant:
    """What the two models do at one site, first the one and then the other.

    Attributes:
        label: the site, as in the report; or an input of the model.
        decision: "quantized" or "float"; "" of inputs.
        runs_as: the kernel, or the reason.
        result: qparams of what it yields, as text; "" where that stays float.
        weight: qparams of its weights, as text; "" where it has none in integers.
        constants: what it reads that is not in integers, by the name of the argument: shape of
            each, and how many values are others; "" where it reads none.
    """

    label: str
    decision: tuple[str, str]
    runs_as: tuple[str, str]
    result: tuple[str, str]
    weight: tuple[str, str]
    constants: tuple[str, str] = ("", "")

    def __bool__(self) -> bool:
        """Whether there is a difference."""
        return any(before != after for before, after in self.facts)

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """All that is compared, each as the one and the other have it."""
        return self.decision, self.runs_as, self.result, self.weight, self.constants


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
        rows = [(s.label, *map(_change, s.facts)) for s in self.changed]
        return f"{table(('site', *_COLUMNS), rows)}\n{told}"


def variants(a: QuantizedModel, b: QuantizedModel) -> Variants:
    """What ``b`` does otherwise than ``a``, both made of one float model.

    Raises:
        ConfigError: they were not, or one is no quantized model.
    """
    given = {"first": a, "second": b}
    graphs = [_Held(reference_of(each, f"the {which} argument")) for which, each in given.items()]
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
        weights = [each.weights.get(site.node, ()) for each in graphs]
        constants = [each.constants.get(site.node, {}) for each in graphs]
        found.append(
            SiteVariant(
                site.label,
                (site.decision, other.decision),
                (site.runs_as or site.reason, other.runs_as or other.reason),
                _pair(graphs, site.node),
                _weight_texts(*weights),
                _constant_texts(*constants),
            )
        )
    return Variants(tuple(found), doubt_of_weights(a.report, b.report))


class _Held:
    """Qparams and constants of a reference graph, by what was captured.

    Attributes:
        owner: of the graph.
        results: qparams as text, by the captured operation or input whose result has them.
        weights: those in integers, by the captured operation, in order of the arguments.
        constants: those that are not, by the captured operation and the argument.
    """

    def __init__(self, owner: fx.GraphModule) -> None:
        self.owner = owner
        self.results: dict[str, str] = {}
        self.weights: dict[str, list[QuantizedWeight]] = {}
        self.constants: dict[str, dict[str, Tensor]] = {}
        for node in owner.graph.nodes:
            if is_op(node, QUANTIZE):
                self.results[_captured(node.all_input_nodes[0])] = _text(qparams_of(node, owner))
            elif node.op == "call_function" and meta.origins(node) and not is_op(node, DEQUANTIZE):
                self._note(node, meta.origins(node)[0].node)

    def _note(self, node: fx.Node, captured: str) -> None:
        """What one operation reads that does not depend on inputs."""
        for argument, operand in _operands(node):
            weight = quantized_weight(operand, self.owner)
            if weight is not None:
                self.weights.setdefault(captured, []).append(weight)
            elif operand.op == "get_attr":
                value = attribute_of(self.owner, str(operand.target))
                known = self.constants.setdefault(captured, {})
                again = (f"{argument}_{n}" for n in count(1))
                known[next(n for n in chain((argument,), again) if n not in known)] = value


def _operands(node: fx.Node) -> Iterator[tuple[str, fx.Node]]:
    """The nodes that an operation reads, each with the name of its argument."""
    named = bound(node) if isinstance(node.target, OpDef) else {"": (node.args, node.kwargs)}
    for argument, value in named.items():
        for operand in _nodes_in(value):
            yield argument, operand


def _nodes_in(value: Any) -> tuple[fx.Node, ...]:
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    return tuple(found)


def _captured(node: fx.Node) -> str:
    """The captured operation whose result a node yields, or the input."""
    sources = meta.origins(node)
    return sources[-1].node if sources and node.op != "placeholder" else node.name


def _pair(graphs: list[_Held], name: str) -> tuple[str, str]:
    first, second = (each.results.get(name, "") for each in graphs)
    return first, second


def _weight_texts(a: Sequence[QuantizedWeight], b: Sequence[QuantizedWeight]) -> tuple[str, str]:
    """The qparams of weights; where these are alike and codes are not, how many of them."""
    first, second = ([_text(each.qparams) for each in weights] for weights in (a, b))
    for at, (mine, theirs) in enumerate(zip(a, b, strict=False)):
        off = _values_off(mine.integers, theirs.integers)
        second[at] += f", {off:,} of {theirs.integers.numel():,} codes differ" if off else ""
    return "; ".join(first), "; ".join(second)


def _constant_texts(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[str, str]:
    """What both read in float, by argument; which of it is not alike, and how far that is off."""
    first, second = (
        {argument: f"{argument} {list(value.shape)}" for argument, value in held.items()}
        for held in (a, b)
    )
    for argument in a.keys() & b.keys():
        mine, theirs = a[argument], b[argument]
        off = _values_off(mine, theirs)
        if off:
            most = (theirs.double() - mine.double()).abs().max().item()
            told = f", {off:,} of {theirs.numel():,} values differ, by {most:.3g} at most"
            second[argument] += told
    return "; ".join(first.values()), "; ".join(second.values())


def _values_off(a: Tensor, b: Tensor) -> int:
    """How many values of two tensors differ; 0 where shapes do, which their texts tell."""
    if a.shape != b.shape:
        return 0
    return a.numel() - int(((a == b) | ((a != a) & (b != b))).sum())


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
