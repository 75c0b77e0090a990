"""OpenVINO's CPU plugin, quantized by NNCF: mixed preset (symmetric weights, asymmetric data)."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.engines import Built, Workload

_PASSING = {"Reshape", "Transpose", "Convert", "Multiply", "Subtract", "Squeeze", "Unsqueeze"}
_PASSING |= {"MaxPool", "Split", "VariadicSplit", "Gather", "Concat", "Slice", "StridedSlice"}
_PASSING |= {"ShuffleChannels"}


def build(workload: Workload, variant: str) -> Built:
    """Quantize with NNCF's mixed preset, compile for latency; one ``variant``, "mixed"."""
    del variant
    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf
    import openvino

    torch.set_num_threads(workload.threads)
    with torch.no_grad():
        floating = openvino.convert_model(workload.model, example_input=workload.example)
    quantized = nncf.quantize(
        floating,
        nncf.Dataset([batch.numpy() for batch in workload.calibration]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(workload.calibration),
    )
    shape = workload.example.shape
    quantized.reshape(list(shape))
    coverage = _coverage(quantized)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": workload.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(quantized, "CPU", settings)
    request = compiled.create_infer_request()

    def run(batch: Tensor) -> Tensor:
        if batch.shape != shape:
            raise ValueError(
                f"compiled for inputs of shape {tuple(shape)}, got {tuple(batch.shape)}"
            )
        request.infer([batch.numpy()], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor().data)

    return Built(run, coverage, {"openvino": openvino.__version__, "nncf": nncf.__version__})


def _coverage(model: Any) -> float:
    """MACs whose two inputs are quantized, over all MACs of the OpenVINO model."""
    total = integer = 0
    for op in model.get_ordered_ops():
        count = _macs(op)
        total += count
        if count and _is_quantized(op.input_value(0)) and _is_quantized(op.input_value(1)):
            integer += count
    return integer / total


def _macs(op: Any) -> int:
    kind = op.get_type_name()
    if kind == "ScaledDotProductAttention":  # (N, heads, L, E), twice: with the keys, the values
        return int(2 * math.prod(op.get_input_shape(0)) * op.get_input_shape(1)[-2])
    if kind not in ("Convolution", "GroupConvolution", "MatMul"):
        return 0
    outputs = math.prod(op.get_output_shape(0))
    weight = op.get_input_shape(1)
    if kind == "Convolution":  # (out, in, *kernel)
        return int(outputs * math.prod(weight[1:]))
    if kind == "GroupConvolution":  # (groups, out, in, *kernel)
        return int(outputs * math.prod(weight[2:]))
    data = op.get_input_shape(0)
    return int(outputs * data[-2 if op.get_attributes()["transpose_a"] else -1])


def _is_quantized(value: Any) -> bool:
    """Whether the value comes, through views, from a FakeQuantize or from 8-bit constants."""
    node = value.get_node()
    while node.get_type_name() in _PASSING and node.get_input_size():
        node = node.input_value(0).get_node()
    if node.get_type_name() == "Constant":
        return bool(node.get_element_type().bitwidth == 8)
    return bool(node.get_type_name() == "FakeQuantize")
