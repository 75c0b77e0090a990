"""Every name of PyTorch that need not be there: private ones, and operators of ``torch.ops``.

Releases rename and drop such names, and builds differ. So each is looked up here and nowhere else,
with what stands in where it is missing: a way without it, or :class:`Missing`, which raises when it
is called. A kernel that is missing is thus one more that a probe finds not to work.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from qfx.errors import BackendError

pytree = _pytree
"""Nested containers and what they hold. ``torch.fx`` stands on it: without it there is neither."""

QUANTIZED_DTYPES = (
    *("torch.quint8", "torch.qint8", "torch.quint4x2", "torch.backends.quantized"),
    *("torch.quantize_per_tensor", "torch.quantize_per_channel"),
    *("torch._make_per_tensor_quantized_tensor", "torch._make_per_channel_quantized_tensor"),
    *("torch.ops.quantized.linear", "torch.ops.quantized.linear_prepack"),
)
"""What PyTorch has for as long as it has quantized dtypes."""

DETECT_CAUSAL = "torch.nn.modules.transformer._detect_is_causal_mask"
"""(mask, is_causal, size): whether attention may use a kernel for causal masks."""

CHECK = "torch._check_with"
"""(error, condition, message): what ``torch._check`` and its like end in."""

DTYPE_OF_MASK = "torch.nn.functional._none_or_dtype"
"""(mask): its dtype, which that of another mask is compared with."""


class Missing:
    """Stands for a function that this PyTorch lacks; BackendError when it is called."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise BackendError(
            f"PyTorch {torch.__version__} has no {self.path}. What to do: choose another backend, "
            "or a version of PyTorch that has it."
        )


def find(path: str, instead: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function of PyTorch by its path.

    Args:
        path: as in code: "torch.ops.onednn.qlinear_pointwise.default".
        instead: what does the same where it is missing.
    """
    found: Callable[..., Any] | None = _found(path)
    return found or instead or Missing(path)


def _kind(base: str, *kinds: type[nn.Module]) -> tuple[type[nn.Module], ...]:
    """The private base of some modules of PyTorch; these themselves where it is missing."""
    found: type[nn.Module] | None = _found(base)
    return kinds if found is None else (found,)


def capabilities() -> Mapping[str, object]:
    """What PyTorch tells of the CPU, by its own names; empty where it doesn't."""
    return find("torch.cpu.get_capabilities", instead=dict)()  # type: ignore[no-any-return]


def multiplies_halves() -> bool:
    """Whether the CPU has instructions that multiply matrices of halves, as far as PyTorch tells.

    It is looked up when it is asked for, as a process may be told otherwise.
    """
    return bool(find("torch.cpu._is_amx_fp16_supported", instead=bool)())


def load_decomposed() -> bool:
    """Have PyTorch register the operators of ``torch.ops.quantized_decomposed``, if it has them.

    They stand in a module of its deprecated quantization, which Inductor loads, too.
    """
    with suppress(ImportError):
        import_module("torch.ao.quantization.fx._decomposed")
    return not lacking(["torch.ops.quantized_decomposed.quantize_per_tensor.default"])


def schema_arguments(operator: object) -> Sequence[Any] | None:
    """The arguments in the schema of an operator of ``torch.ops``; None where it can't be told."""
    schema = getattr(operator, "_schema", None)
    return None if schema is None else schema.arguments


def lacking(paths: Iterable[str]) -> tuple[str, ...]:
    """Those of ``paths`` that this PyTorch lacks."""
    return tuple(path for path in paths if _found(path) is None)


def at_once(operator: Callable[..., Any]) -> Callable[..., Any]:
    """An overload of ``torch.ops`` on a tensor and packed objects, less what calls ask of those.

    That is whether one stands in for another while a graph is exported, and whether it is a tensor
    of a subclass: packed objects answer by an exception in C++, 13 of 17 microseconds of a call.
    """
    found: Callable[..., Any] = getattr(operator, "_op", operator)
    unasked = find("torch._C.DisableTorchFunctionSubclass", instead=nullcontext)

    def call(tensor: Tensor, *rest: object) -> Any:
        if type(tensor) is not Tensor:  # of a subclass, say, which is to be asked
            return operator(tensor, *rest)
        with unasked():
            return found(tensor, *rest)

    return call


@contextmanager
def wrapped(wrappers: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Functions of PyTorch, by their paths, in wrappers; one that is missing can't be called.

    Afterwards each is as it was, whatever becomes of the others. What someone else put in its
    place meanwhile stays.
    """
    with ExitStack() as undo:
        for path, wrap in wrappers.items():
            place, _, name = path.rpartition(".")
            owner, original = _found(place), _found(path)
            if original is None:
                continue
            made = wrap(original)
            undo.callback(_unwrap, owner, name, made, original)
            setattr(owner, name, made)
        yield


def _unwrap(owner: object, name: str, made: object, original: object) -> None:
    if getattr(owner, name, None) is made:
        setattr(owner, name, original)


def _found(path: str) -> Any:
    found: Any = torch
    for name in path.split(".")[1:]:
        found = getattr(found, name, None)
    return found


# -- names that are used as they are -------------------------------------------------------------
ASSERT = find("torch._assert")
"""(condition, message): an assertion that a graph holds."""

PACKERS = (find("torch._pack_padded_sequence"), find("torch._pad_packed_sequence"))
"""What packing sequences of several lengths, and unpacking them, ends in."""

PAD_SEQUENCE = find("torch._C._nn.pad_sequence")
"""(sequences, batch_first, padding_value, padding_side): sequences of several lengths as one."""

TRILINEAR = find("torch.ops.aten._trilinear")
"""The operator that bilinear layers end in."""

INT8_PRODUCT = find("torch._weight_int8pack_mm")
"""(input, weight, scales): a float product with integer weights, a scale a row."""

INT4_PRODUCT = find("torch._weight_int4pack_mm_for_cpu")
"""(input, packed, group size, scales and zeros): the same with packed weights in groups."""

PACK_INT4 = find("torch._convert_weight_to_int4pack_for_cpu")
"""(codes, inner tiles): what that takes."""

GROUPED_PRODUCTS = tuple(
    found
    for found in map(_found, ("torch._grouped_mm", "torch.nn.functional.grouped_mm"))
    if found is not None
)
"""(rows, matrices, offs): groups of rows, each multiplied with a matrix of its own."""

_GROUPED_OPERATORS = ("aten._grouped_mm", "transformers.grouped_mm_fallback")
"""What these end in, and what transformers puts in their place: in exported programs, and under
PyTorch up to 2.10 for weights that don't start at a multiple of 16 bytes."""

graph_task: Callable[[], int] = find("torch._C._current_graph_task_id", instead=lambda: -1)
"""The number of the backward pass that runs; -1 for none, and where it can't be told."""

make_per_tensor: Callable[..., Tensor] = find("torch._make_per_tensor_quantized_tensor")
make_per_channel: Callable[..., Tensor] = find("torch._make_per_channel_quantized_tensor")
"""Tensors of a quantized dtype from their codes, with scale and zero point."""


def holds_scale(dtype: torch.dtype) -> bool:
    """Whether tensors of ``dtype`` carry a scale, which the meta device knows nothing of."""
    return str(dtype).startswith(("torch.qu", "torch.qi"))


OVERLOAD, PACKET = type(torch.ops.aten.relu.default), type(torch.ops.aten.relu)
"""The types of operators of ``torch.ops``: of one overload, of all under one name."""


def is_grouped_product(target: object) -> bool:
    """Whether a call of ``target`` multiplies groups of rows, each with a matrix of its own."""
    packet = target.overloadpacket if isinstance(target, OVERLOAD) else target
    named = isinstance(packet, PACKET) and str(packet) in _GROUPED_OPERATORS
    return named or target in GROUPED_PRODUCTS


def grouped_operators() -> Iterator[Callable[..., Any]]:
    """The operators that do so, of the libraries that are there by now."""
    found = (_found(f"torch.ops.{name}") for name in _GROUPED_OPERATORS)
    return (operator for operator in found if operator is not None)


BATCH_NORMS = _kind(
    "torch.nn.modules.batchnorm._BatchNorm",
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
)
DROPOUTS = _kind(
    "torch.nn.modules.dropout._DropoutNd",
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)
"""Modules of a kind, with all that inherit from them."""


IS_TRANSFORMED: Callable[[Tensor], bool] = find(
    "torch._C._functorch.is_functorch_wrapped_tensor", instead=lambda tensor: True
)
"""Whether a tensor is one of ``torch.func``, which has no rules for ``out=``."""


def active_ddp() -> Any:
    """The DistributedDataParallel whose forward runs, or None.

    Raises:
        BackendError: this PyTorch does not tell.
    """
    kind = nn.parallel.DistributedDataParallel
    if not hasattr(kind, "_active_ddp_module"):
        Missing("torch.nn.parallel.DistributedDataParallel._active_ddp_module")()
    return getattr(kind, "_active_ddp_module", None)


class _NoDispatchMode:
    """Stands for ``TorchDispatchMode`` where it is missing."""

    def __enter__(self) -> None:
        Missing("torch.utils._python_dispatch.TorchDispatchMode")()

    def __exit__(self, *_: object) -> None: ...


DispatchMode: Any = find("torch.utils._python_dispatch.TorchDispatchMode", instead=_NoDispatchMode)
"""Base of modes that see every operator; where it is missing none can be entered."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MORE_OF_HOOKS = (
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks_with_kwargs", "_is_full_backward_hook"),
)
HOOKS = tuple(name for name in _HOOKS if hasattr(nn.Module(), name))
"""Attributes of a module that hold its hooks, by their handles."""

HOOK_STATE = (*HOOKS, *(name for name in _MORE_OF_HOOKS if hasattr(nn.Module(), name)))
"""All attributes of a module that tell what is hooked to it, and how."""

_EXPORT = "torch.export._trace"


def exported_call() -> tuple[nn.Module, Mapping[str, object]] | None:
    """The module whose graph ``torch.export`` is reading, and the keyword arguments of the call.

    torch.export reads the graph of a graph module in place of its code, with all that it is given
    in a row, and the names are left behind: 2.9 to 2.14, at least. None anywhere else.
    """
    frame = sys._getframe(1)
    for _ in range(6):  # those of fx lie between
        if frame.f_globals.get("__name__") == _EXPORT and frame.f_code.co_name == "forward":
            module, keywords = (frame.f_locals.get(name) for name in ("mod", "kwargs"))
            known = isinstance(module, nn.Module) and isinstance(keywords, dict)
            return (module, keywords) if known else None  # type: ignore[return-value]
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


_COMPILER = "torch._dynamo"
_resting_lock = threading.Lock()
_resting: list[Any] = []
"""The stance that the compiler had, once for each that wants it to rest."""


@contextmanager
def compiler_resting() -> Iterator[None]:
    """What was compiled runs as it was written meanwhile, in the whole process.

    Under a mode that the compiler does not know, torch would mark what is called as never to be
    compiled: ``torch.cond``, which compiles itself, would raise from then on.
    """
    if _COMPILER not in sys.modules:  # nothing was compiled, and its import takes seconds
        yield
        return
    with _resting_lock:
        had = _resting[0] if _resting else torch.compiler.set_stance("force_eager")
        _resting.append(had)
    try:
        yield
    finally:
        with _resting_lock:
            had = _resting.pop()
            if not _resting:
                had.__exit__(None, None, None)
