"""Proxies that know what they stand for.

While a model is traced, every proxy carries the value that the example inputs give it. Numbers that
come from shapes, dtypes or arguments can therefore steer Python (``if``, ``range``, ``len``): the
decision is recorded as a guard, which fails loudly if the graph later sees inputs that would decide
otherwise. Numbers that come from the contents of tensors can't, and raise.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

if TYPE_CHECKING:
    from qfx.graph.tracer import CaptureTracer

_FIXED = frozenset(
    {
        *("is_nested", "is_sparse", "is_quantized", "is_meta", "is_mkldnn", "is_leaf", "layout"),
        *("requires_grad", "grad", "grad_fn", "names"),
    }
)
"""What is true of ordinary tensors, whichever they are."""


class ValueProxy(fx.Proxy):
    """A proxy with the value that its node has for the example inputs.

    Attributes:
        example: that value.
        from_input: whether it depends on the inputs at all; what does not is a constant.
        from_data: whether it depends on the contents of input tensors.
        from_size: for a number, whether it depends on more than ranks; for a tensor, whether its
            rank depends on sizes.
        from_layout: for a number, whether it depends on how tensors lie in memory.
        storages: addresses of the memory behind its tensors.
    """

    tracer: CaptureTracer

    def __init__(
        self,
        node: fx.Node,
        tracer: CaptureTracer,
        example: object,
        *,
        from_input: bool,
        from_data: bool,
        from_size: bool,
        storages: frozenset[int],
        from_layout: bool = False,
    ) -> None:
        super().__init__(node, tracer)
        self.example = example
        self.from_input = from_input
        self.from_data = from_data
        self.from_size = from_size
        self.from_layout = from_layout
        self.storages = storages
        self._iterated = (0, 0)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.example, name)
        if name in _FIXED or isinstance(self.example, torch.device):
            return value
        if callable(value) and not isinstance(value, torch.Tensor):
            return _recorder(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __bool__(self) -> bool:
        return bool(self.tracer.decide(self, bool, "a branch"))

    def __int__(self) -> int:
        return int(self.tracer.decide(self, int, "int()"))

    def __index__(self) -> int:
        if not isinstance(self.example, int):
            raise TypeError(f"{type(self.example).__name__} can't be interpreted as an integer")
        return int(self.tracer.decide_unless_call(self, sys._getframe(1)))

    def __float__(self) -> float:
        return float(self.tracer.decide(self, float, "float()"))

    def __len__(self) -> int:
        if self._is_hint(sys._getframe(1)):
            return len(self.example)  # type: ignore[arg-type]
        if isinstance(self.example, torch.Tensor):
            self.tracer.refuse("len() of a tensor", "write x.shape[0], which stays symbolic")
        length = self.tracer.create_proxy("call_function", len, (self,), {})
        return int(self.tracer.decide(length, int, "len()"))

    def _is_hint(self, caller: FrameType) -> bool:
        """Whether ``[*x]`` asks, right after ``iter(x)``, how many elements to expect."""
        return self._iterated == (id(caller), caller.f_lasti)

    def __iter__(self) -> Iterator[Any]:
        caller = sys._getframe(1)
        self._iterated = (id(caller), caller.f_lasti)
        if isinstance(self.example, (tuple, list)):
            if self._may_vary() and not _unpacks(caller):
                self.tracer.fix_length(self, "a loop")
            return iter([self[i] for i in range(len(self.example))])
        if isinstance(self.example, dict):
            return iter(self.example)
        if isinstance(self.example, torch.Tensor) and _unpacks(caller):
            return iter([self[i] for i in range(self.example.shape[0])])
        self.tracer.refuse(
            "iteration over a tensor", "use x.unbind() or write the loop as tensor operations"
        )

    def _may_vary(self) -> bool:
        """Whether other inputs may yield another number of elements."""
        assert isinstance(self.example, (tuple, list))
        holds_tensors = any(isinstance(element, torch.Tensor) for element in self.example)
        return holds_tensors and self.node.op != "call_module"

    def __contains__(self, item: object) -> bool:
        if isinstance(self.example, dict):
            return item in self.example
        return any(bool(item == element) for element in self)

    def __getitem__(self, index: Any) -> Any:
        held = self.example
        if isinstance(held, (tuple, list)) and type(index) is int and held[index] is None:
            return None  # what a call leaves out of its results, Python may ask about
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __setitem__(self, index: object, value: object) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __hash__(self) -> int:
        return id(self)

    @classmethod
    def __torch_function__(
        cls,
        orig_method: Callable[..., Any],
        types: Any,
        args: Any = None,
        kwargs: Any = None,
    ) -> Any:
        _tracer_of((args, kwargs)).parsed_by(sys._getframe(1))
        return super().__torch_function__(orig_method, types, args, kwargs)


def _inplace(name: str) -> Callable[[ValueProxy, object], Any]:
    """``x += y``: in place on tensors, which others may read, and a new value for the rest."""

    def method(self: ValueProxy, other: object) -> Any:
        tensor = isinstance(self.example, torch.Tensor)
        target = getattr(operator, f"i{name}" if tensor else _PLAIN.get(name, name))
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return method


_PLAIN = {"and": "and_", "or": "or_"}
for _name in [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
    "matmul",
]:
    setattr(ValueProxy, f"__i{_name}__", _inplace(_name))


def _tracer_of(arguments: Any) -> CaptureTracer:
    found: list[CaptureTracer] = []

    def visit(leaf: Any) -> Any:
        if type(leaf) is ValueProxy:
            found.append(leaf.tracer)
        return leaf

    map_aggregate(arguments, visit)
    return found[0]


def _unpacks(frame: FrameType) -> bool:
    """Whether the frame stands at ``a, b = ...``, whose length Python itself checks."""
    code: bytes = frame.f_code.co_code
    return dis.opname[code[frame.f_lasti]] == "UNPACK_SEQUENCE"


def _recorder(proxy: ValueProxy, name: str) -> Callable[..., Any]:
    """The bound method ``proxy.name``, recorded when called."""

    def method(*args: Any, **kwargs: Any) -> Any:
        return proxy.tracer.create_proxy("call_method", name, (proxy, *args), kwargs)

    method.__name__ = name
    return method


def is_instance(value: object, kinds: Any) -> bool:
    """``isinstance``, that sees what a proxy stands for.

    A proxy can't claim to be a tensor to everyone: PyTorch itself would take its memory for one.
    """
    return isinstance(value, kinds) or (
        type(value) is ValueProxy and isinstance(value.example, kinds)
    )
