"""Groups of values that share their qparams."""

from __future__ import annotations

from dataclasses import replace

import torch

from qfx.graph.disjoint import DisjointSets
from qfx.quant.annotation import Edge
from qfx.quant.observers import FixedQParamsObserver
from qfx.quant.qparams import QParams
from qfx.quant.spec import QuantSpec
from qfx.semantics import affine as ops


class Groups:
    """Groups by number; of those that were merged the least."""

    def __init__(self) -> None:
        self._sets: DisjointSets[int] = DisjointSets()
        self._count = 0
        self.edges: dict[int, Edge] = {}
        self._mixed: set[int] = set()  # groups of values that several operations make

    def new(self, spec: QuantSpec) -> int:
        number = self._count
        self._count += 1
        self._sets.add(number)
        self.edges[number] = Edge(number, spec)
        return number

    def find(self, number: int) -> int:
        return self._sets.root(number)

    def union(self, a: int, b: int) -> None:
        """Merge two groups; fixed qparams give way to observed ones."""
        a, b = sorted((self.find(a), self.find(b)))
        if a == b:
            return
        dropped = self.edges.pop(b)
        if is_fixed(self.edges[a].spec):
            self.edges[a] = Edge(a, dropped.spec)
        self._sets.join(b, a)
        if b in self._mixed:
            self._mixed.add(a)

    def mix(self, number: int) -> None:
        """Note that a group holds values of several makers, whose ranges differ."""
        self._mixed.add(self.find(number))

    def fix(self, number: int, qparams: QParams) -> None:
        """Give a group qparams that are known from the mathematics of its one maker."""
        number = self.find(number)
        if number in self._mixed:
            return
        spec = self.edges[number].spec
        if _codes(*spec.bounds) > _codes(qparams.quant_min, qparams.quant_max):
            qparams = rescaled(qparams, spec.dtype, spec.bounds, power_of_two=spec.power_of_two)
        observer = FixedQParamsObserver.with_args(
            scale=qparams.scale, zero_point=qparams.zero_point
        )
        spec = replace(
            spec,
            observer=observer,
            dtype=qparams.dtype,
            symmetric=False,
            quant_min=qparams.quant_min,  # a narrower range would clip what the scale covers
            quant_max=qparams.quant_max,
        )
        self.edges[number] = Edge(number, spec)

    def edge(self, number: int) -> Edge:
        return self.edges[self.find(number)]


def is_fixed(spec: QuantSpec) -> bool:
    """Whether the qparams of ``spec`` are known without data."""
    return not spec.dynamic and issubclass(spec.observer_class, FixedQParamsObserver)


def _codes(quant_min: int, quant_max: int) -> int:
    return quant_max - quant_min + 1


def rescaled(
    qparams: QParams, dtype: torch.dtype, bounds: tuple[int, int], *, power_of_two: bool = False
) -> QParams:
    """The range of per-tensor ``qparams`` in other codes: those from one bound to the other."""
    assert isinstance(qparams.scale, float)
    assert isinstance(qparams.zero_point, int)
    share = _codes(qparams.quant_min, qparams.quant_max) / _codes(*bounds)
    scale = qparams.scale * share
    if power_of_two:
        scale = ops.next_power_of_two(scale)
    smallest = (qparams.quant_min - qparams.zero_point) * qparams.scale
    return QParams(scale, bounds[0] - round(smallest / scale), dtype, *bounds)
