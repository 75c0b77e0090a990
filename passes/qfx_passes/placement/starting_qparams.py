"""Qparams that training starts with: those of the same values of a quantized model."""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.configuration.configuration import Configuration
from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.quant.annotation import is_rangeless
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.qparams import QParams
from qfx.quant.recorders import observer_of
from qfx.quant.reference_form import Measured, qparams_of
from qfx.vocab import bound, is_op
from qfx_passes.placement.derivations import Made


def quantized_values(
    reference: fx.GraphModule, there: dict[fx.Node, Made]
) -> tuple[dict[Made, QParams], set[Made]]:
    """The values that are quantized with qparams known beforehand, and those that were all zero."""
    known: dict[Made, QParams] = {}
    rangeless: set[Made] = set()
    for node in reference.graph.nodes:
        if not is_op(node, vocab.QUANTIZE):
            continue
        qparams = qparams_of(node, reference)
        if isinstance(qparams, Measured):
            continue
        value = there[bound(node)["input"]]
        if is_rangeless(node):
            rangeless.add(value)
            continue
        known[value] = qparams
    return known, rangeless


def take_qparams(
    graph: fx.Graph,
    here: dict[fx.Node, Made],
    known: dict[Made, QParams],
    rangeless: set[Made],
    scaled: set[Made],
    configuration: Configuration,
) -> None:
    """Let the fake-quants of ``graph`` start with what is known of the values that they round.

    Args:
        graph: what is to be trained.
        here: what its values derive from.
        known: qparams, by that.
        rangeless: the values that were all zero.
        scaled: those whose channels had scales.
        configuration: is told what starts without.

    Raises:
        ConfigError: the two models have nothing in common.
    """
    unknown: dict[str, str] = {}
    zeros: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        fake_quant, source = observer_of(node), node.args[0] if node.args else None
        if not isinstance(fake_quant, FakeQuantize) or not isinstance(source, fx.Node):
            continue
        if here[source] in rangeless:
            zeros[str(node.target)] = meta.where(node)
            continue
        qparams = None if here[source] in scaled else known.get(here[source])
        if qparams is None or not _fits(qparams, fake_quant):
            unknown[str(node.target)] = meta.where(node)
            continue
        fake_quant.start_from(qparams)
        taken.add(str(node.target))
    if zeros:
        configuration.note(
            f"nothing but zeros was seen at {', '.join(zeros.values())} when qparams_from was "
            "calibrated, so ranges start with training there"
        )
    left = [place for name, place in unknown.items() if name not in taken]
    # Any two models have inputs and an output, and values that derive from no common operation.
    found = taken or zeros or scaled
    related = any(made[0] for node, made in here.items() if node.op != "output")
    if (left and not found) or (found and not related):
        raise ConfigError(
            "qparams_from has no quantized value in common with this model: give what qfx.quantize "
            "or qfx.convert made of the same model, with activations of the same dtype and bounds"
        )
    if left:
        configuration.warn(
            f"qparams_from lacks {len(left)} value(s), whose ranges start with training: "
            + ", ".join(left)
            + ('. Its channels were scaled; none are with effort="fast"' if scaled else "")
        )


def _fits(qparams: QParams, fake_quant: FakeQuantize) -> bool:
    codes = qparams.dtype, (qparams.quant_min, qparams.quant_max)
    return codes == (fake_quant.spec.dtype, fake_quant.spec.bounds)
