"""The standard pipelines, as literal tuples: the table of contents of a quantization."""

from __future__ import annotations

from dataclasses import replace

from qfx.backends import resolve_backend
from qfx.backends.base import Backend
from qfx.framework.pass_base import Pass
from qfx.framework.pipeline import CALIBRATE, Pipeline
from qfx_passes.accuracy.correct_bias import CorrectBias
from qfx_passes.accuracy.gptq import Gptq
from qfx_passes.accuracy.match_means import MatchMeans
from qfx_passes.accuracy.record_input_means import RecordInputMeans
from qfx_passes.accuracy.smooth_inputs import SmoothInputs
from qfx_passes.accuracy.smooth_norms import SmoothNorms
from qfx_passes.accuracy.widen_weights import WidenWeights
from qfx_passes.canonical.canonicalize import Canonicalize
from qfx_passes.canonical.fold_constants import FoldConstants
from qfx_passes.fusion.fuse_conv_bn import FuseConvBN
from qfx_passes.fusion.fuse_pads import FusePads
from qfx_passes.fusion.fuse_post_ops import FusePostOps
from qfx_passes.lowering.flatten_constants import FlattenConstants
from qfx_passes.lowering.keep_contiguous import KeepContiguous
from qfx_passes.lowering.lower import Lower
from qfx_passes.placement.annotate import Annotate
from qfx_passes.placement.insert_stubs import InsertStubs
from qfx_passes.placement.place_observers import PlaceObservers
from qfx_passes.placement.reference import Reference
from qfx_passes.placement.settle_joins import SettleJoins
from qfx_passes.placement.start_from import StartFrom
from qfx_passes.training.inference_form import InferenceForm
from qfx_passes.training.training_form import TrainingForm

_BEYOND_DEFAULT = ("widen-weights", "gptq")
_OF_SMALL_WINDOWS = Gptq(sweeps=0, windows=128, batches=8, mib=20)
"""That of the default effort, where activations have static ranges."""

_LEFT_OUT: dict[str, tuple[str, ...]] = {
    "fast": (
        *("record-input-means", "smooth-norms", "smooth-inputs", "correct-bias"),
        "match-means",
        *_BEYOND_DEFAULT,
    ),
    "default": _BEYOND_DEFAULT,
    "high": (),
}
"""What each effort does without."""

_FROM_CAPTURE_TO_OBSERVERS = (
    Canonicalize(),
    FoldConstants(),
    FuseConvBN(),
    FusePads(),
    FusePostOps(),
    InsertStubs(),
    Annotate(),
    PlaceObservers(),
)
"""What every method that is not trained starts with."""

_FROM_CAPTURE_TO_BIASES = (
    *_FROM_CAPTURE_TO_OBSERVERS,
    RecordInputMeans(),
    CALIBRATE,
    SmoothNorms(),
    SmoothInputs(),
    SettleJoins(),
    WidenWeights(),
    CorrectBias(),
    Gptq(),
)
"""What static and dynamic quantization start with."""


def static(backend: str | Backend | None = None, effort: str = "default") -> Pipeline:
    """Post-training static quantization; without a backend, that of the call."""
    return _with_effort(
        effort,
        Pipeline(
            (
                *_FROM_CAPTURE_TO_BIASES,
                MatchMeans(),
                Reference(),
                Lower(),
                KeepContiguous(),
                FlattenConstants(),
            ),
            backend=backend,
            method="static",
        ),
        by_default=_OF_SMALL_WINDOWS,
    )


def qat(backend: str | Backend | None = None) -> Pipeline:
    """Quantization-aware training: what calibration would observe is rounded, and trained."""
    return _for_backend(
        Pipeline(
            (
                Canonicalize(trainable=True),
                FuseConvBN(trainable=True),
                FusePads(),
                FusePostOps(),
                InsertStubs(),
                Annotate(),
                PlaceObservers(fake_quant=True),
                StartFrom(),
                TrainingForm(),
                CALIBRATE,
                InferenceForm(),
                FoldConstants(),
                Reference(),
                Lower(),
                KeepContiguous(),
                FlattenConstants(),
            ),
            backend=backend,
            method="qat",
        )
    )


def dynamic(backend: str | Backend | None = None, effort: str = "default") -> Pipeline:
    """Activations are measured at run time; what has static specs is calibrated all the same.

    Data, if there is any, says how channels are to be scaled, and corrects biases.
    """
    return _with_effort(
        effort,
        Pipeline(
            (
                *_FROM_CAPTURE_TO_BIASES,
                Reference(),
                Lower(),
                KeepContiguous(),
                FlattenConstants(),
            ),
            backend=backend,
            method="dynamic",
        ),
    )


def weight_only(backend: str | Backend | None = None, effort: str = "default") -> Pipeline:
    """Only weights are quantized; what has static specs is calibrated all the same."""
    return _with_effort(
        effort,
        Pipeline(
            (
                *_FROM_CAPTURE_TO_OBSERVERS,
                CALIBRATE,
                SettleJoins(),
                Gptq(),
                Reference(),
                Lower(),
                KeepContiguous(),
                FlattenConstants(),
            ),
            backend=backend,
            method="weight_only",
        ),
    )


def _with_effort(effort: str, pipeline: Pipeline, by_default: Pass | None = None) -> Pipeline:
    """Without what ``effort`` does without, and with the passes of its backend.

    Args:
        effort: which.
        pipeline: what "high" has.
        by_default: what the default effort has in place of the pass of that name, which it is
            without otherwise.
    """
    kept = list(pipeline.passes)
    if effort == "default" and by_default is not None:
        kept = [by_default if step.name == by_default.name else step for step in kept]
    kept = [step for step in kept if step is by_default or step.name not in _LEFT_OUT[effort]]
    return _for_backend(replace(pipeline, passes=tuple(kept)))


def _for_backend(pipeline: Pipeline) -> Pipeline:
    """With the passes of its backend, if it has one: what is printed is what will run."""
    if pipeline.backend is None:
        return pipeline
    return replace(pipeline, brought=resolve_backend(pipeline.backend).passes)
