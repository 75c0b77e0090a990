"""Each method of quantization, and embeddings, recurrent layers and transformers, in a file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.support.onnx import Exported, export, quantized, written


def g(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A block of a transformer, with a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(self.second(x))))
        return self.head(x)


@pytest.mark.parametrize(
    ("method", "operator", "least"),
    [("static", "QuantizeLinear", 45), ("dynamic", "MatMulInteger", 35)],
)
def test_transformer(method: str, operator: str, least: float) -> None:
    exported = export(Block(), g(2, 9, 32), method=method)
    assert exported.file.inputs["x"] == ("batch", "x_1", 32)
    assert exported.check.sqnr > least
    assert exported.file.operators[operator] >= 4
    assert exported.check.integer_kernels >= 5


def test_weights_only(tmp_path: Path) -> None:
    qmodel = quantized(Block(), g(2, 9, 32), method="weight_only")
    exported = written(qmodel, g(2, 9, 32))
    assert exported.file.operators["DequantizeLinear"] == 5
    assert "QuantizeLinear" not in exported.file.operators
    assert exported.check.sqnr > 30  # ONNX Runtime rounds the activations, too


FOUR_BITS = qfx.QConfig(
    weight=qfx.QuantSpec(
        torch.int8,
        symmetric=True,
        per_channel=True,
        group_size=16,
        quant_min=-8,
        quant_max=7,
    )
)


def test_four_bits_in_blocks(tmp_path: Path) -> None:
    qmodel = quantized(Block(), g(2, 9, 32), method="weight_only", qconfig=FOUR_BITS)
    qfx.export_onnx(qmodel, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    kinds = {t.data_type for t in model.graph.initializer if list(t.dims) == [32, 64]}
    assert kinds == {onnx.TensorProto.INT4}
    assert qfx.check_onnx(qmodel, tmp_path / "m.onnx", g(2, 9, 32)).sqnr > 30
    with pytest.raises(qfx.ExportError, match="takes no blocks") as raised:
        qfx.export_onnx(qmodel, tmp_path / "m.onnx", opset=20)
    assert len(raised.value.problems) == 5
    assert raised.value.problems[0].remedy == "Export with opset=21 or later."


def test_seven_bits_measured_at_run_time() -> None:
    """What DynamicQuantizeLinear has no bounds for is computed, and the products stay integers."""
    exported = export(nn.Sequential(nn.Linear(16, 8)), g(5, 16), method="dynamic")
    assert exported.file.operators["MatMulInteger"] == 1
    assert "DynamicQuantizeLinear" not in exported.file.operators
    assert exported.check.sqnr > 60


def test_convolution_measured_at_run_time() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    eight = qfx.get_default_qconfig("reference", "dynamic")
    exported = export(model, g(2, 3, 6, 6), method="dynamic", qconfig=eight)
    assert exported.file.operators["ConvInteger"] == 1
    assert exported.file.operators["DynamicQuantizeLinear"] == 1
    assert exported.check.sqnr > 35


def test_sixteen_bits() -> None:
    wide = qfx.QConfig(
        activation=qfx.QuantSpec(torch.int16, symmetric=True, observer="minmax"),
        weight=qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True),
    )
    exported = export(nn.Sequential(nn.Linear(16, 8)), g(5, 16), qconfig=wide)
    assert exported.check.sqnr > 40  # ONNX Runtime multiplies in 8 bits


class Bags(nn.Module):
    """Rows, bags of one length, and bags told apart by offsets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.head = nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 3)
        self.sums, self.means = (nn.EmbeddingBag(20, 8, mode=mode) for mode in ("sum", "mean"))

    def forward(self, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = tokens.flatten()
        return self.head(self.rows(tokens)), self.sums(tokens), self.means(flat, offsets)


def test_embeddings() -> None:
    inputs = torch.randint(0, 20, (4, 5)), torch.tensor([0, 3, 3, 11])
    exported = export(Bags(), inputs, method="weight_only")
    rounded_by_runtime, sums, means = exported.check.outputs
    assert min(sums.sqnr, means.sqnr) > 90
    assert rounded_by_runtime.sqnr > 30
    assert exported.file.operators["Gather"] >= 6  # codes, scales and offsets of rows


class Padded(nn.Module):
    """Bags of which some entries, or all, are padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 8, mode=m, padding_idx=-1) for m in MODES)

    def forward(self, tokens: Tensor, offsets: Tensor) -> list[Tensor]:
        found = [bag(tokens) for bag in self.bags]
        return found + [bag(tokens.flatten(), offsets) for bag in self.bags[:2]]


MODES = ("sum", "mean", "max")


def test_bags_with_padding() -> None:
    tokens = torch.tensor([[1, 19, 3], [19, 19, 19], [4, 4, 19]])
    exported = export(Padded(), (tokens, torch.tensor([0, 1, 2, 7])), method="weight_only")
    assert exported.check.sqnr > 90


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(30, 8)
        self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.gru, self.head = nn.GRU(12, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        y, (h, c) = self.lstm(self.words(tokens))
        return self.head(self.gru(y)[0][:, -1] + h[0, :, :5] + c[-1, :, :5])


TOKENS = torch.randint(0, 30, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("method", ["static", "weight_only"])
def test_recurrent_classifier(method: str) -> None:
    exported = export(Recurrent(), TOKENS, method=method)
    assert exported.file.inputs["tokens"] == ("batch", "tokens_1")
    assert exported.check.sqnr > (45 if method == "static" else 30)
    assert exported.file.operators["LSTM"] == 2


def test_recurrent_layers_measured_at_run_time_are_a_scan() -> None:
    exported = export(Recurrent(), TOKENS, method="dynamic")
    assert exported.file.inputs["tokens"] == ("batch", "tokens_1")
    assert exported.file.operators["Scan"] == 3
    assert exported.check.sqnr > 35


def test_other_lengths_run(tmp_path: Path) -> None:
    qmodel = quantized(Recurrent(), TOKENS)
    qfx.export_onnx(qmodel, tmp_path / "m.onnx")
    assert qfx.check_onnx(qmodel, tmp_path / "m.onnx", TOKENS[:1, :4]).sqnr > 45


def test_outputs_have_the_names_of_the_model() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
            y = self.layer(x)
            return {"logits": y, "states": [y, x]}

    exported: Exported = export(Named(), g(2, 4))
    assert list(exported.file.outputs) == ["logits", "states_0", "states_1"]
    assert exported.check.sqnr > 45
