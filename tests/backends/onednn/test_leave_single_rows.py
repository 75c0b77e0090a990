"""One row: fbgemm's kernel computes what oneDNN's does, over the same codes."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

import qfx
from qfx.backends.onednn import calls, single_rows
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.backends.onednn.kernels import LINEAR_POST_OPS
from qfx.backends.onednn.single_rows import PackedForRows
from qfx.semantics import affine
from tests.cases.flow import run

needs_kernel = pytest.mark.skipif(
    not single_rows.pays(), reason="fbgemm's kernel saturates or is absent here"
)
ACTIVATIONS: dict[str, nn.Module] = {
    "none": nn.Identity(),
    "relu": nn.ReLU(),
    "hardtanh": nn.Hardtanh(-0.2, 0.3),
    "hardswish": nn.Hardswish(),
    "swish": nn.SiLU(),
    "gelu": nn.GELU(approximate="tanh"),
    "leaky_relu": nn.LeakyReLU(0.2),
    "tanh": nn.Tanh(),
}


class Gated(nn.Module):
    """Three layers, two of which read one value."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(24, 40), nn.Linear(24, 40), nn.Linear(40, 24)
        self.up.bias = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))
        return y


class Adds(Gated):
    """A layer that adds what it is given takes codes only."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.gate(x)) + x
        return y


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.tanh(self.layer(x)))
        return y


def quantized(model: nn.Module, rows: int = 6) -> Any:
    torch.manual_seed(0)
    return qfx.quantize(model.eval(), torch.randn(1, rows, 24), method="dynamic", backend="x86")


def lengths(graph: fx.Graph) -> list[int]:
    """Of the rows that are handed on as they are."""
    found = [node for node in graph.nodes if node.target is quantize_dynamic]
    return [node.kwargs.get("row", 0) for node in found]


def packings(model: nn.Module) -> list[PackedForRows]:
    return [held for held in vars(model).values() if isinstance(held, PackedForRows)]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What fbgemm is given: the row, its scale and zero point."""
    seen: list[tuple[Any, ...]] = []
    kernel = single_rows._kernel

    def watched(*given: Any) -> Any:
        seen.append(given[:3])
        return kernel(*given)

    monkeypatch.setattr(single_rows, "_kernel", watched)
    return seen


@needs_kernel
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (1, 1, 1, 24)])
def test_a_row_alone_and_among_others(shape: tuple[int, ...], used: list[tuple[Any, ...]]) -> None:
    model = quantized(Gated())
    assert lengths(model.graph) == [24, 40]
    x = torch.randn(shape)
    y = run(model, (x,))
    assert len(used) == 3
    assert y.shape == shape
    torch.testing.assert_close(y, run(model.reference, (x,)))
    torch.testing.assert_close(y, run(model, (torch.cat([x, x]),))[:1])
    assert len(used) == 3


@needs_kernel
def test_a_vector_is_a_row(used: list[tuple[Any, ...]]) -> None:
    model, x = quantized(nn.Sequential(nn.Linear(24, 8))), torch.randn(24)
    y = run(model, (x,))
    assert y.shape == (8,)
    assert torch.equal(y, run(model, (x[None],))[0])
    assert {tuple(row.shape) for row, *_ in used} == {(24,), (1, 24)}


class Told(Tensor):
    """Keeps what is computed with it."""

    seen: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(str(func))
        return super().__torch_function__(func, types, args, kwargs)


class Watching(TorchFunctionMode):
    """Keeps what is computed while it is on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Told.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@needs_kernel
def test_tensors_of_subclasses_and_modes_see_the_kernel() -> None:
    model, x = quantized(nn.Sequential(nn.Linear(24, 8))), torch.randn(1, 24)
    y = run(model, (x,))
    told = model(x.as_subclass(Told))
    assert type(told) is Told
    assert torch.equal(told.as_subclass(Tensor), y)
    assert any("linear_with_input" in func for func in Told.seen)
    Told.seen.clear()
    with Watching():
        assert torch.equal(model(x), y)
    assert any("linear_with_input" in func for func in Told.seen)


@needs_kernel
@pytest.mark.parametrize("name", LINEAR_POST_OPS)
def test_post_ops(name: str, used: list[tuple[Any, ...]]) -> None:
    model = quantized(nn.Sequential(nn.Linear(24, 33), ACTIVATIONS[name]))
    x = torch.randn(1, 24)
    torch.testing.assert_close(run(model, (x,)), run(model.reference, (x,)))
    assert len(used) == 1
    assert {"none", *single_rows.POST_OPS} == set(LINEAR_POST_OPS)


def values(kind: str, width: int) -> Tensor:
    """Floats of many sizes, or multiples of half a step from 0 to 255 steps of 1."""
    if kind == "floats":
        return torch.randn(1, width) * 10 ** float(torch.randn(()))
    x = torch.randint(-200, 311, (1, width)) / 2
    x[0, :2] = torch.tensor([-100.0, 155.0])
    return x


@needs_kernel
@pytest.mark.parametrize("kind", ["floats", "midway"])
@pytest.mark.parametrize("width", [64, 100, 1021])
def test_codes_are_those_of_many_rows(kind: str, width: int, used: list[tuple[Any, ...]]) -> None:
    """A weight of ones on its diagonal hands the codes out.

    Both round exactly but for values within a rounding error of the middle between two codes, where
    they may be a step apart: some three in a million.
    """
    torch.manual_seed(width)
    packed = torch.ops.onednn.qlinear_prepack(torch.eye(width, dtype=torch.int8), [1, width])
    scales, zeros = torch.ones(width), torch.zeros(width, dtype=torch.int8)
    weight, result = (packed, scales, zeros, None), (1.0, 0, torch.float32, "none", [], "")
    for _ in range(50):
        x, rows = values(kind, width), PackedForRows()
        many, *qparams = quantize_dynamic(torch.cat([x, x]))
        row, *measured = quantize_dynamic(x, row=width)
        assert row is x
        assert measured == qparams
        scale, zero_point = measured
        y = calls.linear(row, scale, zero_point, *weight, *result, rows=rows)
        codes = torch.round(y / scale).int() + zero_point
        midway = (x.double() / scale - 0.5).frac().abs() % 1 < 1e-4
        for others in (many[:1], affine.quantize(x, scale, zero_point)):
            apart = codes - others.int()
            assert apart.abs().max() <= 1
            assert not apart[~midway].any()
            assert kind == "floats" or not apart.any()
    assert len(used) == 50
    assert used[-1][1:] == (scale, zero_point)


@needs_kernel
def test_no_row_and_several_stay_with_onednn(used: list[tuple[Any, ...]]) -> None:
    model = quantized(Gated())
    assert run(model, (torch.randn(1, 0, 24),)).shape == (1, 0, 24)
    assert run(model, (torch.randn(1, 2, 24),)).shape == (1, 2, 24)
    assert used == []
    assert all(held.packed is None for held in packings(model))


@needs_kernel
def test_as_many_values_in_another_shape_are_refused() -> None:
    with pytest.raises((qfx.ConfigError, RuntimeError)):
        quantized(nn.Sequential(nn.Linear(24, 8)))(torch.randn(2, 12))


@needs_kernel
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_nan(value: float) -> None:
    x = torch.randn(1, 24)
    x[0, 3] = value
    assert run(quantized(Gated()), (x,)).isnan().all()


@needs_kernel
def test_a_row_that_lies_apart(used: list[tuple[Any, ...]]) -> None:
    model = quantized(Gated())
    x = torch.randn(24, 3)[:, :1].t()
    assert x.stride() != (24, 1)
    torch.testing.assert_close(run(model, (x,)), run(model, (x.contiguous(),)))
    assert len(used) == 6


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_are_rounded_as_ever(dtype: torch.dtype) -> None:
    x = torch.randn(1, 24, dtype=dtype)
    codes, *qparams = quantize_dynamic(x, row=24)
    expected, *same = quantize_dynamic(x)
    assert torch.equal(codes, expected)
    assert qparams == same


@needs_kernel
def test_the_input_is_not_changed_and_gets_no_gradient() -> None:
    model = quantized(nn.Sequential(nn.GELU(), nn.Linear(24, 8), nn.Linear(8, 8)))
    x = torch.randn(1, 24)
    before = x.clone()
    first = model(x)
    assert torch.equal(x, before)
    second = model(x.requires_grad_())
    assert torch.equal(second, first)
    assert not second.requires_grad


@needs_kernel
def test_layers_that_add_get_codes() -> None:
    model, x = quantized(Adds()), torch.randn(1, 24)
    assert lengths(model.graph) == [24, 0]
    torch.testing.assert_close(run(model, (x,)), run(model.reference, (x,)))


@needs_kernel
def test_a_layer_that_is_called_twice_is_packed_once() -> None:
    model, x = quantized(Twice()), torch.randn(1, 24)
    torch.testing.assert_close(run(model, (x,)), run(model.reference, (x,)))
    assert len(packings(model)) == 1


@needs_kernel
def test_copies_share_what_is_packed_and_files_do_not_hold_it(tmp_path: Path) -> None:
    model, x = quantized(Gated()), torch.randn(1, 24)
    size = qfx.save(model, tmp_path / "before.qfx").stat().st_size
    expected = run(model, (x,))
    for made in (copy.copy(model), copy.deepcopy(model)):
        assert torch.equal(run(made, (x,)), expected)
        assert packings(made) == packings(model)
    path = qfx.save(model, tmp_path / "after.qfx")
    assert path.stat().st_size == size
    loaded = qfx.load(path)
    assert isinstance(loaded, qfx.QuantizedModel)
    assert [held.packed for held in packings(loaded)] == [None] * 3
    assert torch.equal(run(loaded, (x,)), expected)
    assert "packed_rows" not in dict(loaded.named_buffers())


@needs_kernel
def test_threads_pack_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, packed = quantized(Gated()), torch.randn(1, 24), list[object]()
    prepack = single_rows._prepack

    def watched(*given: Any) -> Any:
        packed.append(given)
        return prepack(*given)

    monkeypatch.setattr(single_rows, "_prepack", watched)
    engine = torch.backends.quantized.engine
    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(lambda _: run(model, (x,)), range(32))
    assert all(torch.equal(first, other) for other in others)
    assert len(packed) == 3
    assert torch.backends.quantized.engine == engine


@needs_kernel
def test_examples_of_one_row_are_checked_and_compared() -> None:
    float_model = Gated()
    model = quantized(float_model, rows=1)
    assert lengths(model.graph) == [24, 40]
    assert model.report.checked
    x = torch.randn(1, 1, 24)
    assert qfx.compare(float_model, model, [(x,)]).output.sqnr > 30
    qfx.bisect(float_model, model, [(x,)])


@pytest.mark.slow
@needs_kernel
@pytest.mark.parametrize("rows", [1, 3])
def test_compiled_and_exported(rows: int) -> None:
    model, x = quantized(Gated(), rows), torch.randn(1, rows, 24)
    expected = run(model, (x,))
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
