"""What an engine is: it says what it takes, builds a piece of a reference graph, and runs it.

    class Acme(qfx.engines.PieceEngine):
        name = "acme"

        def lacks(self) -> str:                     # "" where it can be used
        def version(self) -> str:
        def build(self, piece, settings) -> Built:

A package of its own registers one in the entry-point group ``qfx.engines``: the name = an
:class:`Engine` of that name, or what makes it when it is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from qfx.export.onnx.forms import OnnxForm
from qfx.export.problems import Problem

if TYPE_CHECKING:
    from qfx.engines.pieces import Piece


class CannotRun(Exception):  # noqa: N818 - why, for the table; users see it there
    """Raised by an engine: it can't build a piece, or not for these sizes."""


@dataclass(frozen=True)
class BuildSettings:
    """How a piece is to be built.

    Attributes:
        threads: how many an engine may use for a call.
        form: how values are rounded where engines want more of it (:class:`OnnxForm`).
        shapes: of the inputs, where the program is for these alone; None for every size that the
            piece takes.
        float_dtype: in which float parts may be computed: float32, or bfloat16 where an engine can.
    """

    threads: int
    form: OnnxForm = OnnxForm.EXACT
    shapes: tuple[tuple[int, ...], ...] | None = None
    float_dtype: torch.dtype = torch.float32


class EngineProgram(Protocol):
    """A piece that was built; many threads call it at once."""

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs of the piece; inputs are contiguous tensors on the CPU, not to be written to.

        What it returns is the caller's: the next call does not write to it.
        """


@dataclass(frozen=True)
class Built:
    """A program, and the sizes that it takes.

    Attributes:
        program: runs it.
        takes: whether it takes inputs of these shapes; those of its settings, if it has any.
    """

    program: EngineProgram
    takes: Callable[[tuple[tuple[int, ...], ...]], bool]


class Engine(ABC):
    """An engine, by name.

    Attributes:
        name: as ``qfx.compile(engine=...)`` takes it.
        deadline: seconds that building may take, and a first run.
        patient: whether building takes minutes, so that "auto" does not try it.
    """

    name: ClassVar[str]
    deadline: float = 120.0
    patient: ClassVar[bool] = False

    @abstractmethod
    def lacks(self) -> str:
        """What is missing here, and how to get it; "" if nothing is."""

    @abstractmethod
    def version(self) -> str:
        """The version of the engine itself."""


class PieceEngine(Engine):
    """An engine that is given pieces of the reference graph; eager runs what it does not take."""

    def problems(self, piece: Piece) -> Sequence[Problem]:
        """The nodes of a piece that this engine can't take; they are left to eager."""
        return ()

    def forms(self, piece: Piece) -> Sequence[OnnxForm]:
        """In which forms a piece may be built; the fastest that agrees is kept."""
        return (OnnxForm.EXACT,)

    @abstractmethod
    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        """Build a piece; two forms of it may be built at once, each on a thread of its own.

        Raises:
            CannotRun: it can't, and why.
        """

    def packed(self, built: Built) -> bytes | None:
        """What was built as bytes, for the cache; None: it is built anew each time."""
        return None

    def unpacked(self, data: bytes, settings: BuildSettings) -> Built:
        """What :meth:`packed` made bytes of, on the same machine and with the same versions.

        Raises:
            CannotRun: it can't be read.
        """
        raise CannotRun(f"{self.name} keeps nothing")


class WholeEngine(Engine):
    """An engine that runs a model as a whole, by the kernels of PyTorch."""

    @abstractmethod
    def wrap(
        self, model: nn.Module, settings: BuildSettings, *, dynamic: bool
    ) -> Callable[..., Any]:
        """What runs ``model``, with its arguments and results.

        Raises:
            CannotRun: it can't, and why.
        """
