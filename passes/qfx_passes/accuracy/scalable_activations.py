"""Activations whose channels layers with constant weights read, which can absorb scales of them.

A value that an observer stands behind has one range for all that reads it in integers; one whose
range is measured when the model runs has none before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.quant.annotation import annotation
from qfx.quant.channel_mean import ChannelMean
from qfx.quant.observers import Observer
from qfx.quant.recorders import observer_of, recorder_of
from qfx.quant.spec import QuantSpec
from qfx.vocab import bound, is_op
from qfx_passes.accuracy.scale_candidates import ScaleCandidate
from qfx_passes.operands import asks_shape


@dataclass
class ScalableActivation:
    """An activation whose channels may be scaled.

    Attributes:
        value: what makes it.
        measured: how it is rounded, if its range is measured when the model runs; else None.
        observers: the calls through which integer operations read it, if it is not.
        recorder: that of its channels.
        readers: the operations whose weights absorb scales, and the node that each reads it by.
        others: what else reads the value, and by which node.
        candidates: scales that may be given to it; those of ones are the first.
        ranges: observers of the value with each candidate; that of the model is the first.
        errors: of the rows that choose and of those that judge, with each candidate: of outputs,
            and of outputs as a whole.
    """

    value: fx.Node
    measured: QuantSpec | None
    observers: list[fx.Node]
    recorder: ChannelMean
    readers: list[tuple[fx.Node, fx.Node]]
    others: list[tuple[fx.Node, fx.Node]]
    candidates: list[ScaleCandidate] = field(default_factory=list)
    ranges: list[Observer] = field(default_factory=list)
    errors: Tensor = field(default_factory=lambda: torch.zeros(2, 2, 0))


def behind_gelus(graph: fx.Graph) -> list[fx.Node]:
    """Values that have gone through an activation with channels far larger than others, in order.

    Those that a convolution computes with its activation are no such.
    """
    return [
        node
        for node in graph.nodes
        if is_op(node, vocab.GELU)
        or (is_op(node, vocab.LINEAR) and any(p[0] == "gelu" for p in bound(node)["post"]))
    ]


def owners_in(graph: fx.Graph) -> Counter[str]:
    """How many nodes read each parameter, and call each module, by name."""
    named = ("get_attr", "call_module")
    return Counter(str(node.target) for node in graph.nodes if node.op in named)


def sites_of(values: Iterable[fx.Node], owners: Mapping[str, int]) -> list[ScalableActivation]:
    """Those of ``values`` whose channels may be scaled; ``owners`` is of :func:`owners_in`."""
    found = (site_of(value, owners) for value in values)
    return [site for site in found if isinstance(site, ScalableActivation)]


def site_of(value: fx.Node, owners: Mapping[str, int]) -> ScalableActivation | str:
    """What reads ``value``, if scales of its channels can be absorbed; else why not.

    Args:
        value: what an operation yields.
        owners: of :func:`owners_in`.
    """
    observers = [user for user in value.users if observer_of(user) is not None]
    if any(not isinstance(observer_of(o), Observer) for o in observers):
        return "it is rounded in training"
    if any(owners[str(o.target)] > 1 for o in observers):
        return "it shares its range with other values"
    recorders: dict[str, ChannelMean] = {}
    readers: list[tuple[fx.Node, fx.Node]] = []
    others: list[tuple[fx.Node, fx.Node]] = []
    for via in (value, *observers):
        for user in via.users:
            found = recorder_of(user)
            if found is not None:
                recorders[str(user.target)] = found
                pairs = [(reader, user) for reader in user.users]
            else:
                pairs = [] if user in observers or asks_shape(user) else [(user, via)]
            for reader, read in pairs:
                (readers if _absorbs(reader, read) else others).append((reader, read))
    specs = _specs(value, observers, [reader for reader, _ in readers])
    if not specs:
        return "nothing reads it in integers"
    if len(specs) > 1:
        return "it is rounded in several ways"
    if len(recorders) != 1 or not readers:
        return "no layer with a weight reads it"
    (recorder,) = recorders.values()
    if not recorder.seen:
        return "calibration saw nothing of it"
    names = [str(bound(reader)["weight"].target) for reader, _ in readers]
    if any(owners[name] > 1 for name in names):
        return "a weight that reads it is shared"
    (spec,) = specs
    if spec.dynamic and any(_reads_rounded(other, value) for other, _ in others):
        return "others read it in integers, too"
    return ScalableActivation(
        value, spec if spec.dynamic else None, observers, recorder, readers, others
    )


def _specs(
    value: fx.Node, observers: Sequence[fx.Node], readers: Sequence[fx.Node]
) -> set[QuantSpec]:
    """How ``value`` is rounded for those who read it in integers."""
    found = {observer.spec for o in observers if isinstance(observer := observer_of(o), Observer)}
    notes = (note for reader in readers if (note := annotation(reader)) is not None)
    edges = (edge for note in notes if (edge := note.reads.get(value.name)) is not None)
    return found | {edge.spec for edge in edges if edge.spec.dynamic}


def _reads_rounded(reader: fx.Node, value: fx.Node) -> bool:
    note = annotation(reader)
    return note is not None and value.name in note.reads


def _absorbs(reader: fx.Node, read: fx.Node) -> bool:
    """Whether ``reader`` multiplies what it reads by a constant weight, and by nothing else."""
    if not is_op(reader, *vocab.OUTPUTS_FIRST):
        return False
    arguments = bound(reader)
    weight = arguments["weight"]
    note = annotation(reader)
    return (
        arguments["input"] is read
        and isinstance(weight, fx.Node)
        and weight.op == "get_attr"
        and reader.all_input_nodes.count(read) == 1
        and note is not None
        and note.weight is not None
        and not any(read in operands for _, *operands in arguments.get("post", ()))
    )
