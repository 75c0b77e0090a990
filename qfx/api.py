"""quantize, prepare, calibrate, convert: the arrow of the design, in order.

nn.Module -> capture -> passes before calibration -> calibrate -> passes after it -> QuantizedModel
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import fx, nn

from qfx import pipelines
from qfx.argument_checks import (
    check_calibrates,
    check_coverage,
    check_device,
    check_dtype,
    check_example_inputs,
    check_keywords,
    check_method,
    check_mode,
    check_pipeline,
    check_types,
    idle_passes,
)
from qfx.backends import resolve_backend
from qfx.backends.base import Backend
from qfx.caller_modes import undisturbed
from qfx.capture.capture import (
    ASSIGNED,
    BY_DRAW,
    BY_LAYOUT,
    BY_STATE,
    DECIDED_BY_MODE,
    EXPECTED,
    FILLED,
    capture,
)
from qfx.configuration.configuration import Configuration
from qfx.errors import ConfigError, CoverageError, warn
from qfx.framework.levels import Level
from qfx.framework.manager import transform
from qfx.framework.pass_base import Pass
from qfx.framework.pipeline import Pipeline
from qfx.garbage_collection import patiently
from qfx.graph.clone import clone_graph_module
from qfx.graph.copying import computed_weights, inference_copy
from qfx.graph.state import written_tensors
from qfx.history.history import History
from qfx.quant.qconfig import QConfig, QConfigMapping
from qfx.report.sites import QuantizationReport, build_report, captured_sites, size_bytes
from qfx.runtime.calibration import run_calibration, run_example
from qfx.runtime.quantized import (
    RECORDERS,
    Lowering,
    PreparedModel,
    QuantizedModel,
    Settings,
)
from qfx.runtime.trained import Start, Trained
from qfx.training.trainable import trainable
from qfx.verification.floats import check_untrained
from qfx.verification.net import Net

_ASSIGNS = (
    "forward sets {names}, and a graph sets no attributes: it goes on with what the example inputs "
    "gave. If that is state, register a buffer and write to it in place, as in "
    "self.count.add_(1); if nothing reads it in the next call, all is well"
)
_FILLS = (
    "forward puts into {names}, a list or dict that it is given, what a graph can't hold: the "
    "quantized model leaves it as it is. Put tensors and numbers there, or return what is put there"
)
_NO_DATA = (
    "calibration_data is not used: nothing here takes its range from data (method={method!r}). "
    "Leave it out, or choose method='static'"
)
_IS_STATIC = (
    "method={method!r}, but the qconfig has static specs, whose ranges now come from the example "
    "inputs alone. Take qfx.get_default_qconfig({backend!r}, {method!r}), or give calibration_data"
)
_BAKED = (
    "the weights of {names} are computed (weight norm, spectral norm, pruning); they are trained "
    "as the plain weights that they are now"
)
_DECIDES = (
    "forward decides by its training flag at {lines}, and a graph holds one way only: training "
    "goes the way of inference there. Dropout and batch-norm modules, and functions that are "
    "handed training=self.training, do follow the mode"
)
_BY_STATE = (
    "forward asks {lines}, and computes something else by the answer; a graph holds one way only, "
    "that of inference without gradients, inference mode and autocast. Decide by an argument, or "
    "by self.training, instead"
)
_BY_DRAW = (
    "forward draws random numbers outside of PyTorch, with {lines}; a graph draws none there, and "
    "goes on with those of the capture in every call. Draw with torch, as in torch.rand(()), which "
    "a graph draws anew, or only where self.training is set"
)
_BY_LAYOUT = (
    "forward decides by the layout of a tensor in memory at {lines}, and computes something else "
    "if it is another; a graph holds one way only, that of the example inputs, and integer kernels "
    "lay tensors out as they like. Write it so that the layout does not matter"
)


@undisturbed()
def quantize(
    model: nn.Module,
    example_inputs: Any,
    *,
    method: str = "static",
    calibration_data: Iterable[Any] | None = None,
    qconfig: QConfig | QConfigMapping | None = None,
    backend: str | Backend = "auto",
    types: Iterable[type[nn.Module]] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    pipeline: Pipeline | None = None,
    progress: bool | None = None,
    min_coverage: float | None = None,
    check: bool = True,
) -> QuantizedModel:
    """Quantize a model after training.

    Args:
        model: module in eval mode, on one device; never mutated.
        example_inputs: a tensor, or a tuple of positional arguments, as the model takes them.
        method: "static", "dynamic" (activations are measured when the model runs) or
            "weight_only" (activations stay float).
        calibration_data: iterable of batches (a tensor, a tuple or list of positional arguments,
            or a dict of keyword arguments each); ``example_inputs`` when None.
        qconfig: what to quantize how; the backend's default when None.
        backend: "auto", "x86", "fbgemm", "qnnpack", "reference", or a Backend.
        types: quantize these module types and their functional twins only.
        example_kwargs: keyword arguments that go with ``example_inputs``.
        pipeline: passes to run in place of the method's own.
        progress: show a progress bar; None shows one on a terminal.
        min_coverage: least fraction of multiply-accumulates that must run in integers.
        check: compare on the example inputs what every step computes with what it should: the float
            graph with the model, each kernel call and the whole with the reference form. A kernel
            that is wrong is put back to float (reason "kernel-failed-check").

    Returns:
        A GraphModule with the signature and output structure of ``model``, with ``.report`` and
        ``.history``.

    Raises:
        ConfigError: an argument is wrong, or the model is in training mode.
        CaptureError: the model can't be traced.
        CalibrationError: calibration data is empty, or holds NaN or infinity.
        CoverageError: nothing was quantized, or less than ``min_coverage``.
        PassError: a pass failed, or changed what the model computes.
        BackendError: the backend is unknown or not available on this machine.
    """
    check_coverage(min_coverage)
    check_method(method, trains=False)
    prepared = prepare(
        model,
        example_inputs,
        method=method,
        qconfig=qconfig,
        backend=backend,
        types=types,
        example_kwargs=example_kwargs,
        pipeline=pipeline,
    )
    if prepared.has_observers:
        _calibrate_once(prepared, calibration_data, progress)
    elif calibration_data is not None and method != "static":
        prepared.settings.configuration.warn(_NO_DATA.format(method=method))
    return _convert(prepared, min_coverage=min_coverage, check=check)


def _calibrate_once(
    prepared: PreparedModel, data: Iterable[Any] | None, progress: bool | None
) -> None:
    """Calibrate with ``data``, or with the example inputs if there is none."""
    if data is not None:
        calibrate(prepared, data, progress=progress)
        return
    settings = prepared.settings
    if settings.method != "static":
        settings.configuration.warn(
            _IS_STATIC.format(method=settings.method, backend=settings.backend.name)
        )
    run_example(prepared)


@undisturbed()
@patiently
def prepare(
    model: nn.Module,
    example_inputs: Any,
    *,
    method: str = "static",
    qconfig: QConfig | QConfigMapping | None = None,
    backend: str | Backend = "auto",
    types: Iterable[type[nn.Module]] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    pipeline: Pipeline | None = None,
    qparams_from: QuantizedModel | None = None,
) -> PreparedModel:
    """Capture a model and put observers in it, or for training fake-quants.

    Arguments and errors are those of :func:`quantize`, and ``method="qat"`` is quantization-aware
    training: the model may be in either mode, and the result is in the same.

    ``qparams_from``, for ``method="qat"``, is what :func:`quantize` made of the same model:
    training starts from its qparams and biases.

    Returns:
        A module that computes what ``model`` computes while its observers record ranges; its
        ``eval()`` stops the recording, its ``train()`` resumes it. With ``method="qat"`` it rounds
        weights and activations as the quantized model will, and is trained like ``model``: its
        parameters keep their names.
    """
    check_method(method)
    types = check_types(types)
    check_pipeline(pipeline, method)
    args, kwargs = check_example_inputs(example_inputs, example_kwargs)
    _check_float(model)
    _check_start(qparams_from, method)
    check_mode(model, method)
    check_keywords(model, example_inputs)
    check_device(model)
    chosen = getattr(pipelines, method)() if pipeline is None else pipeline
    target = resolve_backend(chosen.reconcile(backend))
    chosen = chosen.with_passes_at(Level.LOWERED, target.passes)
    check_dtype(model, args, kwargs)
    check_calibrates(chosen)
    before, after = chosen.split()
    captured = _captured(model, args, kwargs, method)
    expected = captured.meta.pop(EXPECTED, None)
    configuration = Configuration(captured, model, qconfig, target, method, types)
    for warning in (*_lost(model, captured, method), *idle_passes(chosen)):
        configuration.warn(warning)
    graph_module = clone_graph_module(captured, apart=True)
    start = None if qparams_from is None else Start(qparams_from.__dict__["reference"])
    settings = Settings(
        method, target, configuration, before, after, args, kwargs, captured_sites(captured),
        captured, expected, size_bytes(model), start,
    )  # fmt: skip
    ctx, history = settings.context(graph_module), History()
    transform(graph_module, before, ctx, history)
    settings = replace(
        settings,
        buffers=written_tensors(graph_module, RECORDERS),
        trained=ctx.get(Trained) if ctx.has(Trained) else None,
    )
    if method == "qat":
        prepared = trainable(graph_module, history, settings)
        check_untrained(prepared)
        return prepared.in_mode_of(model)
    return PreparedModel(graph_module, history, settings).train()


def _captured(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], method: str
) -> fx.GraphModule:
    """The graph of inference, also of a model in training."""
    if method == "qat":
        return capture(inference_copy(model), args, kwargs, modes=True, keep_expected=True)
    return capture(model, args, kwargs, keep_expected=True)


def _lost(model: nn.Module, captured: fx.GraphModule, method: str) -> Iterator[str]:
    """What the user should know that a graph does not keep of a model."""
    if captured.meta[ASSIGNED]:
        yield _ASSIGNS.format(names=", ".join(captured.meta[ASSIGNED]))
    if captured.meta[FILLED]:
        yield _FILLS.format(names=", ".join(captured.meta[FILLED]))
    if method == "qat" and computed_weights(model):
        yield _BAKED.format(names=", ".join(computed_weights(model)))
    if captured.meta[BY_STATE]:
        yield _BY_STATE.format(lines=", ".join(captured.meta[BY_STATE]))
    if captured.meta[BY_DRAW]:
        yield _BY_DRAW.format(lines=", ".join(captured.meta[BY_DRAW]))
    if captured.meta[BY_LAYOUT]:
        yield _BY_LAYOUT.format(lines=", ".join(captured.meta[BY_LAYOUT]))
    if captured.meta[DECIDED_BY_MODE]:
        yield _DECIDES.format(lines=", ".join(captured.meta[DECIDED_BY_MODE]))


@undisturbed()
def calibrate(
    prepared: PreparedModel,
    data: Iterable[Any],
    *,
    steps: int | None = None,
    progress: bool | None = None,
) -> PreparedModel:
    """Run calibration data through a prepared model; returns the same model.

    Args:
        prepared: from :func:`prepare`.
        data: iterable of batches, as for :func:`quantize`.
        steps: use at most so many batches.
        progress: show a progress bar; None shows one on a terminal.

    Raises:
        ConfigError: data of no known form, or a batch that doesn't fit the model.
        CalibrationError: no batch at all, or NaN or infinity in one, naming the site.
    """
    _check_prepared(prepared, "calibrate")
    run_calibration(prepared, data, steps=steps, progress=progress)
    return prepared


@undisturbed()
@patiently
def convert(
    prepared: PreparedModel, *, min_coverage: float | None = None, check: bool = True
) -> QuantizedModel:
    """Turn a calibrated model into a quantized one; ``prepared`` stays as it is.

    Args:
        prepared: from :func:`prepare`.
        min_coverage: as for :func:`quantize`.
        check: as for :func:`quantize`.

    Raises:
        CalibrationError: observers that have seen no data, each named.
        CoverageError: nothing was quantized, or less than ``min_coverage``.
        PassError: a pass changed what the model computes.
    """
    _check_prepared(prepared, "convert")
    check_coverage(min_coverage)
    return _convert(prepared.copy_to_convert(), min_coverage=min_coverage, check=check)


def _check_float(model: object) -> None:
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    for path, module in modules:
        if isinstance(module, (PreparedModel, QuantizedModel)):
            done = "quantized" if isinstance(module, QuantizedModel) else "prepared"
            which = f"module {path!r}" if path else "the model"
            raise ConfigError(f"{which} is {done} already; start again from the float model")


def _check_start(qparams_from: object, method: str) -> None:
    if qparams_from is None:
        return
    if method != "qat":
        raise ConfigError(f'qparams_from is where method="qat" starts; method={method!r} has none')
    if not isinstance(qparams_from, QuantizedModel):
        raise ConfigError(
            f"qparams_from is {type(qparams_from).__name__}; give what qfx.quantize returned"
        )


def _check_prepared(prepared: object, taker: str) -> None:
    if isinstance(prepared, QuantizedModel):
        raise ConfigError(
            f"{taker} takes what qfx.prepare returned, and this model is quantized already: use it "
            "as it is, or start again from the float model"
        )
    if not isinstance(prepared, PreparedModel):
        inner = prepared.named_children() if isinstance(prepared, nn.Module) else ()
        for name, child in inner:
            if isinstance(child, PreparedModel):
                raise ConfigError(
                    f"{taker} takes what qfx.prepare returned: give .{name} of the "
                    f"{type(prepared).__name__}"
                )
        raise ConfigError(
            f"{taker} takes what qfx.prepare returned, not a {type(prepared).__name__}. "
            "Call qfx.prepare(model, example_inputs) first, or qfx.quantize for all in one."
        )


@patiently
def _convert(
    prepared: PreparedModel, *, min_coverage: float | None, check: bool = True
) -> QuantizedModel:
    """Convert ``prepared`` and use it up."""
    settings, history = prepared.settings, prepared.history
    net = Net(prepared) if check else None
    prepared.restore_buffers()
    if settings.backend.cpu_only:
        prepared.to("cpu")
    ctx = settings.context(prepared)
    to_reference, to_lowered = _at_reference(settings.rest)
    if net is not None:
        net.check_float(prepared)
    transform(prepared, to_reference, ctx, history, net.instruments() if net else ())
    reference = clone_graph_module(prepared, take=True)

    def lower(graph_module: fx.GraphModule, stages: History) -> None:
        ctx.graph_module = graph_module
        transform(graph_module, to_lowered, ctx, stages, net.instruments() if net else ())

    if net is not None:
        lowered, history = net.lower(reference, lower, history)
    else:
        lowered = clone_graph_module(reference)
        lower(lowered, history)
    report = build_report(
        settings.sites,
        reference,
        lowered,
        backend=settings.backend.name,
        size_before=settings.size_before,
        history=history,
        warnings=settings.configuration.warnings,
        checked=net.checked() if net else None,
        saturates=settings.backend.saturates,
    )
    _check_coverage(report, min_coverage)
    return QuantizedModel(
        lowered,
        reference,
        report=report,
        history=history,
        lowering=Lowering(
            settings.backend, tuple(step for step in to_lowered if isinstance(step, Pass))
        ),
    )


def _at_reference(pipeline: Pipeline) -> tuple[Pipeline, Pipeline]:
    """The passes up to the reference form, and those from it on.

    What follows the reference form and changes values on purpose changes what is meant by it.
    """
    passes = pipeline.passes
    produced = [i for i, p in enumerate(passes) if getattr(p, "produces", None) is Level.REFERENCE]
    at = produced[-1] + 1 if produced else len(passes)
    while at < len(passes) and not getattr(passes[at], "keeps_values", True):
        at += 1
    before = replace(pipeline, passes=passes[:at])
    return before, replace(pipeline, passes=passes[at:], start=before.end)


def _check_coverage(report: QuantizationReport, least: float | None) -> None:
    if not any(site.decision == "quantized" for site in report.sites):
        raise CoverageError(f"nothing was quantized\n{report}")
    if least is not None and report.coverage is not None and report.coverage < least:
        raise CoverageError(
            f"{report.coverage:.1%} of the multiply-accumulates were quantized, and "
            f"min_coverage={least} asks for {least:.1%}\n{report}"
        )
    if least is not None and report.unknown:
        labels = ", ".join(site.label for site in report.unknown[:3])
        warn(
            f"min_coverage={least} does not count {len(report.unknown)} operation(s) whose work "
            f"can't be known: {labels}. They stay float; see qmodel.report."
        )
