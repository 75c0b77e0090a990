"""The arguments of a model: placeholders for what is symbolic, guards for what is not.

Tensors and numbers become symbolic, wherever they are in tuples, lists and dicts. None, strings,
flags and the lengths of containers are what the examples say, and a guard holds them to it.
"""

from __future__ import annotations

import copy
import enum
import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from qfx.capture.proxy import ValueProxy
from qfx.capture.tracer import CaptureTracer
from qfx.errors import CaptureError, ConfigError
from qfx.graph.copying import Holder

_Empty = inspect.Parameter.empty
_VAR_POSITIONAL: Any = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD: Any = inspect.Parameter.VAR_KEYWORD


def copy_tensors(value: object) -> Any:
    """``value`` with its tensors cloned, so that a model may work in place on them."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copy_tensors, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(copy_tensors, value))
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update({k: copy_tensors(v) for k, v in value.items()})
        return copied
    return value


@dataclass(frozen=True)
class Argument:
    """One parameter of forward, and what the examples say of it.

    Attributes:
        parameter: its declaration.
        value: the example, or the default.
        given: "position", "keyword", or "" when the examples leave it out.
    """

    parameter: inspect.Parameter
    value: Any
    given: str

    @property
    def is_variadic(self) -> bool:
        return self.parameter.kind in (_VAR_POSITIONAL, _VAR_KEYWORD)


def copies(bound: tuple[Argument, ...]) -> tuple[Argument, ...]:
    """The arguments with tensors of their own, so that a model may work in place on them."""
    return tuple(replace(each, value=copy_tensors(each.value)) for each in bound)


def bind(
    model: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]
) -> tuple[Argument, ...]:
    """The example arguments of ``model`` by parameter; ConfigError if they do not fit.

    CaptureError if no graph can have these parameters.
    """
    signature = inspect.signature(model.forward)
    try:
        values = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise ConfigError(
            f"the example inputs do not fit forward{signature} of {type(model).__name__}: {error}. "
            "What to do: pass one tensor, or a tuple of the positional arguments, and the rest as "
            "example_kwargs."
        ) from error
    if "torch" in signature.parameters:
        raise CaptureError(
            f"forward{signature} of {type(model).__name__} has a parameter called 'torch', which "
            "would hide the package in the code of the graph. What to do: rename the parameter."
        )
    bound = []
    for name, parameter in signature.parameters.items():
        given = "" if name not in values else "keyword" if name in kwargs else "position"
        bound.append(Argument(parameter, values.get(name, _absent(parameter)), given))
    return tuple(bound)


def _absent(parameter: inspect.Parameter) -> Any:
    """What forward sees when the argument is left out."""
    if parameter.kind is _VAR_POSITIONAL:
        return ()
    return {} if parameter.kind is _VAR_KEYWORD else parameter.default


def call(root: nn.Module, tracer: CaptureTracer, bound: tuple[Argument, ...]) -> Any:
    """Call the forward of ``root`` with placeholders, as the examples call it."""
    proxies = [_placeholder(tracer, each) for each in bound]
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for proxy, each in zip(proxies, bound, strict=True):
        name = each.parameter.name
        if not each.given and not each.is_variadic:
            if not _left_out(tracer, proxy, name):
                named[name] = proxy
            continue
        unpacked = _unpack(tracer, proxy, each.value, name)
        if each.parameter.kind is _VAR_KEYWORD:
            named.update(unpacked)
        elif each.parameter.kind is _VAR_POSITIONAL:
            positional.extend(unpacked)
        elif each.given == "keyword":
            named[name] = unpacked
        else:
            positional.append(unpacked)
    target = root.module if isinstance(root, Holder) else root.forward
    return target(*positional, **named)


def _placeholder(tracer: CaptureTracer, argument: Argument) -> ValueProxy:
    parameter = argument.parameter
    stars = {_VAR_POSITIONAL: "*", _VAR_KEYWORD: "**"}
    if parameter.default is _Empty:
        name = stars.get(parameter.kind, "") + parameter.name
        return tracer.placeholder(name, (), argument.value)
    default = parameter.default if _is_literal(parameter.default) else None
    example = argument.value if argument.given else default
    return tracer.placeholder(parameter.name, (default,), example)


def _left_out(tracer: CaptureTracer, proxy: ValueProxy, name: str) -> bool:
    """Fix an argument that the examples leave out, unless its default is a number."""
    if type(proxy.example) in (int, float):
        return False
    tracer.guard(proxy, proxy.example, f"argument {name}")
    return True


def _is_literal(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_literal, value))
    if isinstance(value, dict):
        return all(map(_is_literal, (*value.keys(), *value.values())))
    return isinstance(value, (bool, int, float, str, type(None), torch.dtype, torch.device))


def _unpack(tracer: CaptureTracer, proxy: ValueProxy, value: object, name: str) -> Any:
    """What forward receives for the argument ``name``: proxies inside the containers passed."""
    if isinstance(value, torch.Tensor):
        tracer.inputs.append((name, proxy))
        return proxy
    if type(value) in (int, float, complex):
        return proxy
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        tracer.fix_length(proxy, f"argument {name}")
        items = [
            _unpack(tracer, tracer.element(proxy, i), item, f"{name}[{i}]")
            for i, item in enumerate(value)
        ]
        made = type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(made, list):
            tracer.assignments.watch_argument(name, made, proxy)
        return made
    if isinstance(value, dict):
        tracer.fix_length(proxy, f"argument {name}")
        unpacked = copy.copy(value)
        for key, item in value.items():
            unpacked[key] = _unpack(tracer, tracer.element(proxy, key), item, f"{name}[{key!r}]")
        tracer.assignments.watch_argument(name, unpacked, proxy)
        return unpacked
    if value is None or isinstance(value, (bool, str, torch.dtype, torch.device, enum.Enum)):
        tracer.guard(proxy, value, f"argument {name}")
        return value
    raise ConfigError(
        f"argument {name} of the example inputs is a {type(value).__name__}. What to do: pass "
        "tensors, numbers, strings, None, and tuples, lists and dicts of them."
    )
