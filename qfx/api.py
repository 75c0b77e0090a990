"""quantize, prepare, calibrate, convert: the arrow of the design, in order.

nn.Module -> capture -> passes before calibration -> calibrate -> passes after it -> QuantizedModel
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import fx, nn
from torch.export import ExportedProgram

from qfx import pipelines
from qfx.argument_checks import (
    check_calibrates,
    check_coverage,
    check_device,
    check_dtype,
    check_example_inputs,
    check_float,
    check_keywords,
    check_method,
    check_mode,
    check_pipeline,
    check_prepared,
    check_regions,
    check_start,
    check_types,
    idle_passes,
)
from qfx.backends.auto import backend_for
from qfx.backends.base import Backend
from qfx.caller_modes import draws_undone, undisturbed
from qfx.capture.limits import not_kept
from qfx.capture.regions.choice import graph_or_regions
from qfx.capture.wrappers import unwrapped
from qfx.conversion import use_up
from qfx.framework.continued import resumed
from qfx.framework.instruments import Instrument, as_instruments
from qfx.framework.levels import Level
from qfx.framework.pipeline import Pipeline
from qfx.garbage_collection import patiently
from qfx.preparation import PrepareRequest, prepare_graph
from qfx.quant.qconfig import QConfig, QConfigMapping
from qfx.regional import convert_regions, prepare_regions
from qfx.runtime.calibration import Calibrated, calibrated, run_calibration, run_example
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import regions_of
from qfx.runtime.samples import Progress
from qfx.runtime.trained import Start

_NO_DATA = (
    "calibration_data is not used: nothing here takes its range from data (method={method!r}). "
    "Leave it out, or choose method='static'"
)
_IS_STATIC = (
    "method={method!r}, but the qconfig has static specs, whose ranges now come from the example "
    "inputs alone. Take qfx.get_default_qconfig({backend!r}, {method!r}), or give calibration_data"
)


@undisturbed()
@draws_undone()
def quantize(
    model: nn.Module | ExportedProgram,
    example_inputs: object,
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
    regions: str | Iterable[str] = "auto",
    effort: str = "default",
    check: bool = True,
    settings: Sequence[object] = (),
    instruments: Sequence[Instrument] = (),
) -> QuantizedModel:
    """Quantize a model after training.

    Args:
        model: module in eval mode, on one device; never mutated. Of one under torch.compile or
            DataParallel, or of an ExportedProgram, what is in it is quantized.
        example_inputs: a tensor, or a tuple of positional arguments, as the model takes them.
        method: "static", "dynamic" (activations are measured when the model runs) or
            "weight_only" (activations stay float).
        calibration_data: iterable of batches (a tensor, a tuple or list of positional arguments,
            or a dict of keyword arguments each); ``example_inputs`` when None.
        qconfig: what to quantize how; the backend's default when None.
        backend: "auto", "x86", "fbgemm", "qnnpack", "reference", or a Backend. "auto" is
            :func:`qfx.backends.detect`; with ``method="dynamic"``, for models that generate and
            have no convolutions, "fbgemm" on CPUs on which x86 is slow for single rows (AVX2
            without VNNI). The report says so.
        types: quantize these module types and their functional twins only.
        example_kwargs: keyword arguments that go with ``example_inputs``.
        pipeline: passes to run in place of the method's own.
        progress: show a progress bar; None shows one on a terminal.
        min_coverage: least fraction of multiply-accumulates that must run in integers.
        regions: what to do with a model that can't be captured whole. "auto" captures the largest
            parts of it that can be, each by itself; "whole" refuses; names or patterns of
            submodules, as in ("encoder", "decoder.layers.*"), make these regions and no others.
        effort: what calibration may cost for accuracy (static; dynamic, if there is
            ``calibration_data``). "fast" only observes;
            "default" adds what is closed-form and cheap: bias correction, and smoothing where
            measuring on calibration batches says that it helps; "high" also chooses the codes of
            weights by what layers, and blocks of them, yield, which takes minutes.
        check: compare on the example inputs what every step computes with what it should: the float
            graph with the model, each kernel call and the whole with the reference form. A kernel
            that is wrong is put back to float (reason "kernel-failed-check").
        settings: what passes of yours ask of their context by type: ``ctx.get(MySettings)``.
        instruments: told before and after each pass.

    Returns:
        A GraphModule with the signature and output structure of ``model``, with ``.report`` and
        ``.history``. Of a model in several regions: a copy of it, of its class and with its
        methods, which has them as submodules, and ``.report``, ``.history`` and ``.regions``.

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
        regions=regions,
        settings=(*settings, Progress(progress)),
        instruments=instruments,
        effort=effort,
    )
    subject = calibrated(prepared)
    if subject.has_observers or (calibration_data is not None and subject.records):
        _calibrate_once(subject, calibration_data, progress)
    elif calibration_data is not None and method != "static":
        subject.graphs[0].settings.configuration.warn(_NO_DATA.format(method=method))
    return _converted(prepared, min_coverage, check, copies=False)


def _converted(
    prepared: PreparedModel, min_coverage: float | None, check: bool, *, copies: bool
) -> QuantizedModel:
    """The quantized model; a prepared one is used up unless it ``copies``."""
    parts = regions_of(prepared)
    if parts is None:
        source = prepared.copy_to_convert() if copies else prepared
        return use_up(source, min_coverage=min_coverage, check=check)
    made = convert_regions(prepared, parts, min_coverage=min_coverage, check=check, copies=copies)
    return cast(QuantizedModel, made)  # has what users read of one


def _calibrate_once(subject: Calibrated, data: Iterable[Any] | None, progress: bool | None) -> None:
    """Calibrate with ``data``, or with the example inputs if there is none."""
    if data is not None:
        run_calibration(subject, data, steps=None, progress=progress)
        return
    settings = subject.graphs[0].settings
    if settings.method != "static":
        settings.configuration.warn(
            _IS_STATIC.format(method=settings.method, backend=settings.backend.name)
        )
    run_example(subject)


@undisturbed()
@draws_undone()
@patiently
def prepare(
    model: nn.Module | ExportedProgram,
    example_inputs: object,
    *,
    method: str = "static",
    qconfig: QConfig | QConfigMapping | None = None,
    backend: str | Backend = "auto",
    types: Iterable[type[nn.Module]] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    pipeline: Pipeline | None = None,
    regions: str | Iterable[str] = "auto",
    effort: str = "default",
    qparams_from: QuantizedModel | None = None,
    settings: Sequence[object] = (),
    instruments: Sequence[Instrument] = (),
) -> PreparedModel:
    """Capture a model and put observers in it, or for training fake-quants.

    Arguments and errors are those of :func:`quantize`, and ``method="qat"`` is quantization-aware
    training: the model may be in either mode, and the result is in the same.

    ``qparams_from``, for ``method="qat"``, is what :func:`quantize` made of the same model:
    training starts from its qparams and biases, and from the bits, scales and codes of weights that
    it chose. Weights stay as they are where the nearest code is the one that it has.

    Returns:
        A module that computes what ``model`` computes while its observers record ranges; its
        ``eval()`` stops the recording, its ``train()`` resumes it. With ``method="qat"`` it rounds
        weights and activations as the quantized model will, and is trained like ``model``: its
        parameters keep their names. Of a model in several regions: a copy of it that has such
        modules in it.
    """
    check_method(method)
    model, notes = unwrapped(model)
    asked = check_regions(regions)
    kinds = check_types(types)
    check_pipeline(pipeline, method)
    pipelines.check_effort(effort, pipeline)
    args, kwargs = check_example_inputs(example_inputs, example_kwargs)
    check_float(model)
    check_start(qparams_from, method)
    check_mode(model, method)
    check_keywords(model, example_inputs)
    check_device(model)
    chosen = _standard(method, effort) if pipeline is None else pipeline
    target, told = backend_for(model, method, chosen.reconcile(backend), whole=asked == "whole")
    chosen = chosen.with_passes_at(Level.LOWERED, target.passes)
    check_dtype(model, args, kwargs)
    check_calibrates(chosen)
    start = None if qparams_from is None else Start(qparams_from.reference)
    watched = as_instruments(instruments)
    request = PrepareRequest(
        method, chosen, target, qconfig, kinds, start, tuple(settings), watched,
        (*notes, *filter(None, (told,))),
    )  # fmt: skip
    trains = method == "qat"
    left_by_passes = None if trains else resumed(model, args, kwargs)
    captured = left_by_passes or graph_or_regions(model, args, kwargs, asked, trains=trains)
    if not isinstance(captured, fx.GraphModule):
        return cast(PreparedModel, prepare_regions(request, model, captured, args, kwargs))
    configuration = request.configured(captured, model)
    configuration.warn_unmatched()
    for warning in (*not_kept(model, captured, method), *idle_passes(chosen)):
        configuration.warn(warning)
    return prepare_graph(request, captured, model, configuration, args, kwargs)


def _standard(method: str, effort: str) -> Pipeline:
    """The pipeline of a method; all but that of training have passes of an effort."""
    options = {} if method == "qat" else {"effort": effort}
    made: Pipeline = getattr(pipelines, method)(**options)
    return made


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
    check_prepared(prepared, "calibrate")
    run_calibration(calibrated(prepared), data, steps=steps, progress=progress)
    return prepared


@undisturbed()
@draws_undone()
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
    check_prepared(prepared, "convert")
    check_coverage(min_coverage)
    return _converted(prepared, min_coverage, check, copies=True)
