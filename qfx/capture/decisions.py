"""Decisions that a model's Python takes while it is traced: guarded, or refused.

A decision by sizes, dtypes or arguments holds for the example inputs and is recorded as a guard. A
decision by the contents of tensors can't be captured; the error says where it is taken. A decision
by layouts (strides, contiguity) is taken as for the example inputs and not guarded, since integer
kernels lay tensors out as they like; it is written down, and tried the other way round: nearly
always the model computes the same values.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from itertools import dropwhile
from types import CodeType, FrameType
from typing import Any, NamedTuple, NoReturn

import torch
from torch import fx

from qfx import vocab
from qfx.capture.provenance import is_plain
from qfx.capture.proxy import ValueProxy
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta, source
from qfx.private_attributes import is_erased

_CONVERSIONS = frozenset(("int", "float"))

_TELLS_LAYOUTS = "torch._prims_common"
"""Functions of PyTorch that tell their caller of layouts; others compute the same by any."""


class _Pending(NamedTuple):
    """A proxy that was asked for its integer, by which instruction of which frame."""

    proxy: ValueProxy
    frame: int
    instruction: int
    where: str


class DecidingTracer(fx.Tracer):
    """The part of the tracer that proxies ask for decisions.

    Args:
        contrary: take every branch on a layout, or on how the model is run, the other way.
        plain_dtypes: tell dtypes as they are, not as proxies, and guard those of the inputs.
        options: of ``fx.Tracer``.

    Attributes:
        entry: the code below which all frames belong to the model.
        inputs: the tensors among the arguments, whose ranks decide all ranks.
        by_layout: where the model decides by layouts ("file:line"), and whether it only branches.
        by_state: what it asks of how it is run, and where.
        askers: the code that asks for that, or for the training flag.
        by_draw: what draws random numbers in Python, where, and whether evenly between bounds.
        asked_devices: the nodes that compare the type of a device with a text.
        converting: globals of the modules that make numbers of Python from proxies.
        by_weights: whether it decides by the values of parameters, buffers and other constants.
        is_done: whether tracing is over, so that proxies are good for nothing any more.
    """

    entry: CodeType

    def __init__(self, *, contrary: bool, plain_dtypes: bool, **options: Any) -> None:
        super().__init__(**options)
        self.contrary = contrary
        self._plain_dtypes = plain_dtypes
        self._dtypes_guard: fx.Node | None = None
        self._paths: list[str] = [""]
        self._guarded: set[tuple[fx.Node, type]] = set()
        self._pending: list[_Pending] = []
        self.inputs: list[tuple[str, ValueProxy]] = []
        self._ranks_guard: fx.Node | None = None
        self.by_layout: dict[str, bool] = {}
        self.by_state: dict[str, None] = {}
        self.askers: set[CodeType] = set()
        self.by_draw: dict[str, bool] = {}
        self.asked_devices: dict[tuple[torch.device, str], fx.Node] = {}
        self.converting: dict[int, dict[str, Any]] = {}
        self.by_weights = False
        self.is_done = False

    def call(self, function: Callable[..., object], *args: object) -> Any:
        """Record a call of ``function``."""
        return self.create_proxy("call_function", function, args, {})

    def user_frame(self, frame: FrameType) -> FrameType | None:
        """The innermost frame of the model's own code at or above ``frame``."""
        return source.user_frame(frame, self.entry)

    def decide(self, proxy: ValueProxy, kind: Callable[[Any], object], construct: str) -> Any:
        """The number that ``proxy`` stands for, guarded; CaptureError if it depends on data."""
        self._check_decidable(proxy, construct)
        expected = kind(proxy.example)
        self._guard_once(proxy, expected, construct, sys._getframe(2))
        return not expected if kind is bool and proxy.from_layout and self.contrary else expected

    def note_conversion(self, frame: FrameType) -> None:
        """Remember the module whose code makes a number of Python from a proxy.

        Where ``int`` and ``float`` are stand-ins, no number of Python need come of it.
        """
        frame = source.outside_numpy(frame)
        calls = not _CONVERSIONS.isdisjoint(frame.f_code.co_names)
        if calls and source.is_outside(frame.f_code.co_filename):
            self.converting.setdefault(id(frame.f_globals), frame.f_globals)

    def state(self, answer: bool, frame: FrameType, what: str) -> bool:
        """What to tell a model that asks how it is run, with gradients, say; written down."""
        if self.user_frame(frame) is not frame:
            return answer
        self.by_state.setdefault(f"{what} at {source.location(frame)}")
        self.askers.add(frame.f_code)
        return answer != self.contrary

    def draws(self, frame: FrameType, what: str, even: bool) -> None:
        """Write down that the model draws a random number of Python."""
        where = f"{what} at {source.location(self.user_frame(frame))}"
        self.by_draw[where] = even and self.by_draw.get(where, True)

    def decide_value(self, proxy: ValueProxy, construct: str, frame: FrameType) -> None:
        """Guard what ``proxy`` stands for, whole; CaptureError if it depends on data."""
        self._check_decidable(proxy, construct)
        if not is_plain(proxy.example):
            proxy = proxy.tolist()
        self._guard_once(proxy, _literal(proxy.example), construct, frame)

    def _check_decidable(self, proxy: ValueProxy, construct: str) -> None:
        if proxy.from_data:
            self.refuse(
                f"{construct} that depends on the contents of a tensor",
                "write it with torch.where or masks, or quantize the modules around it one by one",
            )

    def decide_unless_call(self, proxy: ValueProxy, caller: FrameType) -> int:
        """The integer that ``proxy`` stands for, guarded unless a call of torch asked for it.

        ``range(n)`` needs the number, ``torch.roll(x, n)`` only looks at it before it dispatches
        to the proxy. Both ask alike; which it was shows when the same instruction of the caller
        dispatches, or does not.
        """
        self._check_decidable(proxy, "an integer of Python")
        where = source.location(self.user_frame(caller))
        self._pending.append(_Pending(proxy, id(caller), caller.f_lasti, where))
        return int(proxy.example)

    def parsed_by(self, caller: FrameType) -> None:
        """A call of torch at this instruction dispatched: it only looked at its integers."""
        here = (id(caller), caller.f_lasti)
        self._pending = [p for p in self._pending if (p.frame, p.instruction) != here]

    def settle(self) -> None:
        """Guard the integers that Python went on to use."""
        pending, self._pending = self._pending, []
        for each in pending:
            expected = int(each.proxy.example)
            self._guard_once(each.proxy, expected, "an integer of Python", None, each.where)

    def fix_length(self, proxy: ValueProxy, construct: str) -> None:
        """Guard the number of elements of a container."""
        if isinstance(proxy.example, torch.Size) and not proxy.from_size:
            self._fix_ranks()
            return
        length = self.call(len, proxy)
        if isinstance(length, ValueProxy):
            what = f"the length of {construct}"
            self._guard_once(length, length.example, what, sys._getframe(2))

    def _guard_once(
        self,
        proxy: ValueProxy,
        expected: object,
        construct: str,
        frame: FrameType | None,
        where: str = "",
    ) -> None:
        if not proxy.from_input:
            self.by_weights = True
            return
        if proxy.from_layout:
            self._note_layout(frame, where, isinstance(expected, bool))
            return
        if frame is not None:
            where = source.location(self.user_frame(frame))
        is_tensor = isinstance(proxy.example, torch.Tensor)  # which may be written to in between
        is_whole = isinstance(expected, (tuple, list))  # a shape, of which ranks tell the length
        if not (is_tensor or is_whole or proxy.from_size):
            self._fix_ranks()
        elif is_tensor or (proxy.node, type(expected)) not in self._guarded:
            self._guarded.add((proxy.node, type(expected)))
            self.guard(proxy, expected, f"{construct} at {where}" if where else construct)

    def _note_layout(self, frame: FrameType | None, where: str, is_branch: bool) -> None:
        """Write down a decision by layouts, if it is the model's own and not one of PyTorch."""
        if frame is not None:
            user = self.user_frame(frame)
            if user is not frame and frame.f_globals.get("__name__") != _TELLS_LAYOUTS:
                return
            where = source.location(user)
        self.by_layout[where] = is_branch and self.by_layout.get(where, True)

    def _fix_ranks(self) -> None:
        """Guard the ranks of the inputs, which decide all ranks; once."""
        if self._ranks_guard is not None and not is_erased(self._ranks_guard):
            return
        for name, proxy in self.inputs:
            assert isinstance(proxy.example, torch.Tensor)
            rank = self.create_proxy("call_method", "dim", (proxy,), {})
            what = f"the number of dimensions of {name}"
            self._ranks_guard = self.guard(rank, rank.example, what)

    def tells_dtypes(self, frame: FrameType) -> bool:
        """Whether ``x.dtype``, asked for at ``frame``, has to be the dtype itself."""
        return not self.is_done and (self._plain_dtypes or compares_identity(frame))

    def fix_dtypes(self) -> None:
        """Guard the dtypes of the inputs, which decide all dtypes; once."""
        if self._dtypes_guard is not None and not is_erased(self._dtypes_guard):
            return
        for name, proxy in self.inputs:
            dtype = self.call(getattr, proxy, "dtype")
            self._dtypes_guard = self.guard(dtype, dtype.example, f"the dtype of {name}")

    def guard(self, proxy: fx.Proxy, expected: object, what: str) -> fx.Node:
        """Record that the graph only holds where ``proxy`` equals ``expected``."""
        named = {"expected": expected, "what": what}
        return self.create_proxy("call_function", vocab.GUARD, (proxy,), named).node

    def refuse(self, construct: str, remedy: str) -> NoReturn:
        """Raise the CaptureError for something a graph can't hold, at the user's line."""
        frame = self.user_frame(sys._getframe(1))
        text = source.line_text(frame)
        code = f"\n    {text}" if text else ""
        raise CaptureError(
            f"{place(self._paths[-1], source.location(frame))}: {construct} can't be captured in "
            f"a graph.{code}\nWhat to do: {remedy}."
        )


def _literal(value: object) -> Any:
    """``value``, a nest of plain values, as a graph holds it."""
    if isinstance(value, (tuple, list)):
        return (list if isinstance(value, list) else tuple)(map(_literal, value))
    return value


_LOADS = ("LOAD_", "CACHE", "EXTENDED_ARG", "PUSH_NULL")


def compares_identity(frame: FrameType) -> bool:
    """Whether the frame goes on to ask with ``is`` for what it is getting, as in ``a.b is c.d``."""
    steps = dis.get_instructions(frame.f_code)
    ahead = dropwhile(lambda step: step.offset <= frame.f_lasti, steps)
    step = next(dropwhile(lambda step: step.opname.startswith(_LOADS), ahead), None)
    return step is not None and step.opname == "IS_OP"


def place(path: str, location: str) -> str:
    """Where something is: "module 'features.0' (model.py:12)"."""
    module = f"module '{path}'" if path else "the model"
    return f"{module} ({location})" if location else module


def node_failed(node: fx.Node, error: Exception, remedy: str) -> ConfigError | CaptureError:
    """The error to raise when an operation raises on what the example inputs give it.

    ``remedy`` is for a model that itself raises on them; "" for one that does not.
    """
    shapes = ", ".join(_shown(n) for n in node.all_input_nodes)
    origin = meta.origins(node)[0]
    where = place(origin.module_path, origin.source)
    what = f"{node.name} = {origin.type_name}({shapes}): {type(error).__name__}: {error}"
    if remedy:
        return ConfigError(
            f"{where}: the model itself raises on the example inputs, in {what}\n"
            f"What to do: {remedy}."
        )
    return CaptureError(
        f"{where}: this can't be captured in a graph: {what}\nThe model itself does not raise. "
        "What to do: write it with tensor operations, or quantize the modules around it one by one."
    )


def _shown(node: fx.Node) -> str:
    info = meta.tensor_info(node)
    if info is None:
        return node.name
    dtype = str(info.dtype).removeprefix("torch.")
    return f"{node.name}: {dtype}{list(info.shape)}"
