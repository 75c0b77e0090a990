"""What engines are held against: what the reference yields for the examples, and how sure that is.

A program that rounds where the model rounds may be as far from the reference as float arithmetic of
other kernels takes it (:mod:`qfx.engines.agreement`). One that rounds more is another model: it may
be no more than half a decibel further from what unrounded activations yield than the model is, or
than the model with moved results, in the worst of some draws.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from qfx.engines.agreement import (
    AGREES,
    AS_NEAR,
    LEAST,
    Agreement,
    compare,
    floor,
    least_of,
    reason_against,
    run_moved,
)
from qfx.engines.source import Source
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.seen import run_seeing
from qfx.export.onnx.trials import run_unrounded
from qfx.graph.overlap import version
from qfx.torch_private import pytree

_ROOM = 1.2
"""How many times as far as on the examples results may reach in forms that round more; that costs
1.6 dB of what is rounded."""


_DRAWS = 3
"""How often results are moved: one example says little of models that are that sensitive."""


class Yardstick:
    """The reference of a model, run on its examples.

    Args:
        source: the model.

    Attributes:
        wanted: what it yields.
        seen: the ranges of its results, with room for what the examples lack.
        writes: whether it writes to its inputs.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        arguments = source.fresh_arguments()
        before = _versions(arguments)
        with source.undisturbed():
            self.wanted, self.seen = run_seeing(source.reference, arguments, _ROOM)
        self.writes = _versions(arguments) != before

    def reason_against(self, found: Agreement, made: object, form: OnnxForm) -> str:
        """Why what an engine made in a form doesn't agree; "" if it does.

        Args:
            found: how far it is from what is wanted.
            made: what it is.
            form: in which the engine was given the model.
        """
        reason = reason_against(found, AGREES)
        if not reason or found.wrong:
            return reason
        if form is OnnxForm.EXACT:
            return reason_against(found, least_of(floor(self.wanted, self._moved)))
        return "" if found.sqnr >= LEAST and self._loss(made) <= AS_NEAR else reason

    def _loss(self, made: object) -> float:
        """How many dB further from what unrounded activations yield than the model is."""
        return self._own - compare(self._unrounded, made).sqnr

    @cached_property
    def _own(self) -> float:
        """How near to unrounded activations the model is, in the worst of some draws."""
        models = (self.wanted, self._moved, *(self._move(seed) for seed in range(1, _DRAWS)))
        return min(compare(self._unrounded, each).sqnr for each in models)

    @cached_property
    def _moved(self) -> Any:
        return self._move(0)

    def _move(self, seed: int) -> Any:
        with self._source.undisturbed():
            return run_moved(self._source.reference, self._source.fresh_arguments(), seed)

    @cached_property
    def _unrounded(self) -> Any:
        with self._source.undisturbed():
            return run_unrounded(self._source.reference, self._source.fresh_arguments())


def _versions(arguments: Any) -> list[int]:
    """How often each tensor among arguments was written to."""
    leaves = pytree.tree_leaves(arguments)
    return [version(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
