"""The passes that come with qfx, a file each; those that a backend brings lie with the backend."""

from __future__ import annotations

from qfx.backends.onednn.leave_single_rows import LeaveSingleRows
from qfx.backends.onednn.merge_products import MergeProducts
from qfx.backends.onednn.overwrite_operands import OverwriteOperands
from qfx.backends.onednn.reuse_accumulators import ReuseAccumulators
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
from qfx_passes.lowering.keep_float import KeepFloat
from qfx_passes.lowering.lower import Lower
from qfx_passes.placement.annotate import Annotate
from qfx_passes.placement.insert_stubs import InsertStubs
from qfx_passes.placement.place_observers import PlaceObservers
from qfx_passes.placement.reference import Reference
from qfx_passes.placement.settle_joins import SettleJoins
from qfx_passes.placement.start_from import StartFrom
from qfx_passes.training.inference_form import InferenceForm
from qfx_passes.training.training_form import TrainingForm

BUILTIN = (
    Canonicalize,
    FoldConstants,
    FuseConvBN,
    FusePads,
    FusePostOps,
    InsertStubs,
    Annotate,
    PlaceObservers,
    RecordInputMeans,
    StartFrom,
    TrainingForm,
    InferenceForm,
    SmoothNorms,
    SmoothInputs,
    SettleJoins,
    WidenWeights,
    Gptq,
    CorrectBias,
    MatchMeans,
    Reference,
    KeepFloat,
    Lower,
    MergeProducts,
    ReuseAccumulators,
    OverwriteOperands,
    LeaveSingleRows,
    KeepContiguous,
    FlattenConstants,
)
"""Every pass of qfx; registered under the entry-point group ``qfx.passes``."""

__all__ = [pass_type.__name__ for pass_type in BUILTIN]
