"""An exported program was told to call eval(), which raises; now it is taken."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx_passes import Canonicalize
from tests.cases.flow import randn, seeded, sqnr

# torch's own, when it copies an exported program:
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")

X, MORE = randn(2, 3, 16, 16), randn(5, 3, 16, 16, seed=1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 4)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.stem(x))))
        x = F.relu6(self.conv(x) + x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(self.drop(x))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], -1, 16)
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        shape = (x.shape[0], -1, 2, 8)
        query, key, value = (v.view(shape).transpose(1, 2) for v in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(F.gelu(mixed.transpose(1, 2).flatten(2)))


def exported(model: nn.Module, *, dynamic: bool = False) -> fx.GraphModule:
    shapes: Any = ({0: torch.export.Dim("batch", min=2, max=64)},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, (X,), dynamic_shapes=shapes).module()


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("kind", [Residual, Attends])
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_an_exported_program_is_quantized_like_the_model(
    kind: type[nn.Module], backend: str
) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    model = seeded(kind)
    made = qfx.quantize(exported(model), X, backend=backend)
    plain = qfx.quantize(model, X, backend=backend)
    assert sqnr(model(X), made(X)) > 20
    assert made.report.coverage == pytest.approx(plain.report.coverage)


@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
def test_other_methods(method: str) -> None:
    model = seeded(Attends)
    made = qfx.quantize(exported(model), X, method=method, backend="reference")
    assert sqnr(model(X), made(X)) > 25


def test_other_batches_where_the_export_takes_them() -> None:
    model = seeded(Attends)
    made = qfx.quantize(exported(model, dynamic=True), X, calibration_data=[X, MORE])
    assert sqnr(model(MORE), made(MORE)) > 20
    fixed = qfx.quantize(exported(model), X, backend="reference")
    with pytest.raises(qfx.ConfigError):
        fixed(MORE)


def test_a_batch_that_the_export_does_not_take_says_how_to_export() -> None:
    told = (
        r"exported where \S*\.size\(\)\[0\] == 2, and these inputs are others\. What to do: export "
        r"with dynamic shapes, as in torch\.export\.export\(model, args, dynamic_shapes=\.\.\.\)"
    )
    shapes = r"It has \(float32\[5,3,16,16\]\); the example inputs were \(float32\[2,3,16,16\]\)\."
    program = exported(seeded(Residual))
    with pytest.raises(qfx.ConfigError, match=rf"(?s)calibration batch 1 .* {told}.*{shapes}"):
        qfx.quantize(program, X, calibration_data=[X, MORE], backend="reference")
    with pytest.raises(qfx.ConfigError, match=told) as raised:
        qfx.quantize(program, X, backend="reference")(MORE)
    assert "Guard failed" not in str(raised.value)


def test_training() -> None:
    model = seeded(Residual)
    with pytest.warns(qfx.QfxWarning, match="does in training what it does in inference: batch"):
        prepared = qfx.prepare(exported(model), X, method="qat", backend="reference").train()
    prepared(X).square().mean().backward()
    assert sqnr(model(X), qfx.convert(prepared)(X)) > 15


def test_operations_become_those_of_the_vocabulary() -> None:
    made, _ = qfx.run_passes(exported(seeded(Residual)), [Canonicalize()], X)
    calls = [n.target for n in made.graph.nodes if n.op == "call_function"]
    calls = [op for op in calls if getattr(op, "kind", None) is not vocab.Kind.QUERY]
    assert calls == [
        *(vocab.CONV2D, vocab.BATCH_NORM, vocab.RELU, vocab.MAX_POOL2D, vocab.CONV2D, vocab.ADD),
        *(vocab.CLAMP, vocab.ADAPTIVE_AVG_POOL2D, vocab.FLATTEN, vocab.LINEAR),
    ]
    torch.testing.assert_close(made(X), seeded(Residual)(X))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.up, self.deep = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 8, 3, 4, groups=8)
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.deep(self.up(self.bn(self.conv(x)).relu()))
        scored: Tensor = self.head(self.norm(y.flatten(2)))
        return scored


def test_decomposed_programs() -> None:
    """``run_decompositions`` leaves aten.convolution and norms that yield their statistics."""
    model = seeded(Layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (X,)).run_decompositions()
        made, _ = qfx.run_passes(program.module(), [Canonicalize()], X)
        qmodel = qfx.quantize(program, X, backend="reference", min_coverage=1.0)
    calls = [n.target for n in made.graph.nodes if n.op == "call_function"]
    layers = [op for op in calls if op in (*vocab.LAYERS, vocab.BATCH_NORM, vocab.LAYER_NORM)]
    assert layers == [
        *(vocab.CONV2D, vocab.BATCH_NORM, vocab.CONV_TRANSPOSE2D, vocab.CONV2D, vocab.LAYER_NORM),
        vocab.LINEAR,
    ]
    torch.testing.assert_close(made(X), model(X))
    assert "batch_norm(" not in str(qmodel.reference.code)  # folded
    assert sqnr(model(X), qmodel(X)) > 20


class Statistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, mean, _ = torch.native_layer_norm(x, (16,), None, None, 1e-5)
        return self.linear(y) + mean


def test_a_norm_whose_statistics_are_read_stays_as_written() -> None:
    model = seeded(Statistics)
    qmodel = qfx.quantize(exported(model), X, backend="reference")
    assert [s.op for s in qmodel.report.sites if s.reason == "unknown-form"] == [
        "native_layer_norm"
    ]
    assert sqnr(model(X), qmodel(X)) > 25


class Bessel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.special.i1(x))


def test_what_the_vocabulary_lacks_stays_float_with_a_reason() -> None:
    report = qfx.quantize(exported(seeded(Bessel)), X, backend="reference").report
    assert [(s.op, s.reason) for s in report.sites] == [
        ("special_i1", "unknown-op"),
        ("linear", ""),
    ]


@pytest.mark.parametrize("method", ["static", "weight_only"])
def test_an_export_in_training_mode_is_refused(method: str) -> None:
    model = exported(seeded(Residual).train())
    with pytest.raises(qfx.ConfigError, match="exported in training mode") as raised:
        qfx.quantize(model, X, method=method)
    assert "call model.eval() before torch.export.export" in str(raised.value)
