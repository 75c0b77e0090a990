"""qfx: a graph-level compiler-pass framework on torch.fx whose first job is quantization.

    qmodel = qfx.quantize(model.eval(), example_inputs)
    print(qmodel.report)

See README.md for the three ways of use: one call, passes of your own, and looking at graphs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from qfx.garbage_collection import collector_resting

with collector_resting():  # a collection would walk all that torch holds: half the time of this
    from qfx import backends, ops, pipelines, vocab
    from qfx.backends.base import Backend
    from qfx.configuration.defaults import get_default_qconfig, get_default_qconfig_mapping
    from qfx.errors import (
        BackendError,
        CalibrationError,
        CaptureError,
        ConfigError,
        CoverageError,
        ExportError,
        FormatError,
        PassError,
        PatternError,
        QfxError,
        QfxWarning,
        VerifyError,
    )
    from qfx.framework.levels import Level
    from qfx.framework.pass_base import Pass, PatternPass
    from qfx.framework.pass_context import PassContext
    from qfx.framework.pipeline import Pipeline
    from qfx.framework.registry import get_pass, list_passes, parse_pass, parse_pipeline
    from qfx.graph.effects import has_effect, overwrites, shares_memory
    from qfx.graph.meta import module_path, source, tensor_info
    from qfx.graph.opaque_macs import macs_of as macs
    from qfx.history.diff import GraphDiff, diff
    from qfx.history.history import History
    from qfx.history.snapshot import Snapshot, snapshot
    from qfx.history.stage import Stage
    from qfx.quant.qconfig import QConfig, QConfigMapping, QuantSpec
    from qfx.quant.qparams import QParams
    from qfx.report.sites import QuantizationReport, Site
    from qfx.rewrite import (
        Analysis,
        Any,
        Attr,
        Const,
        Match,
        Mismatch,
        Module,
        OneOf,
        Op,
        Rewriter,
        rewrite,
    )
    from qfx.stubs import DeQuantStub, QuantStub
    from qfx.training.schedule import QATSchedule, freeze_batchnorm, freeze_observers
    from qfx.version import __version__ as __version__

if TYPE_CHECKING:
    from qfx import engines
    from qfx.api import calibrate, convert, prepare, quantize
    from qfx.custom_passes import run_passes
    from qfx.engines.compiled import CompiledModel
    from qfx.engines.compiling import compile
    from qfx.export.onnx.check import check_onnx
    from qfx.export.onnx.export import export_onnx
    from qfx.export.pt2e.export import export_pt2e
    from qfx.keeping import load, save
    from qfx.numerics.bisection import bisect
    from qfx.numerics.comparison import compare
    from qfx.numerics.variants import variants
    from qfx.runtime.prepared import PreparedModel
    from qfx.runtime.quantized import QuantizedModel
    from qfx.tuning.tune import tune

__all__ = [
    "Analysis",
    "Any",
    "Attr",
    "Backend",
    "BackendError",
    "CalibrationError",
    "CaptureError",
    "CompiledModel",
    "ConfigError",
    "Const",
    "CoverageError",
    "DeQuantStub",
    "ExportError",
    "FormatError",
    "GraphDiff",
    "History",
    "Level",
    "Match",
    "Mismatch",
    "Module",
    "OneOf",
    "Op",
    "Pass",
    "PassContext",
    "PassError",
    "PatternError",
    "PatternPass",
    "Pipeline",
    "PreparedModel",
    "QATSchedule",
    "QConfig",
    "QConfigMapping",
    "QParams",
    "QfxError",
    "QfxWarning",
    "QuantSpec",
    "QuantStub",
    "QuantizationReport",
    "QuantizedModel",
    "Rewriter",
    "Site",
    "Snapshot",
    "Stage",
    "VerifyError",
    "backends",
    "bisect",
    "calibrate",
    "check_onnx",
    "compare",
    "compile",
    "convert",
    "diff",
    "engines",
    "export_onnx",
    "export_pt2e",
    "freeze_batchnorm",
    "freeze_observers",
    "get_default_qconfig",
    "get_default_qconfig_mapping",
    "get_pass",
    "has_effect",
    "list_passes",
    "load",
    "macs",
    "module_path",
    "ops",
    "overwrites",
    "parse_pass",
    "parse_pipeline",
    "pipelines",
    "prepare",
    "quantize",
    "rewrite",
    "run_passes",
    "save",
    "shares_memory",
    "snapshot",
    "source",
    "tensor_info",
    "tune",
    "variants",
    "vocab",
]

_LATER = {
    "CompiledModel": "qfx.engines.compiled",
    "PreparedModel": "qfx.runtime.prepared",
    "QuantizedModel": "qfx.runtime.quantized",
    "bisect": "qfx.numerics.bisection",
    "calibrate": "qfx.api",
    "check_onnx": "qfx.export.onnx.check",
    "compare": "qfx.numerics.comparison",
    "compile": "qfx.engines.compiling",
    "convert": "qfx.api",
    "export_onnx": "qfx.export.onnx.export",
    "export_pt2e": "qfx.export.pt2e.export",
    "load": "qfx.keeping",
    "prepare": "qfx.api",
    "quantize": "qfx.api",
    "run_passes": "qfx.custom_passes",
    "save": "qfx.keeping",
    "tune": "qfx.tuning.tune",
    "variants": "qfx.numerics.variants",
}
"""What acts on models, half of all code, and where it is: imported when asked for."""

_ROOMS = ("engines", "numerics")
"""Packages of which users ask for more than names of this one: likewise."""


def __getattr__(name: str) -> object:
    """Import what is asked for the first time."""
    if name not in _LATER and name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with collector_resting():
        if name in _ROOMS:
            return importlib.import_module(f"qfx.{name}")
        found: object = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """What is public, and what every module has."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
