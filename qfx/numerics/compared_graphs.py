"""What of a quantized model is compared with what of the float model, and on what.

A model that is one graph is compared on the batches. Of one in several regions each graph is
compared with the module whose place it has, on what the float model gives that module when it runs
on a batch: errors don't pass from one region to the next. Of a module that is called again and
again, some calls are looked at, as when regions are planned.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.capture.arguments import copy_tensors
from qfx.capture.regions.recording import RecordedCall, Recording, record
from qfx.errors import ConfigError
from qfx.graph.ways import region_of, way_name, ways_of
from qfx.numerics import observation
from qfx.numerics.measures import Error, added
from qfx.numerics.observation import Batch
from qfx.runtime.batches import batches
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import regions_of


class ComparedGraph:
    """A graph of a quantized model, and the module that it was made from.

    Attributes:
        name: of the graph, as in ``.regions``; "" where it is the whole model.
        module: the module, in the float model.
        graph: the quantized graph.
        reference: its q/dq form.
        points: nodes of that to observe, with their captured operations.
        captured: the module as captured, once it was given something.
        first: what it was captured on.
    """

    def __init__(self, name: str, module: nn.Module, graph: QuantizedModel) -> None:
        self.name, self.module, self.graph = name, module, graph
        self.reference = graph.reference
        self.points = observation.observation_points(self.reference.graph)
        self.captured: fx.GraphModule | None = None
        self.first: Batch = (), {}
        self._values: observation.ValuesOf | None = None

    def float_graph(self, batch: Batch) -> fx.GraphModule:
        """The module as captured, with the node names of the report.

        Raises:
            ConfigError: the graph was not made from this module.
        """
        if self.captured is None:
            self.captured = observation.float_graph(
                self.module, self.graph, batch, region_of(self.name)
            )
            self.first = batch
        return self.captured

    def expected(self, names: Iterable[str], batch: Batch) -> tuple[dict[str, Tensor], Any]:
        """Values to compare with those of captured operations, and the output.

        Raises:
            ConfigError: the graph was not made from this module.
        """
        if self._values is None and isinstance(self.module, QuantizedModel):
            self._values = observation.values_of_quantized(self.module, self.graph)
        if self._values is None:
            self._values = partial(observation.float_values, self.float_graph(batch))
        return self._values(names, batch)

    def addressed(self, node: str) -> str:
        """The name of a node among those of all parts."""
        return f"{self.name}:{node}" if self.name else node


class Pair:
    """A float model and a quantized model.

    Attributes:
        parts: what is compared with what.
        has_regions: whether the quantized model has several.
        output: error of the whole model as it runs; of one in regions, it adds up here.
        apart: why the outputs of that can't be compared, or "".

    Raises:
        ConfigError: they are none, or don't belong together.
    """

    def __init__(self, model: nn.Module, qmodel: nn.Module) -> None:
        self.model, self.qmodel = model, qmodel
        self.output, self.apart = Error(), ""
        regions = regions_of(qmodel)
        self.has_regions = regions is not None
        if regions is None:
            self.parts = [ComparedGraph("", model, observation.quantized_graph(qmodel))]
        else:
            observation.refuse_model(model)
            self.parts = [
                ComparedGraph(
                    name, _module(model, region_of(name)), observation.quantized_graph(graph)
                )
                for name, graph in regions.items()
            ]

    def batches(self, data: Iterable[object]) -> Iterator[Batch]:
        """The batches of ``data``, as for calibration; ConfigError if there is none."""
        empty = True
        for batch in batches(data, self._positional(), name="data"):
            empty = False
            yield batch
        if empty:
            raise ConfigError("there is no data to compare on: give at least one batch")

    def _positional(self) -> int:
        """How many elements of a batch are arguments; what comes after them are labels."""
        regions = regions_of(self.qmodel)
        if regions is not None and regions.surroundings.example_inputs:
            return len(regions.surroundings.example_inputs)
        source = self.qmodel if self.has_regions else self.parts[0].reference
        parameters = inspect.signature(source.forward).parameters.values()
        return sum(1 for p in parameters if p.kind is not p.KEYWORD_ONLY)

    def given(self, batch: Batch) -> Iterator[tuple[ComparedGraph, Batch]]:
        """What the parts are given when the float model runs on a batch."""
        if not self.has_regions:
            yield self.parts[0], batch
            return
        recording = self._record(batch)
        self._compare_outputs(recording.result, batch)
        for part in self.parts:
            for call in recording.calls[region_of(part.name)].kept:
                if self._takes(part, call):
                    yield part, (call.args, call.kwargs)

    def doubt(self, output: float) -> str:
        """What to ask the user where the two hardly belong together.

        Two quantized models may be made of other weights. Of a float model the output tells, at
        ``output`` dB, where that is nothing like it was at conversion.
        """
        if isinstance(self.model, QuantizedModel):
            return observation.doubt_of_weights(self.model.report, self.parts[0].graph.report)
        report: Any = self.qmodel.report
        return self.apart or observation.doubt(report, output)

    def _record(self, batch: Batch) -> Recording:
        try:
            with torch.no_grad():
                return record(self.model, *batch)
        except Exception as error:
            raise ConfigError(observation.NOT_TAKEN + str(error).partition("\n")[0]) from error

    def _takes(self, part: ComparedGraph, call: RecordedCall) -> bool:
        """Whether it is this graph of its region that answers a call."""
        region = region_of(part.name)
        ways = ways_of(next(p.graph for p in self.parts if p.name == region))
        if ways is not None and call.form in ways.forms:
            return way_name(region, ways.forms[call.form]) == part.name
        args, kwargs = copy_tensors((call.args, call.kwargs))
        try:
            part.graph.alone(*args, **kwargs)
        except Exception:  # a guard's, or whatever its operations raise before one
            return False
        return True

    def add_output(self, result: object, actual: object) -> None:
        """Add the error of an output, or note why it can't be compared."""
        self.note_apart(added(result, actual, self.output))

    def note_apart(self, why: str) -> None:
        """Note why outputs can't be compared; "" if they can."""
        self.apart = self.apart or (why and _APART.format(why=why))

    def _compare_outputs(self, result: object, batch: Batch) -> None:
        args, kwargs = copy_tensors(batch)
        with torch.no_grad():
            actual = self.qmodel(*args, **kwargs)
        try:
            self.add_output(result, actual)
        except ConfigError as error:  # Python makes them, of any structure
            self.note_apart(str(error))
            self.output.noise = float("nan")


_APART = (
    "The outputs can't be compared: {why}. Data decides what they are like, or this is not the "
    "float model that it was made from."
)


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ConfigError(
            f"the quantized model was not made from this float model, which has no module {path!r}"
        ) from error
