"""Where user code stands: source lines of frames, and readable names of what was called.

A frame is the user's when its file lies neither in torch nor in numpy or qfx and was not generated.
Files are shown from the top of their package on (``torchvision/models/resnet.py:92``), so that the
text is short and the same on every machine.
"""

from __future__ import annotations

import importlib.util
import linecache
import operator
import os
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch
from torch import nn

from qfx.torch_private import OVERLOAD

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_HIDDEN = (os.path.dirname(os.path.abspath(torch.__file__)) + os.sep, _OWN)
_NUMPY = importlib.util.find_spec("numpy")  # which need not be installed
_FILE = _NUMPY.origin if _NUMPY is not None else None  # a folder of that name has none
_LIBRARIES = () if _FILE is None else (os.path.dirname(_FILE) + os.sep,)
_GENERATED = ("<eval_with_key>", "<frozen", "<string>")


@cache
def is_outside(filename: str) -> bool:
    """Whether code is not torch's, not ours and not the code of a graph; it may have no file."""
    return not filename.startswith((*_HIDDEN, "<eval_with_key>", "<frozen"))


@cache
def _is_users(filename: str) -> bool:
    return not filename.startswith((*_HIDDEN, *_LIBRARIES, *_GENERATED))


@cache
def _short(filename: str, module_name: str) -> str:
    """The part of ``filename`` that belongs to the package of ``module_name``."""
    parts = Path(filename).parts
    depth = module_name.count(".") + 1
    if parts and parts[-1] == "__init__.py":
        depth += 1
    return "/".join(parts[-depth:])


def user_frame(frame: FrameType | None, stop: CodeType | None = None) -> FrameType | None:
    """The innermost frame of user code at or above ``frame``; none beyond the code ``stop``."""
    while frame is not None and frame.f_code is not stop:
        if _is_users(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def outside_numpy(frame: FrameType) -> FrameType:
    """The innermost frame at or above ``frame`` that belongs neither to numpy nor to us."""
    hidden = (*_LIBRARIES, _OWN)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(hidden):
        frame = frame.f_back
    return frame


def location(frame: FrameType | None) -> str:
    """Where a frame stands: "package/file.py:12", or ""."""
    if frame is None:
        return ""
    name = frame.f_globals.get("__name__") or ""
    return f"{_short(frame.f_code.co_filename, str(name))}:{frame.f_lineno}"


def line_text(frame: FrameType | None) -> str:
    """The source line at which ``frame`` stands, stripped, or ""."""
    if frame is None:
        return ""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


def raised_at(traceback: TracebackType | None, stop: CodeType | None = None) -> str:
    """Where the innermost user frame of a traceback stands, below the code ``stop``; or ""."""
    found, inside = "", stop is None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        inside = inside or code is stop
        if inside and _is_users(code.co_filename):
            name = traceback.tb_frame.f_globals.get("__name__") or ""
            found = f"{_short(code.co_filename, str(name))}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


_SHORT_MODULES = {
    "_operator": "operator",
    "builtins": "",
    "torch._C._nn": "torch.nn.functional",
    "torch._C": "torch",
    "torch._VariableFunctions": "torch",
}


def qualified_name(target: object) -> str:
    """A readable name of a function: "torch.add", "operator.add", "torch.nn.functional.relu"."""
    if isinstance(target, OVERLOAD):
        return str(target.overloadpacket)
    name = str(getattr(target, "__name__", target))
    module = getattr(target, "__module__", None)
    if module is None:
        module = next((m.__name__ for m in (torch, operator) if hasattr(m, name)), "")
    module = _SHORT_MODULES.get(module, module)
    return f"{module}.{name}" if module else name


def type_name(kind: type) -> str:
    """Qualified name of a class: "torch.nn.modules.conv.Conv2d"."""
    return f"{kind.__module__}.{kind.__qualname__}"


# What a subclass may define without changing what a module of PyTorch computes.
_HARMLESS = frozenset(
    [
        "__init__",
        "__module__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__constants__",
        "__qualname__",
        "__repr__",
        "__static_attributes__",
        "__firstlineno__",
        "__annotate_func__",
        "__annotations_cache__",
        "__slots__",
        "__parameters__",
        "__orig_bases__",
        "extra_repr",
        "reset_parameters",
        "_reset_parameters",
        "extra_state",
    ]
)


@cache
def _torch_class(kind: type) -> type[nn.Module] | None:
    defined: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("torch.nn."):
            overridden = (defined - _HARMLESS) & (set(dir(base)) | set(_annotated(base)))
            return None if overridden else base
        defined |= set(vars(base))
    return None


def _annotated(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})}


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of ``torch.nn`` that says what ``module`` computes, or None.

    That is its own class, or the one that it inherits from without overriding what it does.
    """
    if "forward" in vars(module):
        return None
    kind: type = type(module)
    return _torch_class(kind)
