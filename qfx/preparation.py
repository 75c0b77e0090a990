"""Preparation: from a captured graph to one with observers, or fake-quants, in place.

captured graph -> passes before calibration -> PreparedModel
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from qfx.backends.base import Backend
from qfx.capture.capture import EXPECTED
from qfx.configuration.configuration import Configuration
from qfx.framework.instruments import Instrument
from qfx.framework.manager import transform
from qfx.framework.pipeline import Pipeline
from qfx.graph.clone import clone_graph_module
from qfx.graph.state import written_tensors
from qfx.history.history import History
from qfx.quant.qconfig import QConfig, QConfigMapping
from qfx.report.outcomes import captured_sites, size_bytes
from qfx.runtime.prepared import RECORDERS, PreparationSettings, PreparedModel
from qfx.runtime.trained import Start, Trained
from qfx.training.trainable import trainable
from qfx.verification.contents import KeepsContents
from qfx.verification.floats import check_untrained


@dataclass(frozen=True)
class PrepareRequest:
    """What is asked for, checked and resolved.

    Attributes:
        method: "static", "dynamic", "weight_only" or "qat".
        pipeline: all passes, those of the backend included.
        backend: the target.
        qconfig: what to quantize how; None for the backend's default.
        types: the module types that it is restricted to; None for all.
        start: the quantized model that training starts from.
        settings: what passes may ask of their context by type.
        instruments: told before and after each pass.
        notes: for the report, of what was made of the arguments.
    """

    method: str
    pipeline: Pipeline
    backend: Backend
    qconfig: QConfig | QConfigMapping | None
    types: frozenset[type[nn.Module]] | None
    start: Start | None = None
    settings: tuple[object, ...] = ()
    instruments: tuple[Instrument, ...] = ()
    notes: tuple[str, ...] = ()

    def configured(
        self, captured: fx.GraphModule, model: nn.Module, *, quiet: bool = False
    ) -> Configuration:
        """Which operation of a graph of ``model`` gets which QConfig."""
        made = Configuration(
            captured, model, self.qconfig, self.backend, self.method, self.types, quiet=quiet
        )
        for note in self.notes:
            made.note(note)
        return made


def prepare_graph(
    request: PrepareRequest,
    captured: fx.GraphModule,
    module: nn.Module,
    configuration: Configuration,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    region: str = "main",
) -> PreparedModel:
    """Run the passes before calibration over a copy of a captured graph.

    Args:
        request: what is asked for.
        captured: the graph; kept, to check against.
        module: what it was captured from: the user's model, or a part of it.
        configuration: which operation gets which QConfig.
        args: what it was captured on.
        kwargs: the same by keyword.
        region: which part of the user's model it is.

    Returns:
        The prepared model, in training mode, or for training in the mode of ``module``.
    """
    expected = captured.meta.pop(EXPECTED, None)
    before, after = request.pipeline.split()
    graph_module = clone_graph_module(captured, apart=True)
    settings = PreparationSettings(
        request.method, request.backend, configuration, before, after, args, kwargs,
        captured_sites(captured), captured, expected, size_bytes(module), request.start,
        region=region, extra=request.settings, instruments=request.instruments,
    )  # fmt: skip
    ctx, history = settings.context(graph_module), History()
    transform(graph_module, before, ctx, history, (*request.instruments, KeepsContents()))
    settings = replace(
        settings,
        buffers=written_tensors(graph_module, RECORDERS),
        trained=ctx.get(Trained) if ctx.has(Trained) else None,
    )
    if request.method == "qat":
        prepared = trainable(graph_module, history, settings)
        check_untrained(prepared)
        return prepared.in_mode_of(module)
    return PreparedModel(graph_module, history, settings).train()
