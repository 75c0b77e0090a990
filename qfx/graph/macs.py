"""Multiply-accumulates of canonical operations, from the shapes seen with the example inputs.

convolution             output elements * weight elements per output channel
transposed convolution  input elements * weight elements per input channel
linear, matmul          output elements * contracted length
attention               query rows * key rows * (query width + value width), per head;
                        of the weights alone, without the value width
recurrent               steps * batch * elements of all weights
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from qfx import vocab
from qfx.graph.meta import TensorInfo, tensor_info, value_of
from qfx.vocab import Kind, OpDef, bound


def macs(node: fx.Node) -> int:
    """Multiply-accumulates of one call of ``node``; 0 for anything but matmul-like operations."""
    if not isinstance(node.target, OpDef) or node.target.kind is not Kind.MATMUL:
        return 0
    arguments = bound(node)
    if node.target in vocab.RECURRENT:
        return _recurrent(_info(arguments["input"]), arguments["weights"])
    output = tensor_info(node)
    if output is None:
        return 0
    if node.target is vocab.ATTENTION:
        return _attention(_info(arguments["query"]), _info(arguments["key"]), output)
    if node.target is vocab.ATTENTION_WEIGHTS:
        return output.numel * _info(arguments["query"]).shape[-1]
    if node.target is vocab.MATMUL:
        return output.numel * _info(arguments["input"]).shape[-1]
    weight = _info(arguments["weight"])
    if node.target.transposed:
        return _info(arguments["input"]).numel * weight.numel // weight.shape[0]
    return output.numel * weight.numel // weight.shape[0]


def _attention(query: TensorInfo, key: TensorInfo, output: TensorInfo) -> int:
    return output.numel // output.shape[-1] * key.shape[-2] * (query.shape[-1] + output.shape[-1])


def _recurrent(input: TensorInfo, weights: Sequence[object]) -> int:
    rows = input.numel // max(1, input.shape[-1])
    return rows * sum(_info(weight).numel for weight in weights)


def _info(node: object) -> TensorInfo:
    assert isinstance(node, fx.Node)
    info = value_of(node)
    assert isinstance(info, TensorInfo)
    return info
