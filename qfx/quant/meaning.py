"""What a node of a lowered graph stands for in the reference graph, written down as it is lowered.

The check at conversion compares each kernel call with the value that it means; the names are those
of the reference graph that was lowered.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from qfx.quant.qparams import QParams

_KEY = "qfx.meaning"


@dataclass(frozen=True)
class Meaning:
    """The value of the reference graph that a lowered node yields.

    Attributes:
        value: the node that computes it in float.
        operation: the node that was lowered: an operation, or a quantize or dequantize.
        codes: the QUANTIZE whose codes the node yields, or "".
        qparams: of codes that no QUANTIZE makes, or None: they were moved.

    What has neither ``codes`` nor ``qparams`` hands out float.
    """

    value: str
    operation: str
    codes: str = ""
    qparams: QParams | None = None


def meaning_of(node: fx.Node) -> Meaning | None:
    """What ``node`` stands for, if lowering said so."""
    found: Meaning | None = node.meta.get(_KEY)
    return found


def set_meaning(node: fx.Node, meaning: Meaning) -> None:
    """Say what ``node`` stands for."""
    node.meta[_KEY] = meaning


def hand_on_meaning(old: fx.Node, new: fx.Node) -> None:
    """Let ``new``, which takes the place of ``old``, stand for the same."""
    meaning = meaning_of(old)
    if meaning is not None:
        set_meaning(new, meaning)
