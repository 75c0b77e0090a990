"""A quantized model: what users hold and call.

A :class:`QuantizedModel` owns two graphs. The *reference* graph (explicit quantize/dequantize on
plain integer tensors) is its meaning; the graph that runs is derived from it by the backend's
lowering and shares its tensors, plus packed weights that are opaque to copying and saving and are
rebuilt from the integer weights.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from torch import Tensor, fx, nn

from qfx.backends import needs
from qfx.backends.wide_codes import EXACT_SUMS, MAY_SATURATE, wide_layer
from qfx.capture.signature import take_keywords
from qfx.errors import BackendError, CaptureError, ConfigError, FormatError, QfxError, warn
from qfx.framework.levels import LEVEL, Level
from qfx.graph.clone import clone_graph_module, hide_opaque_values, is_opaque
from qfx.graph.in_place import hand_on_place, is_in_place
from qfx.graph.leaves import copy_hooks
from qfx.graph.locks import CAPTURE_LOCK
from qfx.graph.source import is_outside
from qfx.graph.ways import WAYS, apply_to_ways, instead
from qfx.graph.working import WorkingGraphModule
from qfx.history.weights import with_open_weights
from qfx.report.text import covered
from qfx.runtime.constants import pin_constants
from qfx.runtime.dtypes import probe_conversion, refuse_conversion
from qfx.runtime.inputs import Rounded, explained, refuse_dtypes, rounded_inputs
from qfx.runtime.own_code import with_own_code

if TYPE_CHECKING:
    from qfx.backends.base import Backend
    from qfx.framework.pass_base import Pass
    from qfx.history.history import History
    from qfx.report.sites import QuantizationReport
    from qfx.report.tuning import Tuning


@dataclass(frozen=True)
class Lowering:
    """How the graph that runs is derived from the reference form.

    Attributes:
        backend: the target.
        passes: what derives it, in order.
    """

    backend: Backend
    passes: tuple[Pass, ...]


_NOT_AS_SEEN = (
    "region {region} is called in a way that the example inputs did not show: {error}\nWhat to do: "
    "quantize with example inputs that call it so, too, or name parts of it, as in "
    'regions=("{region}.*",)'
)

_MODULE = nn.Module.state_dict.__code__.co_filename

_call = nn.Module.__call__
"""Without what fx puts around it, which prints code where a guard refuses a call."""


@dataclass(frozen=True)
class LaterReference:
    """The reference form of a model, which is made when it is first asked for.

    Attributes:
        make: makes it, over the tensors that the model runs on.
        rounded: the inputs that it quantizes before it computes anything of them.
    """

    make: Callable[[], fx.GraphModule]
    rounded: tuple[Rounded, ...]


_G = TypeVar("_G", bound=fx.GraphModule)


def _for_inference(graph_module: _G) -> _G:
    """``graph_module`` with nothing to train; each child keeps its own mode."""
    take_keywords(graph_module.graph)
    graph_module.training = False
    graph_module.requires_grad_(False)  # what is left of float parameters
    return graph_module


class QuantizedModel(WorkingGraphModule):
    """A quantized model: call it like the model that it was made from.

    Attributes:
        report: what was quantized, what was not, and why.
        history: every stage from capture to lowering.
        backend: name of the backend that it was lowered for.
        reference: the explicit q/dq graph that it means.
        tuning: what :func:`qfx.tune` tried before it came to this one, else None.
    """

    report: QuantizationReport
    history: History
    backend: str
    tuning: Tuning | None = None

    def __init__(
        self,
        lowered: fx.GraphModule,
        reference: fx.GraphModule | LaterReference,
        *,
        report: QuantizationReport,
        history: History,
        lowering: Lowering,
    ) -> None:
        super().__init__(lowered, lowered.graph, "QuantizedModel")
        self.meta[LEVEL] = Level.LOWERED
        copy_hooks(lowered, self)
        hide_opaque_values(self)
        pin_constants(self)
        self.report = report
        self.history = history
        self.backend = lowering.backend.name
        # Not a submodule: its tensors are already here, and state_dict names each tensor once.
        self.__dict__["_reference"] = reference
        self.__dict__["_lowering"] = lowering
        if isinstance(reference, LaterReference):
            rounded = reference.rounded
        else:
            rounded = rounded_inputs(_for_inference(reference).graph)
        self.__dict__["_rounded"] = rounded
        _for_inference(self)

    @property
    def reference(self) -> fx.GraphModule:
        """The explicit q/dq graph that the model means."""
        held: fx.GraphModule | LaterReference = self.__dict__["_reference"]
        if isinstance(held, LaterReference):
            with CAPTURE_LOCK:  # so that all who ask at once get the same
                held = self.__dict__["_reference"]
                if isinstance(held, LaterReference):
                    held = _for_inference(held.make())
                    self.__dict__["_reference"] = held
        held.meta[LEVEL] = Level.REFERENCE  # so that qfx.run_passes goes on from there
        return held

    @property
    def needs(self) -> tuple[str, ...]:
        """What a machine needs to run it as it was lowered; ``qfx.load`` refuses others.

        The reference form, which ``qfx.load(path, backend="reference")`` gives, needs nothing.
        """
        wide = self.backend in MAY_SATURATE and wide_layer(self.reference.graph) is not None
        return (*needs(self.backend), *([EXACT_SUMS] if wide else []))

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.report.counts.items())
        share = f"{covered(self.report)} quantized"
        return f"QuantizedModel({self.backend}: {share}; operations: {counts})"

    def __str__(self) -> str:
        return repr(self)  # fx prints all its code, which is self.code

    def __copy__(self) -> QuantizedModel:
        result = QuantizedModel(
            clone_graph_module(self),
            self.__dict__["_reference"],
            report=self.report,
            history=self.history,
            lowering=self.__dict__["_lowering"],
        )
        result.__dict__["tuning"] = self.tuning
        _hand_on(self, result)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedModel:
        result = QuantizedModel(
            clone_graph_module(self, deep=True, memo=memo),
            clone_graph_module(self.reference, deep=True, memo=memo),
            report=self.report,
            history=copy.deepcopy(self.history),
            lowering=self.__dict__["_lowering"],
        )
        result.__dict__["tuning"] = self.tuning
        memo[id(self)] = result
        _hand_on(self, result, memo)
        return result

    def recompile(self) -> Any:
        """Generate the code of the graph, and code of its own for calls."""
        code = super().recompile()
        type(self).__call__ = with_own_code(QuantizedModel.__call__)  # type: ignore[method-assign]
        type(self).alone = with_own_code(QuantizedModel.alone)  # type: ignore[method-assign]
        return code

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run the model.

        Raises:
            ConfigError: it can't run on inputs of a dtype or shape that it was not made for.
            CaptureError: the same, of a region of a model that nothing else may answer for.
        """
        held = self.__dict__
        ways = held.get(WAYS)
        try:
            if ways is not None and (ways.others or ways.outdated):
                graphs = (self.alone, *(other.alone for other in ways.others))
                return ways.answer(graphs, args, kwargs)
            try:  # as alone() does, in fewer steps
                refuse_dtypes(held["_rounded"], args, kwargs)
                return _call(self, *args, **kwargs)
            except Exception as error:
                return instead(ways, explained(self.graph, args, kwargs, error), args, kwargs)
        except ConfigError as error:
            raise self._as_seen_around(error) from error.__cause__

    def alone(self, *args: object, **kwargs: object) -> Any:
        """Run the graph, whatever other graphs of the same module there are.

        Raises:
            ConfigError: it can't run on inputs of a dtype or shape that it was not made for.
        """
        try:
            refuse_dtypes(self.__dict__["_rounded"], args, kwargs)
            return _call(self, *args, **kwargs)
        except Exception as error:
            return instead(None, explained(self.graph, args, kwargs, error), args, kwargs)

    def _as_seen_around(self, error: ConfigError) -> QfxError:
        """``error``, as one that code around a region won't take for its own: not a ValueError."""
        if not is_in_place(self):
            return error
        return CaptureError(_NOT_AS_SEEN.format(region=self.history.region, error=error))

    def __reduce__(self) -> NoReturn:
        raise FormatError(
            "a quantized model can't be pickled (torch.save pickles): packed weights are opaque. "
            "Save it with qfx.save(model, path), which qfx.load reads."
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        made = probe_conversion(fn)
        refuse_conversion(made, "quantized")
        if self.__dict__["_lowering"].backend.cpu_only:
            self._refuse_moves(made)

        def converted(tensor: Tensor) -> Tensor:
            return tensor if is_opaque(tensor) else fn(tensor)  # kernels lay those out themselves

        self.reference._apply(converted, recurse)  # type: ignore[no-untyped-call]
        apply_to_ways(self, fn)
        super()._apply(converted, recurse)  # type: ignore[no-untyped-call]
        pin_constants(self)
        return self

    def train(self, mode: bool = True) -> QuantizedModel:
        """Set the flag, which changes nothing; who asks for training of this very model is told."""
        super().train(mode)
        if mode and is_outside(sys._getframe(1).f_code.co_filename):
            warn(
                "train() changes nothing: a quantized model has nothing to train, and no gradient "
                'passes through it. To train, prepare the float model with method="qat"'
            )
        return self

    def _save_to_state_dict(self, *args: object, **kwargs: object) -> None:
        """Say what is missing, in a parent's ``state_dict`` too, unless PyTorch itself asks."""
        super()._save_to_state_dict(*args, **kwargs)
        frame = sys._getframe(1)
        while frame.f_code.co_filename == _MODULE and frame.f_back is not None:
            frame = frame.f_back
        if is_outside(frame.f_code.co_filename):
            warn(
                "state_dict() of a quantized model lacks what is a part of its graph, packed "
                "weights and scales, so that nothing can load it. Save the model with "
                "qfx.save(model, path), which qfx.load reads"
            )

    def _load_from_state_dict(
        self, state_dict: Mapping[str, object], prefix: str, *args: object, **kwargs: object
    ) -> None:
        """Refuse, from a parent's ``load_state_dict`` too: packed weights are no part of it."""
        if prefix and not any(name.startswith(prefix) for name in state_dict):
            return
        at = f" at {prefix.removesuffix('.')!r}" if prefix else ""
        raise BackendError(
            f"load_state_dict can't restore a quantized model{at}: its packed weights and scales "
            "are part of the graph. qfx.load reads what qfx.save wrote"
            + (f", or leave out what begins with {prefix!r} (strict=False)." if prefix else ".")
        )

    def _refuse_moves(self, made: Tensor | None) -> None:
        """BackendError if a conversion ``made`` tensors where the kernels can't take them."""
        if made is not None and made.device.type == "cpu":
            return
        wanted = "another device" if made is None else str(made.device)
        raise BackendError(
            f"A model lowered for {self.backend} runs on the CPU and cannot be moved to {wanted}. "
            "Quantize with backend='reference' for other devices, or move the float model first."
        )


def _hand_on(
    made: QuantizedModel, copied: QuantizedModel, memo: dict[int, Any] | None = None
) -> None:
    """Let a copy have the place of the model that it is of."""
    if is_in_place(made):
        copied.update_code()  # in its place, attributes that it sets are those of the module
    hand_on_place(made, copied, memo)


@with_open_weights.register
def _(module: QuantizedModel) -> fx.GraphModule:
    return module.reference
