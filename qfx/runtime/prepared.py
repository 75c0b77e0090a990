"""A model being prepared: observers in place, and all that conversion needs."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor, fx, nn

from qfx.capture.arguments import copy_tensors
from qfx.errors import FormatError
from qfx.framework.instruments import Instrument
from qfx.framework.pass_context import PassContext
from qfx.graph.clone import clone_graph_module
from qfx.graph.in_place import hand_on_place
from qfx.graph.leaves import copy_hooks
from qfx.graph.meta import Origin
from qfx.graph.state import put_back
from qfx.graph.steps import Steps, arguments_by_name, signature_of, state_kept
from qfx.graph.ways import Ways, apply_to_ways, ways_of
from qfx.graph.working import WorkingGraphModule
from qfx.private_attributes import version_of
from qfx.quant.channel_mean import ChannelMean
from qfx.quant.level_checks import QUANTIZATION
from qfx.quant.observers import Observer
from qfx.runtime.dtypes import probe_conversion, refuse_conversion
from qfx.runtime.samples import Room, Sample, Samples

if TYPE_CHECKING:
    from qfx.backends.base import Backend
    from qfx.configuration.configuration import Configuration
    from qfx.framework.pipeline import Pipeline
    from qfx.history.history import History
    from qfx.runtime.trained import Start, Trained


@dataclass(frozen=True)
class PreparationSettings:
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
        region: which part of the user's model the graph is; "main" for the whole.
        extra: what the user puts into the context of passes, by type.
        instruments: told before and after each pass.
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
    region: str = "main"
    extra: tuple[object, ...] = ()
    instruments: tuple[Instrument, ...] = ()

    def context(self, graph_module: fx.GraphModule) -> PassContext:
        """What the passes of ``graph_module`` may use."""
        ctx = PassContext(
            graph_module,
            example_inputs=self.example_inputs,
            example_kwargs=dict(self.example_kwargs),
            region=self.region,
        )
        ctx.put(self.backend, self.configuration, QUANTIZATION)
        ctx.put(*(each for each in (self.trained, self.start) if each is not None), *self.extra)
        return ctx


RECORDERS = (Observer, ChannelMean)


class PreparedModel(WorkingGraphModule):
    """A model with observers in place: calibrate it, then ``qfx.convert`` it.

    Its training flag says whether what runs through it
    is recorded: ``train()``, as it comes from ``qfx.prepare``, records, and ``eval()`` stops that.
    Its layers run as in inference either way. ``qfx.calibrate`` records whatever the flag says.
    What is made for training is a :class:`~qfx.training.trainable.TrainableModel`.

    Attributes:
        history: the stages so far.
        samples: the first batches that were recorded.
        schedule: None; that of training, if the model has one.
    """

    history: History
    settings: PreparationSettings
    samples: Samples
    schedule: object = None
    called: ClassVar[str] = "PreparedModel"

    def __init__(
        self, graph_module: fx.GraphModule, history: History, settings: PreparationSettings
    ) -> None:
        super().__init__(graph_module, graph_module.graph, self.called)
        copy_hooks(graph_module, self)
        self.history = history
        self.settings = settings
        self.training = graph_module.training  # each child keeps its own mode
        self.__dict__["_changed"], self.__dict__["_written"] = False, self._writes()
        rooms = [getattr(step, "room", Room()) for step in settings.rest.passes]
        self.__dict__["samples"] = Samples(max(rooms, default=Room()))

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run the model; what it records is no inference tensor, whatever mode the caller is in."""
        ways = ways_of(self)
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            return self._answer(ways, args, kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return self._answer(ways, args, kwargs)

    def _answer(self, ways: Ways[Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if ways is None:
            return self.alone(*args, **kwargs)
        return ways.answer((self.alone, *(g.alone for g in ways.others)), args, kwargs)

    def alone(self, *args: object, **kwargs: object) -> Any:
        """Run the graph, whatever other graphs of the same module there are."""
        if not torch.compiler.is_compiling():
            self._offer_sample(args, kwargs)
        return super().__call__(*args, **kwargs)

    def _offer_sample(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Keep what is recorded for passes that measure; training keeps nothing."""
        if not self.training or self.settings.method == "qat" or self.samples.full:
            return
        sample = self._in_order(args, kwargs)
        if self.samples.offer(*sample) or len(self.samples) or not self.samples.divisible:
            return
        fewer = self.samples.first_rows(*sample)  # of a batch that is larger than all the room
        if fewer is None:
            return
        self.samples.divisible = self._takes(fewer)
        if self.samples.divisible:
            self.samples.offer(*fewer)

    def _takes(self, sample: Sample) -> bool:
        """Whether the graph runs on a sample; nothing is recorded of it."""
        modes = {module: module.training for module in self.modules()}
        self.train(False)
        try:
            with state_kept(self):
                Steps(self, arguments_by_name(self.graph, *copy_tensors(sample))).run_to_end()
        except Exception:  # a size that the model does not take raises anything
            return False
        finally:
            for module, mode in modes.items():
                module.training = mode
        return True

    def _in_order(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Sample:
        """The arguments of a call in one order, however they are given."""
        try:
            bound = signature_of(self.graph).bind(*args, **kwargs)
        except TypeError:
            return Sample(args, dict(kwargs))  # the call itself will say what is wrong
        bound.apply_defaults()
        return Sample(bound.args, {name: bound.kwargs[name] for name in sorted(bound.kwargs)})

    @property
    def ordered_examples(self) -> Sample:
        """The example inputs, in the same order."""
        return self._in_order(self.settings.example_inputs, self.settings.example_kwargs)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """The batches that were kept are state of calibration, too."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        kept = self.samples.state(self.ordered_examples)
        destination.update((f"{prefix}samples.{name}", tensor) for name, tensor in kept.items())

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take over the batches that were kept, of which there may be none."""
        start = f"{prefix}samples."
        ours = re.compile(re.escape(start) + r"\d+\.\d+")
        held = {n: state_dict.pop(n) for n in list(state_dict) if ours.fullmatch(n)}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        named = {name.removeprefix(start): tensor for name, tensor in held.items()}
        self.__dict__["samples"] = Samples.of_state(named, self.ordered_examples, self.samples.room)

    @property
    def has_observers(self) -> bool:
        """Whether anything is to be calibrated: not if all is dynamic or weight-only."""
        return any(isinstance(module, Observer) for module in self.modules())

    @property
    def was_calibrated(self) -> bool:
        """Whether its observers have seen data, if it has any."""
        return all(int(m.batches) for m in self.modules() if isinstance(m, Observer))

    @property
    def parameters_changed(self) -> bool:
        """Whether somebody wrote to a parameter since it was prepared, other than forward."""
        return bool(self.__dict__["_changed"] or self.__dict__["_written"] != self._writes())

    def _writes(self) -> int:
        """How often others than forward wrote to parameters; only differences mean something."""
        own = self.settings.buffers
        return sum(version_of(p) for name, p in self.named_parameters() if name not in own)

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
            put_back(self, self.settings.buffers)

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
        memo: dict[int, Any] = {id(o): o for o in observers if o.batches.device.type == "cpu"}
        memo[id(ways_of(self))] = None  # it is converted by itself
        copied: PreparedModel = copy.deepcopy(self, memo)
        return copied

    def __copy__(self) -> PreparedModel:
        result = self._made_of(clone_graph_module(self), self.history)
        result.__dict__["samples"] = self.samples.to(None)
        hand_on_place(self, result)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedModel:
        copied = clone_graph_module(self, deep=True, memo=memo)
        result = self._made_of(copied, copy.deepcopy(self.history))
        result.__dict__["_changed"] = self.parameters_changed
        result.__dict__["samples"] = copy.deepcopy(self.samples)
        memo[id(self)] = result
        hand_on_place(self, result, memo)
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
        apply_to_ways(self, fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]
