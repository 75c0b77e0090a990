"""Proxies that know what they stand for.

While a model is traced, every proxy carries the value that the example inputs give it. Numbers that
come from shapes, dtypes or arguments can therefore steer Python (``if``, ``range``, ``len``): the
decision is recorded as a guard, which fails loudly if the graph later sees inputs that would decide
otherwise. Numbers that come from the contents of tensors can't, and raise.
"""

from __future__ import annotations

import dis
import math
import operator
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from qfx.capture.arithmetic import Arithmetic
from qfx.capture.devices import DeviceType
from qfx.capture.messages import tells_people
from qfx.capture.provenance import Provenance, TracedMemory, is_plain
from qfx.graph import source

if TYPE_CHECKING:
    from qfx.capture.evaluation import EvaluatingTracer

_FIXED = frozenset(
    {
        *("is_nested", "is_sparse", "is_quantized", "is_meta", "is_mkldnn", "is_leaf", "layout"),
        *("requires_grad", "grad", "names"),
    }
)
"""What is true of ordinary tensors, whichever they are."""


_OF_NUMPY = {f.__name__: f for f in (math.sqrt, math.exp, math.log, math.log2, math.log10)}
"""Functions of numpy that yield of a number what Python's yield."""

_WHOLE_OF_NUMPY = {f.__name__: f for f in (math.ceil, math.floor, math.trunc)}
"""And those that yield floats where Python's yield integers."""

_OF_GRADIENTS = frozenset(("is_leaf", "requires_grad"))


class _Classed:
    """Something that tells user code the class of what it stands for, and no one else."""

    example: Any

    @property  # type: ignore[misc]  # nobody sets it
    def __class__(self) -> Any:  # asked for by ``isinstance``, too, and by PyTorch in C
        caller = sys._getframe(1)
        if "__class__" in caller.f_code.co_names and source.is_outside(caller.f_code.co_filename):
            return type(self.example) if _instruction(caller) == "LOAD_ATTR" else type(self)
        return type(self)


class ValueProxy(_Classed, Arithmetic, fx.Proxy):
    """A proxy with the value that its node has for the example inputs.

    Attributes:
        example: that value.
        provenance: what it depends on.
        memory: the memory behind its tensors.
    """

    tracer: EvaluatingTracer

    def __init__(
        self,
        node: fx.Node,
        tracer: EvaluatingTracer,
        example: object,
        provenance: Provenance,
        memory: TracedMemory,
    ) -> None:
        super().__init__(node, tracer)
        self.example = example
        self.provenance = provenance
        self.memory = memory
        self._iterated = (0, 0)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "data":
            self.tracer.set_data(self, value)
        else:
            super().__setattr__(name, value)

    @property
    def from_input(self) -> bool:
        """Whether it depends on the inputs at all; what does not is a constant."""
        return self.provenance.inputs or self.memory.depends_on_inputs

    @property
    def from_data(self) -> bool:
        """Whether it depends on the contents of input tensors."""
        return self.provenance.data or self.memory.depends_on_data

    @property
    def from_size(self) -> bool:
        """Whether it, or the rank of a tensor, depends on more than the ranks of the inputs."""
        return self.provenance.sizes

    @property
    def from_layout(self) -> bool:
        """Whether it depends on how tensors lie in memory."""
        return self.provenance.layout

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _may_be_of_numpy(self.node) and not hasattr(self.example, name):
            return self._of_numpy(name)
        value = getattr(self.example, name)
        if isinstance(self.example, torch.device):
            return DeviceType(self) if name == "type" and self.from_input else value
        if name == "grad_fn":
            return object() if self.tracer.state(False, sys._getframe(1), ".grad_fn") else None
        if name in _FIXED:
            asked = name in _OF_GRADIENTS
            return self.tracer.state(value, sys._getframe(1), f".{name}") if asked else value
        if name == "dtype" and self.tracer.tells_dtypes(sys._getframe(1)):
            self.tracer.fix_dtypes()
            return value
        if value is None and isinstance(self.example, tuple):
            return None  # a field that is left out, which Python may ask about
        if callable(value) and not isinstance(value, torch.Tensor):
            return _recorder(self, name)
        return self.tracer.call(getattr, self, name)

    def __bool__(self) -> bool:
        return bool(self.tracer.decide(self, bool, "a branch"))

    def __int__(self) -> int:
        if self._is_shown(sys._getframe(1)):
            return int(self.example)
        self.tracer.note_conversion(sys._getframe(1))
        return int(self.tracer.decide(self, int, "int()"))

    def __float__(self) -> float:
        if self._is_shown(sys._getframe(1)):
            return float(self.example)
        self.tracer.note_conversion(sys._getframe(1))
        return float(self.tracer.decide(self, float, "float()"))

    def __index__(self) -> int:
        operator.index(self.example)  # raises what Python does
        if self._is_shown(sys._getframe(1)):
            return int(self.example)
        return self.tracer.decide_unless_call(self, sys._getframe(1))

    def _is_shown(self, caller: FrameType) -> bool:
        """Whether ``"%d" % x`` asks for the number, in a text that is only shown."""
        is_number = isinstance(self.example, (int, float)) and not self.from_data
        is_part = is_number and _instruction(caller).startswith("BINARY")
        return is_part and tells_people(caller, self.tracer.entry)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy  # which asks for this, and need not be installed

        self.tracer.decide_value(self, "an array of numpy", source.outside_numpy(sys._getframe(1)))
        return numpy.array(self.example, dtype=dtype)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        import numpy

        if function is numpy.prod and not kwargs and len(args) == 1 and _holds_sizes(self.example):
            return self.tracer.call(math.prod, self)
        return numpy.ndarray.__array_function__(numpy.empty(0), function, (), args, kwargs)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        of_number = _OF_NUMPY.get(function.__name__) if method == "__call__" else None
        whole = _WHOLE_OF_NUMPY.get(function.__name__) if method == "__call__" else None
        found = of_number or whole
        if found is not None and not options and type(self.example) in (int, float):
            number = self.tracer.call(found, *inputs)
            return self.tracer.call(float, number) if whole else number
        arrays = [each.__array__() if type(each) is ValueProxy else each for each in inputs]
        return getattr(function, method)(*arrays, **options)

    def _of_numpy(self, name: str) -> Any:
        """What a product has that a number of Python lacks: to the model it may be one of numpy."""
        if name == "item":
            return lambda: self
        numpy = sys.modules.get("numpy")
        if not hasattr(getattr(numpy, "int64", None), name):
            raise AttributeError(name)
        return getattr(self.__array__()[()], name)

    def __len__(self) -> int:
        if self._is_hint(sys._getframe(1)):
            return len(self.example)
        len(self.example)  # raises what Python does
        length = self.tracer.call(len, self)
        return int(self.tracer.decide(length, int, "len()"))

    def _is_hint(self, caller: FrameType) -> bool:
        """Whether ``[*x]`` asks, right after ``iter(x)``, how many elements to expect."""
        return self._iterated == (id(caller), caller.f_lasti)

    def __iter__(self) -> Iterator[Any]:
        caller = sys._getframe(1)
        self._iterated = (id(caller), caller.f_lasti)
        if isinstance(self.example, dict):
            return iter(self.example)
        if hasattr(self.example, "__array__"):  # a tensor, or an array of numpy
            self.tracer.fix_length(self, "a loop")
        elif not isinstance(self.example, (tuple, list)):
            self.tracer.refuse(f"iteration over a {type(self.example).__name__}", "give its parts")
        elif self.node.op != "call_module" and not _unpacks(caller):
            self.tracer.fix_length(self, "a loop")
        return iter([self[i] for i in range(len(self.example))])

    def __contains__(self, item: object) -> bool:
        if isinstance(self.example, dict):
            return item in self.example
        if isinstance(self.example, torch.Tensor):
            return bool((self == item).any())
        return any(bool(item == element) for element in self)

    def __getitem__(self, index: object) -> Any:
        held = self.example
        if isinstance(held, (tuple, list)) and type(index) is int and held[index] is None:
            return None  # what a call leaves out of its results, Python may ask about
        return self.tracer.call(operator.getitem, self, index)

    def __setitem__(self, index: object, value: object) -> None:
        self.tracer.call(operator.setitem, self, index, value)

    # Keys of dicts and texts are what a number is to them; tensors are themselves.
    def __eq__(self, other: object) -> Any:
        if self.tracer.is_done or (type(other) is ValueProxy and other.tracer is not self.tracer):
            return NotImplemented  # left behind in a cache by an earlier capture
        return self.tracer.call(operator.eq, self, other)

    def __hash__(self) -> int:
        if self.tracer.is_done or not is_plain(self.example):
            return id(self)
        self.tracer.decide_value(self, "a key", sys._getframe(1))
        return hash(self.example)

    def __repr__(self) -> str:
        return self._text(repr, sys._getframe(1))

    def __str__(self) -> str:
        return self._text(str, sys._getframe(1))

    def __format__(self, form: str) -> str:
        return self._text(lambda value: format(value, form), sys._getframe(1))

    def _text(self, write: Callable[[object], str], caller: FrameType) -> str:
        if self.tracer.is_done or not source.is_outside(caller.f_code.co_filename):
            return super().__repr__()
        if not tells_people(caller, self.tracer.entry):
            self.tracer.decide_value(self, "a text", caller)
        return write(self.example)

    @classmethod
    def __torch_function__(
        cls,
        orig_method: Callable[..., object],
        types: Any,
        args: Any = None,
        kwargs: Any = None,
    ) -> Any:
        _tracer_of((args, kwargs)).parsed_by(sys._getframe(1))
        return super().__torch_function__(orig_method, types, args, kwargs)


def _may_be_of_numpy(node: fx.Node) -> bool:
    """Whether ``node`` is what a function of numpy was recorded as."""
    if node.target is float and isinstance(node.args[0], fx.Node):
        return node.args[0].target in _WHOLE_OF_NUMPY.values()
    return node.target in (math.prod, *_OF_NUMPY.values())


def _holds_sizes(value: object) -> bool:
    """Whether ``value`` is a shape, or a part of one; numpy makes 1.0 of none, and Python 1."""
    return isinstance(value, (tuple, list)) and bool(value) and all(type(v) is int for v in value)


def _tracer_of(arguments: Any) -> EvaluatingTracer:
    found: list[EvaluatingTracer] = []

    def visit(leaf: object) -> Any:
        if type(leaf) is ValueProxy:
            found.append(leaf.tracer)
        return leaf

    map_aggregate(arguments, visit)
    return found[0]


def _unpacks(frame: FrameType) -> bool:
    """Whether the frame stands at ``a, b = ...``, whose length Python itself checks."""
    return _instruction(frame) == "UNPACK_SEQUENCE"


def _instruction(frame: FrameType) -> str:
    """What the frame is doing: the name of its bytecode instruction."""
    code: bytes = frame.f_code.co_code
    return dis.opname[code[frame.f_lasti]]


def _recorder(proxy: ValueProxy, name: str) -> Callable[..., Any]:
    """The bound method ``proxy.name``, recorded when called."""

    def method(*args: object, **kwargs: object) -> Any:
        made: Any = proxy.tracer.create_proxy("call_method", name, (proxy, *args), kwargs)
        if name == "is_contiguous":  # as a number of the graph it would tell of kernels' layouts
            return proxy.tracer.decide(made, bool, "a branch")
        return made

    method.__name__ = name
    return method
