"""Engines that run ONNX files, and models that are held against them beside the classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import models
from qfx.export.onnx.check import open_session, run
from tools import networks


def build(name: str) -> nn.Module:
    """A model of the list, or a detection backbone."""
    if name != "fpn":
        return models.build(name)
    detection = networks.import_torchvision().models.detection.backbone_utils
    torch.manual_seed(0)
    made: nn.Module = detection.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d
    )
    networks.randomise(made, seed=0)
    return made.eval()


def onnx_runtime(path: Path, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The outputs of a file, by name, as ONNX Runtime makes them."""
    session, _ = open_session(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, run(session, tensors), strict=True))


def openvino(path: Path, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The outputs of a file, by name, as OpenVINO makes them."""
    import openvino as ov

    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    core = ov.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", hints)
    made = compiled([tensor.numpy() for tensor in tensors])
    return {
        name: torch.from_numpy(made[output].copy())
        for output in compiled.outputs
        for name in output.get_names()
    }
