"""run_passes: passes of your own, or any list of passes, over a model.

capture -> canonicalize (where the first pass that needs it stands) -> passes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import fx, nn

from qfx.backends import Backend, resolve_backend
from qfx.caller_modes import undisturbed
from qfx.capture.capture import capture
from qfx.configuration.configuration import Configuration
from qfx.errors import ConfigError
from qfx.framework.continued import continued, level_of
from qfx.framework.instruments import Instrument, as_instruments
from qfx.framework.levels import LEVEL, Level
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_base import Pass, as_pass, works_as_written
from qfx.framework.pass_context import PassContext
from qfx.framework.pipeline import Pipeline
from qfx.framework.registry import get_pass
from qfx.garbage_collection import patiently
from qfx.history.history import History
from qfx.quant.level_checks import QUANTIZATION
from qfx.verification.contents import KeepsContents
from qfx.verification.stages import KeepsValues


@undisturbed()
@patiently
def run_passes(
    model: nn.Module,
    passes: Iterable[Pass | type[Pass]],
    example_inputs: object,
    *,
    example_kwargs: dict[str, Any] | None = None,
    backend: str | Backend = "auto",
    settings: Sequence[object] = (),
    instruments: Sequence[Instrument] = (),
    check: bool = True,
) -> tuple[fx.GraphModule, History]:
    """Capture ``model`` and run ``passes`` over the graph.

    Patterns are written over canonical operations, so the graph is canonicalized before the first
    pass that does not work on the model as written (requires ``Level.CAPTURED``, or matches
    modules, methods or plain functions), unless a pass of the list does that itself.

    Args:
        model: never mutated. Passes go on with a graph that passes left (what this function
            returned, a quantized model), from the level that it has.
        passes: passes, in order; a class stands for a pass with its default options.
        example_inputs: a tensor, or a tuple of positional arguments.
        example_kwargs: keyword arguments.
        backend: what passes that work for a backend work for.
        settings: what passes ask of their context by type; the backend's defaults are there.
        instruments: told before and after each pass.
        check: compare on the example inputs what the graph computes before and after each pass; one
            whose class does not say ``keeps_values = False`` fails where that differs.

    Returns:
        The graph module, and the history with the capture as stage 0.

    Raises:
        ConfigError: the passes don't fit together.
        CaptureError: the model can't be traced.
        PassError: a pass failed, broke the graph, or changed what it computes.
    """
    if isinstance(passes, str):
        raise ConfigError(
            f'passes is "{passes}"; give a list of passes: [qfx.get_pass("{passes}")]'
        )
    if not isinstance(passes, Iterable):
        raise ConfigError(f"passes is {passes!r}; give a list of passes: [{passes!r}]")
    start = level_of(model)
    steps = [as_pass(p) for p in passes]
    steps = with_canonicalization(steps) if start in (None, Level.CAPTURED) else steps
    pipeline = Pipeline(tuple(steps), start=start or Level.CAPTURED)
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if start is not None and isinstance(model, fx.GraphModule):
        graph_module: fx.GraphModule = continued(model, args, example_kwargs or {})
    else:
        graph_module = capture(model, args, example_kwargs)
    ctx = PassContext(graph_module, example_inputs=args, example_kwargs=example_kwargs)
    offer_defaults(ctx, model, backend)
    ctx.put(*settings)
    if pipeline.end is Level.LOWERED:
        pipeline = pipeline.with_passes_at(Level.LOWERED, ctx.get(Backend).passes)
    history = History()
    net = [KeepsContents(), KeepsValues((args, ctx.example_kwargs))] if check else []
    run_pipeline(graph_module, pipeline, ctx, history, [*as_instruments(instruments), *net])
    graph_module.meta[LEVEL] = ctx.level
    return graph_module, history


def offer_defaults(
    ctx: PassContext, model: nn.Module, backend: str | Backend, method: str = "static"
) -> None:
    """Let passes that need a backend or a configuration find the default, made when asked for."""

    def configuration() -> Configuration:
        found = Configuration(ctx.graph_module, model, None, ctx.get(Backend), method)
        found.warn_unmatched()
        return found

    ctx.offer(Backend, lambda: resolve_backend(backend))
    ctx.offer(Configuration, configuration)
    ctx.put(QUANTIZATION)


def with_canonicalization(passes: Sequence[Pass]) -> list[Pass]:
    """``passes``, with canonicalization where the first that needs it stands."""
    if any(p.produces is Level.CANONICAL for p in passes):
        return list(passes)
    at = next((i for i, p in enumerate(passes) if not works_as_written(p)), None)
    if at is None:
        return list(passes)
    return [*passes[:at], as_pass(get_pass("canonicalize")), *passes[at:]]
