"""What a canonical operation is: a name, a computation, a kind, spellings and traits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from torch import nn


class Kind(Enum):
    """What an operation does to values; decides how quantization may treat it."""

    MATMUL = "matmul"  # multiply-accumulates against weights or another tensor
    ARITHMETIC = "arithmetic"  # elementwise of one or two operands, new range
    ACTIVATION = "activation"  # elementwise of one operand
    LOOKUP = "lookup"  # picks rows of a weight by integers, and perhaps pools them
    NORM = "norm"
    POOL = "pool"  # output values lie within the range of the input
    SHAPE = "shape"  # output values are input values, moved, copied or dropped
    JOIN = "join"  # several tensors become one, values unchanged
    REDUCE = "reduce"
    QUANT = "quant"  # quantize and dequantize
    STUB = "stub"
    PARAMETER = "parameter"  # what training does to parameters, and undoes
    QUERY = "query"  # yields shapes and numbers, not tensors


_ANYTHING = inspect.Signature(
    [
        inspect.Parameter("values", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD),
    ]
)


@dataclass(frozen=True, eq=False, repr=False)
class OpDef:
    """A canonical operation; calling it runs it.

    Attributes:
        name: as printed in the IR.
        function: the computation (:mod:`qfx.semantics` or torch itself).
        kind: see :class:`Kind`.
        modules, functions, methods: the spellings that mean this operation.
        dims: how many dims its input has behind batch and channels; None if it takes any number.
        layer: whether it multiplies by a weight of output channels, and adds a bias, so that
            what scales or shifts its output channels can be folded into it.
        transposed: whether its weight has the input channels first.
        commutative: whether its first two operands may be swapped (ADD while it has no ``alpha``).
        picks: whether its results are values of its input, beside those whose kind says so.
        rearranges: whether it yields every element of its input once.
        elementwise: whether it computes each element of one tensor by itself.
        affine: whether it adds to what it reads, scales it, or only changes its dtype.
        reads_scores: whether it takes scores of attention, into which masks put -inf.
        asks_form: whether it asks of a value what the integers that stand for it tell as well.
        inert: whether it computes nothing in inference: a place that passes know by name.
        normalizes_last: whether it is a norm over the last dims, with a weight for each element.
        bounds: between which values its results lie whatever it reads; None if that depends.
    """

    name: str
    function: Callable[..., Any]
    kind: Kind
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    _: KW_ONLY
    dims: int | None = None
    layer: bool = False
    transposed: bool = False
    commutative: bool = False
    picks: bool = False
    rearranges: bool = False
    elementwise: bool = False
    affine: bool = False
    reads_scores: bool = False
    asks_form: bool = False
    inert: bool = False
    normalizes_last: bool = False
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", self.name.upper())
        object.__setattr__(self, "__qualname__", self.name.upper())
        object.__setattr__(self, "__module__", __package__)  # where code that is written finds it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"vocab.{self.name.upper()}"

    def __str__(self) -> str:
        return self.name

    def __copy__(self) -> OpDef:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> OpDef:
        return self

    def __reduce__(self) -> tuple[Callable[[str], OpDef], tuple[str]]:
        return lookup, (self.name,)

    @cached_property
    def signature(self) -> inspect.Signature:
        """What it takes; read when first asked for, as many operations never are."""
        try:
            return inspect.signature(self.function)
        except ValueError:  # Python can't tell of some built-ins
            return _ANYTHING

    @property
    def __signature__(self) -> inspect.Signature:
        return self.signature

    @property
    def channel_axis(self) -> int | None:
        """The channels of input and output, from the end: inputs may come without a batch."""
        return None if self.dims is None else -1 - self.dims

    @property
    def moves(self) -> bool:
        """Whether its results are values of its inputs: moved, joined, copied or picked."""
        return self.picks or self.kind in (Kind.SHAPE, Kind.JOIN)

    @property
    def takes_post(self) -> bool:
        """Whether the operation can carry fused post-ops."""
        return "post" in self.signature.parameters


_BY_NAME: dict[str, OpDef] = {}


def define(
    function: Callable[..., object],
    kind: Kind,
    modules: tuple[type[nn.Module], ...] = (),
    functions: tuple[Callable[..., object], ...] = (),
    methods: tuple[str, ...] = (),
    *,
    name: str = "",
    **traits: Any,
) -> OpDef:
    """Adds an operation, called like its function, to the vocabulary: a row of its tables."""
    op = OpDef(name or function.__name__, function, kind, modules, functions, methods, **traits)
    _BY_NAME[op.name] = op
    return op


def lookup(name: str) -> OpDef:
    """The operation called ``name``; KeyError if the vocabulary has none."""
    return _BY_NAME[name]


def has(name: object) -> bool:
    """Whether an operation is called ``name``."""
    return isinstance(name, str) and name in _BY_NAME


def ops() -> Iterator[OpDef]:
    """Every operation, in the order of the table."""
    return iter(_BY_NAME.values())
