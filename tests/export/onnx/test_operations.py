"""Every row of the table, against ONNX Runtime: several operations a model, an output each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.export.onnx.table import EMITTERS
from qfx.vocab import OpDef
from tests.export.onnx.functions import FUNCTIONS, PICKS
from tests.support.onnx import Exported, quantized, written

EXACT = 90.0
"""dB: what float arithmetic in another order leaves."""


def g(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


class Several(nn.Module):
    """A quantized layer, and functions of its input, by name."""

    def __init__(self, functions: dict[str, Callable[..., Any]], **modules: nn.Module) -> None:
        super().__init__()
        self.functions = functions
        self.layer = nn.Linear(4, 4)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor, *more: Tensor) -> dict[str, Any]:
        found = {name: function(self, x, *more) for name, function in self.functions.items()}
        return {"layer": self.layer(x), **found}


def setting(op: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """A norm or the like whose parameters and statistics are none of the initial ones."""
    torch.manual_seed(0)
    module = op(*args, **kwargs)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape) + 0.5
    return module


ARITHMETIC = {
    "add": lambda m, x: x + 1.5,
    "add_alpha": lambda m, x: torch.add(x, x, alpha=2),
    "sub": lambda m, x: 1 - x,
    "mul": lambda m, x: x * torch.sigmoid(x),
    "div": lambda m, x: x / 3,
    "div_floor": lambda m, x: torch.div(x, 0.3, rounding_mode="floor"),
    "div_trunc": lambda m, x: torch.div(x, 0.3, rounding_mode="trunc"),
    "size": lambda m, x: x * (x.shape[2] // 2 + x.shape[3] - 1) / (x.shape[0] + 2.5),
    "negative_floor": lambda m, x: x * (-(x.shape[2] + 1) // 2),
    "half": lambda m, x: x.half().float(),
    "relu": lambda m, x: F.relu(x),
    "relu6": lambda m, x: F.relu6(x * 4),
    "clamp": lambda m, x: x.clamp(min=-0.5),
    "leaky": lambda m, x: F.leaky_relu(x, 0.1),
    "elu": lambda m, x: F.elu(x, 0.7),
    "hardswish": lambda m, x: F.hardswish(x * 4),
    "silu": lambda m, x: F.silu(x),
    "gelu": lambda m, x: F.gelu(x),
    "gelu_tanh": lambda m, x: F.gelu(x, approximate="tanh"),
    "prelu": lambda m, x: m.prelu(x),
    "hardsigmoid": lambda m, x: F.hardsigmoid(x * 4),
    "tanh": lambda m, x: torch.tanh(x),
    "mish": lambda m, x: F.mish(x),
    "softmax": lambda m, x: F.softmax(x, 1),
    "log_softmax": lambda m, x: F.log_softmax(x, -1),
    "batch_norm": lambda m, x: m.batch_norm(x.sigmoid()),
    "layer_norm": lambda m, x: m.layer_norm(x),
    "layer_norm_plain": lambda m, x: F.layer_norm(x, (4,)),
    "group_norm": lambda m, x: m.group_norm(x),
    "instance_norm": lambda m, x: m.instance_norm(x),
    "mean": lambda m, x: x.mean(),
    "mean_dims": lambda m, x: x.mean((2, 3), keepdim=True),
    "sum": lambda m, x: x.sum(1),
    "amax": lambda m, x: x.amax((1, -1)),
    "amin": lambda m, x: x.amin(2, keepdim=True),
    "dropout": lambda m, x: m.dropout(x),
}

POOLS = {
    "max2": lambda m, x: F.max_pool2d(x, 3, 2, 1),
    "max2_ceil": lambda m, x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max2_dilated": lambda m, x: F.max_pool2d(x, 2, 1, dilation=2),
    "max1": lambda m, x: F.max_pool1d(x.flatten(2), 3, 2),
    "max3": lambda m, x: F.max_pool3d(x.unsqueeze(1), 2, 1),
    "avg2": lambda m, x: F.avg_pool2d(x, 3, 2, 1),
    "avg2_inside": lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg2_divisor": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3),
    "avg1": lambda m, x: F.avg_pool1d(x.flatten(2), 4),
    "avg3": lambda m, x: F.avg_pool3d(x.unsqueeze(1), 2),
    "lp1": lambda m, x: F.lp_pool1d(x.flatten(2), 2, 4),
    "lp2": lambda m, x: F.lp_pool2d(x, 4.0, (2, 3), (1, 2)),
    "lp3": lambda m, x: F.lp_pool3d(x.unsqueeze(1), 2, 2, 1),
    "adaptive1": lambda m, x: F.adaptive_avg_pool1d(x.flatten(2), 1),
    "adaptive2": lambda m, x: F.adaptive_avg_pool2d(x, 2),
    "adaptive2_same": lambda m, x: F.adaptive_avg_pool2d(x, (4, 2)),
    "adaptive3": lambda m, x: F.adaptive_avg_pool3d(x.unsqueeze(1), 1),
    "adaptive_max1": lambda m, x: F.adaptive_max_pool1d(x.flatten(2), 4),
    "adaptive_max2": lambda m, x: F.adaptive_max_pool2d(x, 1),
    "adaptive_max3": lambda m, x: F.adaptive_max_pool3d(x.unsqueeze(1), (1, 2, 2)),
    "nearest": lambda m, x: F.interpolate(x, scale_factor=2),
    "nearest_size": lambda m, x: F.interpolate(x, size=(7, 5)),
    "nearest_exact": lambda m, x: F.interpolate(x, size=(7, 5), mode="nearest-exact"),
    "bilinear": lambda m, x: F.interpolate(x, size=(7, 5), mode="bilinear"),
    "corners": lambda m, x: F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True),
    "bicubic": lambda m, x: F.interpolate(x, size=(8, 6), mode="bicubic"),
    "like": lambda m, x: F.interpolate(x, size=m.layer(x).shape[-2:], mode="bilinear"),
}

SHAPES = {
    "reshape": lambda m, x: x.reshape(x.shape[0], -1),
    "reshape_sizes": lambda m, x: x.reshape(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]),
    "flatten": lambda m, x: x.flatten(1, 2),
    "unflatten": lambda m, x: x.unflatten(1, (2, -1)),
    "permute": lambda m, x: x.permute(0, 2, -1, 1),
    "transpose": lambda m, x: x.transpose(-1, 1),
    "squeeze": lambda m, x: x[:, :1].squeeze(1),
    "unsqueeze": lambda m, x: x.unsqueeze(-2),
    "chunk": lambda m, x: x.chunk(2, 1)[1],
    "split": lambda m, x: x.split([1, 3], 1)[1],
    "unbind": lambda m, x: x.unbind(1)[2],
    "select": lambda m, x: x.select(2, -1),
    "narrow": lambda m, x: x.narrow(3, 1, 2),
    "getitem": lambda m, x: x[:, 1, ..., ::2],
    "getitem_new": lambda m, x: x[:, None, -1, 1:3],
    "getitem_tensor": lambda m, x: x[:, torch.tensor([2, 0, 0])],
    "getitem_size": lambda m, x: x[:, :, : x.shape[2] // 2],
    "expand": lambda m, x: x[:, :1].expand(-1, 3, -1, -1),
    "repeat": lambda m, x: x.repeat(2, 1, 1, 3),
    "repeat_interleave": lambda m, x: x.repeat_interleave(3, 1),
    "roll": lambda m, x: x.roll((1, -3), (2, 3)),
    "flip": lambda m, x: x.flip((1, -1)),
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda m, x: F.channel_shuffle(x, 2),
    "pad": lambda m, x: F.pad(x, (1, 2, 0, 1), value=0.5),
    "pad_reflect": lambda m, x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "pad_edge": lambda m, x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
    "contiguous": lambda m, x: x.transpose(1, 2).contiguous(),
    "clone": lambda m, x: x.clone() + 1,
    "cat": lambda m, x: torch.cat((x, x * 2, x), 1),
    "stack": lambda m, x: torch.stack((x, x + 1), -1),
    "where": lambda m, x: torch.where(x > 0.1, x, 0.5),
    "masked_fill": lambda m, x: x.masked_fill((x < 0) | (x >= 1), -1.0),
    "arange": lambda m, x: x * torch.arange(x.shape[3]),
    "math": lambda m, x: torch.exp(-x.abs()) + torch.sqrt(x * x + 1) + x.cos().pow(2),
    "maximum": lambda m, x: torch.maximum(x, -x) + x.new_ones(x.shape[3]) + torch.zeros_like(x),
    "cumsum": lambda m, x: x.cumsum(1),
    "compare": lambda m, x: (x.eq(x) & ~(x.ne(x))).float(),
}

LAYERS = {
    "matmul": lambda m, x: x @ x.transpose(-1, -2),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x + 1, x),
    "causal": lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked": lambda m, x: F.scaled_dot_product_attention(x, x, x, x[:1, :1] > -0.5),
    "added": lambda m, x: F.scaled_dot_product_attention(x, x, x, x[:1, :1], scale=0.3),
    "multihead": lambda m, x: m.multihead(x[:, 0], x[:, 1], x[:, 2])[0],
    "multihead_weights": lambda m, x: m.multihead(
        x[:, 0], x[:, 1], x[:, 2], key_padding_mask=x[:, 3, :, 0] > 0.7
    )[1],
    "same": lambda m, x: m.same(x),
    "conv1": lambda m, x: m.conv1(x.flatten(2)),
    "conv3": lambda m, x: m.conv3(x.unsqueeze(2)),
    "transposed1": lambda m, x: m.transposed1(x.flatten(2)),
    "transposed2": lambda m, x: m.transposed2(x),
    "transposed3": lambda m, x: m.transposed3(x.unsqueeze(2)),
    "lstm_cell": lambda m, x: m.lstm_cell(x[:, 0, 0])[0],
    "gru_cell": lambda m, x: m.gru_cell(x[:, 0, 0], x[:, 1, 1]),
    "rnn_cell": lambda m, x: m.rnn_cell(x[:, 0, 0]),
    "lstm": lambda m, x: m.lstm(x[:, 0]),
    "gru": lambda m, x: m.gru(x[:, 0]),
    "rnn": lambda m, x: m.rnn(x[:, 0])[0],
}

X = g(2, 4, 4, 4)


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    norms = {
        "batch_norm": setting(nn.BatchNorm2d, 4),
        "layer_norm": setting(nn.LayerNorm, (4, 4)),
        "group_norm": setting(nn.GroupNorm, 2, 4),
        "instance_norm": setting(nn.InstanceNorm2d, 4, affine=True),
        "prelu": setting(nn.PReLU, 4),
        "dropout": nn.Dropout(0.5),
    }
    functions = {"rms_norm": setting(nn.RMSNorm, 4), "bilinear": setting(nn.Bilinear, 4, 4, 3)}
    layers = {
        "multihead": nn.MultiheadAttention(4, 2, batch_first=True),
        "same": nn.Conv2d(4, 4, (3, 2), padding="same", groups=2),
        "conv1": nn.Conv1d(4, 3, 3, stride=2, padding=2, dilation=2),
        "conv3": nn.Conv3d(4, 3, (1, 2, 2)),
        "transposed1": nn.ConvTranspose1d(4, 3, 3, stride=2, output_padding=1),
        "transposed2": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2),
        "transposed3": nn.ConvTranspose3d(4, 2, (1, 2, 2)),
        "lstm_cell": nn.LSTMCell(4, 3),
        "gru_cell": nn.GRUCell(4, 4),
        "rnn_cell": nn.RNNCell(4, 3, nonlinearity="relu"),
        "lstm": nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True),
        "gru": nn.GRU(4, 3, batch_first=True, bidirectional=True),
        "rnn": nn.RNN(4, 3, nonlinearity="relu", bias=False),
    }
    return {
        "arithmetic": Several(ARITHMETIC, **norms),
        "pools": Several(POOLS),
        "shapes": Several(SHAPES),
        "layers": Several(LAYERS, **layers),
        "functions": Several(FUNCTIONS, **functions),
        "picks": Several(PICKS),
    }


WEIGHTS = qfx.QConfig(weight=qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True))
NAMES = ("arithmetic", "pools", "shapes", "layers", "functions", "picks")


@pytest.fixture(scope="module")
def all_exported() -> dict[str, Exported]:
    """The models, float but for one layer; sizes are free where the operations are about them."""
    one = qfx.QConfigMapping().set_module_name("layer", WEIGHTS)
    return {
        name: written(
            quantized(model, X, qconfig=one, method="weight_only"),
            X,
            dynamic_shapes={"x": {0: "batch", 2: "height"}} if name == "shapes" else {},
        )
        for name, model in models().items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_agrees(name: str, all_exported: dict[str, Exported]) -> None:
    rows = [row for row in all_exported[name].check.outputs if row.name != "layer"]
    assert [row for row in rows if row.sqnr < EXACT] == []


def spelled(exported: Exported) -> set[OpDef]:
    nodes = exported.qmodel.reference.graph.nodes
    return {node.target for node in nodes if isinstance(node.target, OpDef)}


def test_every_row_is_exercised(all_exported: dict[str, Exported]) -> None:
    """But for what is never in a float graph, and sizes' functions, of which some are."""
    elsewhere = {
        *(vocab.EMBEDDING, vocab.EMBEDDING_BAG, vocab.DYNAMIC_QPARAMS, vocab.UNPACK, vocab.WIDEN),
        *(vocab.QUANTIZE, vocab.QUANT_STUB, vocab.DEQUANT_STUB, vocab.PART, vocab.AFTER),
        *(vocab.ARRANGE, vocab.PACK_PADDED, vocab.PAD_PACKED),
        *(vocab.SETITEM, vocab.GUARD, vocab.DTYPE, vocab.DEVICE, vocab.DIM, vocab.ADDITIVE_MASK),
        *(vocab.CONV2D, vocab.CONTIGUOUS, vocab.DROPOUT, vocab.CAST, vocab.ATTENTION_WEIGHTS),
        *(vocab.NARROW, vocab.CLONE, vocab.UNFOLD, vocab.FOLD, vocab.DETACH),
    }
    rows = set(EMITTERS) - elsewhere - set(vocab.SCALARS.values())
    used = set().union(*map(spelled, all_exported.values()))
    assert sorted(op.name for op in rows - used) == []


@pytest.mark.parametrize("fused", [True, False])
def test_what_has_no_row_is_told(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(EMITTERS, vocab.HARDSWISH)  # type: ignore[arg-type]
    steps = [nn.Conv2d(3, 4, 1), nn.Hardswish()][:: 1 if fused else -1]
    qmodel = qfx.quantize(nn.Sequential(*steps).eval(), g(1, 3, 4, 4), backend="reference")
    with pytest.raises(qfx.ExportError, match="hardswish, which can't be written to ONNX"):
        qfx.export_onnx(qmodel, "unwritten.onnx")
