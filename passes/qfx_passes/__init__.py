"""The passes that come with qfx: one family a file, in the order of the pipeline."""

from __future__ import annotations

from qfx_passes.annotate import Annotate
from qfx_passes.bias import CorrectBias, RecordInputMeans
from qfx_passes.canonicalize import Canonicalize
from qfx_passes.fold_constants import FoldConstants
from qfx_passes.fuse_bn import FuseConvBN
from qfx_passes.fuse_pads import FusePads
from qfx_passes.fuse_post import FusePostOps
from qfx_passes.joins import SettleJoins
from qfx_passes.lower import Lower
from qfx_passes.observers import PlaceObservers
from qfx_passes.reference import Reference
from qfx_passes.start import StartFrom
from qfx_passes.stubs import InsertStubs
from qfx_passes.training import InferenceForm, TrainingForm

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
    SettleJoins,
    CorrectBias,
    Reference,
    Lower,
)
"""Every pass of qfx; registered under the entry-point group ``qfx.passes``."""

__all__ = [pass_type.__name__ for pass_type in BUILTIN]
