"""What users hold: a model being prepared, and a quantized one.

A :class:`QuantizedModel` owns two graphs. The *reference* graph (explicit quantize/dequantize on
plain integer tensors) is its meaning; the graph that runs is derived from it by the backend's
lowering and shares its tensors, plus packed weights that are opaque to copying and saving and are
rebuilt from the integer weights.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor, fx, nn

from qfx.backends import needs
from qfx.backends.wide_codes import EXACT_SUMS, MAY_SATURATE, wide_layer
from qfx.errors import BackendError, FormatError, QfxError, warn
from qfx.framework.pass_base import PassContext
from qfx.graph.clone import clone_graph_module, hide_opaque_values, is_opaque
from qfx.graph.leaves import copy_hooks
from qfx.graph.meta import Origin
from qfx.graph.overlap import overwrite
from qfx.graph.source import is_outside
from qfx.graph.working import WorkingGraphModule
from qfx.quant.channel_mean import ChannelMean
from qfx.quant.level_checks import QUANTIZATION
from qfx.quant.observers import Observer
from qfx.report.text import covered
from qfx.runtime.constants import flatten_constants, pin_constants
from qfx.runtime.dtypes import probe_conversion, refuse_conversion
from qfx.runtime.inputs import explain_failure, refuse_dtypes, rounded_inputs
from qfx.runtime.own_code import with_own_code

if TYPE_CHECKING:
    from qfx.backends.base import Backend
    from qfx.configuration.configuration import Configuration
    from qfx.framework.pass_base import Pass
    from qfx.framework.pipeline import Pipeline
    from qfx.history.history import History
    from qfx.report.sites import QuantizationReport
    from qfx.runtime.trained import Start, Trained


@dataclass(frozen=True)
class Settings:
    """Everything that prepare was told and convert needs.

    Attributes:
        method: "static", ...
        backend: the target.
        configuration: which operation gets which QConfig.
        before, rest: the passes that prepare runs, and those that convert runs.
        example_inputs, example_kwargs: as given by the user.
        sites: the float operations as captured, for the report.
        captured: the graph as captured, to check against; None if the model comes from a file.
        expected: what the float model yields for the example inputs; None if it warned or raised.
        size_before: bytes of parameters and buffers of the user's model.
        start: the quantized model that training starts from.
        buffers: those, and parameters, that forward may write to, as they were before calibration.
        trained: what a model in training means.
    """

    method: str
    backend: Backend
    configuration: Configuration
    before: Pipeline
    rest: Pipeline
    example_inputs: tuple[Any, ...]
    example_kwargs: Mapping[str, Any]
    sites: tuple[Origin, ...]
    captured: fx.GraphModule | None
    expected: Any
    size_before: int
    start: Start | None = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    trained: Trained | None = None

    def context(self, graph_module: fx.GraphModule) -> PassContext:
        """What the passes of ``graph_module`` may use."""
        ctx = PassContext(
            graph_module,
            example_inputs=self.example_inputs,
            example_kwargs=dict(self.example_kwargs),
        )
        ctx.put(self.backend, self.configuration, QUANTIZATION)
        ctx.put(*(each for each in (self.trained, self.start) if each is not None))
        return ctx


@dataclass(frozen=True)
class Lowering:
    """How the graph that runs is derived from the reference form.

    Attributes:
        backend: the target.
        passes: what derives it, in order.
    """

    backend: Backend
    passes: tuple[Pass, ...]


_MODULE = nn.Module.state_dict.__code__.co_filename

RECORDERS = (Observer, ChannelMean)


class PreparedModel(WorkingGraphModule):
    """A model with observers in place: calibrate it, then ``qfx.convert`` it.

    Its training flag says whether what runs through it
    is recorded: ``train()``, as it comes from ``qfx.prepare``, records, and ``eval()`` stops that.
    Its layers run as in inference either way. ``qfx.calibrate`` records whatever the flag says.
    What is made for training is a :class:`~qfx.training.trainable.TrainableModel`.

    Attributes:
        history: the stages so far.
        schedule: None; that of training, if the model has one.
    """

    history: History
    settings: Settings
    schedule: object = None
    called: ClassVar[str] = "PreparedModel"

    def __init__(self, graph_module: fx.GraphModule, history: History, settings: Settings) -> None:
        super().__init__(graph_module, graph_module.graph, self.called)
        copy_hooks(graph_module, self)
        self.history = history
        self.settings = settings
        self.training = graph_module.training  # each child keeps its own mode
        self.__dict__["_changed"], self.__dict__["_written"] = False, self._writes()

    @property
    def has_observers(self) -> bool:
        """Whether anything is to be calibrated: not if all is dynamic or weight-only."""
        return any(isinstance(module, Observer) for module in self.modules())

    @property
    def parameters_changed(self) -> bool:
        """Whether somebody wrote to a parameter since it was prepared, other than forward."""
        return bool(self.__dict__["_changed"] or self.__dict__["_written"] != self._writes())

    def _writes(self) -> int:
        """How often others than forward wrote to parameters; only differences mean something."""
        own = self.settings.buffers
        return sum(p._version for name, p in self.named_parameters() if name not in own)

    def train(self, mode: bool = True) -> PreparedModel:
        """Record what runs through, or stop."""
        self.training = mode
        for module in self.modules():
            if isinstance(module, RECORDERS):
                module.train(mode)
        return self

    def restore_buffers(self) -> None:
        """Forget what calibration did to buffers, and parameters, that forward writes to."""
        with torch.no_grad():
            for name, before in self.settings.buffers.items():
                overwrite(attrgetter(name)(self), before)

    @contextmanager
    def calibrating(self) -> Iterator[None]:
        """Record what runs through, whatever the training flag says, which is put back."""
        before = self.training
        self.train()
        try:
            yield
        finally:
            self.train(before)

    def copy_to_convert(self) -> PreparedModel:
        """A copy for conversion to use up; it shares the observers, which conversion only reads.

        They hold most of what a prepared model holds. Observers of another device than the CPU are
        copied all the same: for backends of the CPU, conversion moves them.
        """
        observers = [m for m in self.modules() if isinstance(m, Observer)]
        stay = (o for o in observers if o.batches.device.type == "cpu")
        copied: PreparedModel = copy.deepcopy(self, {id(o): o for o in stay})
        return copied

    def __copy__(self) -> PreparedModel:
        return self._made_of(clone_graph_module(self), self.history)

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedModel:
        copied = clone_graph_module(self, deep=True, memo=memo)
        result = self._made_of(copied, copy.deepcopy(self.history))
        result.__dict__["_changed"] = self.parameters_changed
        memo[id(self)] = result
        return result

    def _made_of(self, graph_module: fx.GraphModule, history: History) -> PreparedModel:
        return PreparedModel(graph_module, history, self.settings)

    def __reduce__(self) -> NoReturn:
        raise FormatError(
            "a prepared model can't be pickled (torch.save pickles). Save its state_dict(), and "
            "load that into what qfx.prepare makes of the same model."
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        refuse_conversion(probe_conversion(fn), "prepared")
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]


class QuantizedModel(WorkingGraphModule):
    """A quantized model: call it like the model that it was made from.

    Attributes:
        report: what was quantized, what was not, and why.
        history: every stage from capture to lowering.
        backend: name of the backend that it was lowered for.
        reference: the explicit q/dq graph that it means.
    """

    report: QuantizationReport
    history: History
    backend: str
    reference: fx.GraphModule

    def __init__(
        self,
        lowered: fx.GraphModule,
        reference: fx.GraphModule,
        *,
        report: QuantizationReport,
        history: History,
        lowering: Lowering,
    ) -> None:
        flatten_constants(lowered)
        super().__init__(lowered, lowered.graph, "QuantizedModel")
        copy_hooks(lowered, self)
        hide_opaque_values(self)
        pin_constants(self)
        self.report = report
        self.history = history
        self.backend = lowering.backend.name
        # Not a submodule: its tensors are already here, and state_dict names each tensor once.
        self.__dict__["reference"] = reference
        self.__dict__["_lowering"] = lowering
        self.__dict__["_rounded"] = rounded_inputs(reference.graph)
        for owned in (self, reference):
            owned.training = False  # each child keeps its own mode
            owned.requires_grad_(False)  # what is left of float parameters is for inference
        self.recompile()

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
        return QuantizedModel(
            clone_graph_module(self),
            self.__dict__["reference"],
            report=self.report,
            history=self.history,
            lowering=self.__dict__["_lowering"],
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedModel:
        reference: fx.GraphModule = self.__dict__["reference"]
        result = QuantizedModel(
            clone_graph_module(self, deep=True, memo=memo),
            clone_graph_module(reference, deep=True, memo=memo),
            report=self.report,
            history=copy.deepcopy(self.history),
            lowering=self.__dict__["_lowering"],
        )
        memo[id(self)] = result
        return result

    def recompile(self) -> Any:
        """Generate the code of the graph, and code of its own for calls."""
        code = super().recompile()
        type(self).__call__ = with_own_code(QuantizedModel.__call__)  # type: ignore[method-assign]
        return code

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run the model.

        Raises:
            ConfigError: it can't run on inputs of a dtype or shape that it was not made for.
        """
        refuse_dtypes(self.__dict__["_rounded"], args, kwargs)
        try:
            return super().__call__(*args, **kwargs)
        except QfxError:
            raise
        except Exception as error:
            explain_failure(self.graph, args, kwargs, error)
            raise

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

        reference: fx.GraphModule = self.__dict__["reference"]
        reference._apply(converted, recurse)  # type: ignore[no-untyped-call]
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
        self, state_dict: Mapping[str, Any], prefix: str, *args: object, **kwargs: object
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
