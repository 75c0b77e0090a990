"""Decisions that a model's Python takes while it is traced: guarded, or refused.

A decision by sizes, dtypes or arguments holds for the example inputs and is recorded as a guard. A
decision by the contents of tensors can't be captured; the error says where it is taken. A decision
by layouts (strides, contiguity) is taken as for the example inputs and not guarded: integer kernels
lay tensors out as they like, and either way the model computes the same values.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple, NoReturn

import torch
from torch import fx

from qfx import vocab
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta, source
from qfx.graph.proxy import ValueProxy


class _Pending(NamedTuple):
    """A proxy that was asked for its integer, by which instruction of which frame."""

    proxy: ValueProxy
    frame: int
    instruction: int
    where: str


class DecidingTracer(fx.Tracer):
    """The part of the tracer that proxies ask for decisions.

    Attributes:
        entry: the code below which all frames belong to the model.
        inputs: tensors among the arguments, whose ranks are not guarded yet.
    """

    entry: CodeType

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._paths: list[str] = [""]
        self._guarded: set[fx.Node] = set()
        self._pending: list[_Pending] = []
        self.inputs: list[tuple[str, ValueProxy]] = []

    def user_frame(self, frame: FrameType) -> FrameType | None:
        """The innermost frame of the model's own code at or above ``frame``."""
        return source.user_frame(frame, self.entry)

    def decide(self, proxy: ValueProxy, kind: Callable[[Any], Any], construct: str) -> Any:
        """The number that ``proxy`` stands for, guarded; CaptureError if it depends on data."""
        if proxy.from_data:
            self.refuse(
                f"{construct} that depends on the contents of a tensor",
                "write it with torch.where or masks, or quantize the modules around it one by one",
            )
        expected = kind(proxy.example)
        self._guard_once(proxy, expected, construct, sys._getframe(2))
        return expected

    def decide_unless_call(self, proxy: ValueProxy, caller: FrameType) -> int:
        """The integer that ``proxy`` stands for, guarded unless a call of torch asked for it.

        ``range(n)`` needs the number, ``torch.roll(x, n)`` only looks at it before it dispatches
        to the proxy. Both ask alike; which it was shows when the same instruction of the caller
        dispatches, or does not.
        """
        if proxy.from_data:
            self.decide(proxy, int, "an integer of Python")
        where = source.location(self.user_frame(caller))
        self._pending.append(_Pending(proxy, id(caller), caller.f_lasti, where))
        assert isinstance(proxy.example, int)
        return proxy.example

    def parsed_by(self, caller: FrameType) -> None:
        """A call of torch at this instruction dispatched: it only looked at its integers."""
        here = (id(caller), caller.f_lasti)
        self._pending = [p for p in self._pending if (p.frame, p.instruction) != here]

    def settle(self) -> None:
        """Guard the integers that Python went on to use."""
        pending, self._pending = self._pending, []
        for each in pending:
            construct = "an integer of Python"
            self._guard_once(each.proxy, each.proxy.example, construct, None, each.where)

    def fix_length(self, proxy: ValueProxy, what: str) -> None:
        """Guard the number of elements of a container."""
        length = self.create_proxy("call_function", len, (proxy,), {})
        assert isinstance(length, ValueProxy)
        self.guard(length, length.example, what)

    def _guard_once(
        self,
        proxy: ValueProxy,
        expected: Any,
        construct: str,
        frame: FrameType | None,
        where: str = "",
    ) -> None:
        if not proxy.from_input or proxy.from_layout or proxy.node in self._guarded:
            return
        self._guarded.add(proxy.node)
        if not proxy.from_size:
            self._fix_ranks()
            return
        if frame is not None:
            where = source.location(self.user_frame(frame))
        self.guard(proxy, expected, f"{construct} at {where}" if where else construct)

    def _fix_ranks(self) -> None:
        """Guard the ranks of the inputs, which decide all ranks."""
        inputs, self.inputs = self.inputs, []
        for name, proxy in inputs:
            assert isinstance(proxy.example, torch.Tensor)
            rank = self.create_proxy("call_method", "dim", (proxy,), {})
            assert isinstance(rank, ValueProxy)
            self.guard(rank, rank.example, f"the number of dimensions of {name}")

    def guard(self, proxy: ValueProxy, expected: Any, what: str) -> None:
        """Record that the graph only holds where ``proxy`` equals ``expected``."""
        self.create_proxy(
            "call_function", vocab.GUARD, (proxy,), {"expected": expected, "what": what}
        )

    def refuse(self, construct: str, remedy: str) -> NoReturn:
        """Raise the CaptureError for something a graph can't hold, at the user's line."""
        frame = self.user_frame(sys._getframe(1))
        text = source.line_text(frame)
        code = f"\n    {text}" if text else ""
        raise CaptureError(
            f"{place(self._paths[-1], source.location(frame))}: {construct} can't be captured in "
            f"a graph.{code}\nWhat to do: {remedy}."
        )


def place(path: str, location: str) -> str:
    """Where something is: "module 'features.0' (model.py:12)"."""
    module = f"module '{path}'" if path else "the model"
    return f"{module} ({location})" if location else module


def node_failed(node: fx.Node, error: Exception) -> ConfigError:
    """The error to raise when an operation raises on what the example inputs give it."""
    shapes = ", ".join(_shown(n) for n in node.all_input_nodes)
    origin = meta.origins(node)[0]
    return ConfigError(
        f"{place(origin.module_path, origin.source)}: the model itself raises on the example "
        f"inputs, in {node.name} = {origin.type_name}({shapes}): {error}\n"
        "What to do: pass example inputs of the shapes and dtypes that the model takes."
    )


def _shown(node: fx.Node) -> str:
    info = meta.tensor_info(node)
    if info is None:
        return node.name
    dtype = str(info.dtype).removeprefix("torch.")
    return f"{node.name}: {dtype}{list(info.shape)}"
