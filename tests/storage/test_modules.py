"""Modules that the graph calls: made again from their arguments, or handed in."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Odd(nn.Module):
    """Layers that no kernel knows, in front of one that kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.unfold, self.glu = nn.Unfold(4, stride=4), nn.GLU(dim=1)
        self.bilinear = nn.Bilinear(4, 4, 5)
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)
        self.shrink, self.fold = nn.Hardshrink(0.1), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fold(self.glu(self.unfold(self.norm(x))).transpose(1, 2))
        return self.shrink(self.bilinear(y, y))


def doubled(module: nn.Module, args: object, result: Tensor) -> Tensor:
    return 2 * result


class Hooked(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.inner.register_forward_hook(doubled)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.conv(x).mean((2, 3))))


def test_layers_of_pytorch_come_back_by_themselves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    qmodel = qfx.quantize(Odd().eval(), X)
    assert any(node.op == "call_module" for node in qmodel.reference.graph.nodes)
    loaded = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    assert torch.equal(loaded(X), qmodel(X))
    assert qfx.snapshot(loaded).to_json() == qfx.snapshot(qmodel).to_json()


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> tuple[qfx.QuantizedModel, Path]:
    qmodel = qfx.quantize(Hooked().eval(), X)
    return qmodel, qfx.save(qmodel, tmp_path_factory.mktemp("m") / "m.qfx")


def test_a_module_with_hooks_is_asked_for(hooked: tuple[qfx.QuantizedModel, Path]) -> None:
    with pytest.raises(qfx.FormatError, match=r"inner \(.*Sequential\).*modules=\{'inner'"):
        qfx.load(hooked[1])


def test_a_module_that_is_handed_in_gets_its_state(
    hooked: tuple[qfx.QuantizedModel, Path],
) -> None:
    qmodel, path = hooked
    other = Hooked(seed=1)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    for loaded in (qfx.load(path, model=other), qfx.load(path, modules={"inner": other.inner})):
        assert torch.equal(loaded(X), qmodel(X))
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert other.inner.training  # as it was, like all of it


def test_another_module_is_refused(hooked: tuple[qfx.QuantizedModel, Path]) -> None:
    for module in (nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(4))):
        with pytest.raises(qfx.FormatError, match="another than was saved"):
            qfx.load(hooked[1], modules={"inner": module})
    with pytest.raises(qfx.ConfigError, match=r"not an nn\.Module"):
        qfx.load(hooked[1], modules={"inner": "inner"})


def test_hooks_of_the_model_itself_are_refused(tmp_path: Path) -> None:
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(8, 4)).eval(), X)
    qmodel.register_forward_hook(doubled)
    with pytest.raises(qfx.FormatError, match="hooks, which are code"):
        qfx.save(qmodel, tmp_path / "m.qfx")


class Outside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward.default(self.linear(x), x[..., :4], 0.0)


def test_a_function_that_no_file_names_is_refused_with_its_line(tmp_path: Path) -> None:
    qmodel = qfx.quantize(Outside().eval(), X)
    with pytest.raises(qfx.FormatError, match=r"test_modules\.py:\d+.*threshold_backward"):
        qfx.save(qmodel, tmp_path / "m.qfx")
    assert not list(tmp_path.iterdir())


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y.masked_fill(y < 0, torch.finfo(y.dtype).min).softmax(-1)


def test_limits_of_a_dtype_are_asked_for_when_it_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    qmodel = qfx.quantize(Masked().eval(), X, method="dynamic")
    assert torch.equal(qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))(X), qmodel(X))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return self.head(self.embedding(x)) + self.count


def test_shared_weights_and_buffers_that_are_written_to(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.tensor([[1, 2]])
    qmodel = qfx.quantize(Tied().eval(), x, method="weight_only", check=False)
    path = qfx.save(qmodel, tmp_path / "m.qfx")
    data = path.read_bytes()
    loaded = qfx.load(path)
    for _ in range(3):
        assert torch.equal(loaded(x), qmodel(x))
    assert path.read_bytes() == data  # the mapping is private


class Overlapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        whole = torch.zeros(8)
        self.linear = nn.Linear(8, 4)
        self.register_buffer("low", whole[:4])
        self.register_buffer("whole", whole)

    def forward(self, x: Tensor) -> Tensor:
        self.low.add_(1)
        return self.linear(x + self.whole)


def test_buffers_that_share_memory_in_part_are_refused(tmp_path: Path) -> None:
    qmodel = qfx.quantize(Overlapping().eval(), torch.ones(1, 8), check=False)
    with pytest.raises(qfx.FormatError, match="lies in the memory of"):
        qfx.save(qmodel, tmp_path / "m.qfx")


def test_a_module_of_torchscript_is_handed_in(tmp_path: Path) -> None:
    """Its copies are made by operations, and parameters of theirs must be leaves again."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a category that differs by version of torch
        scripted = torch.jit.script(nn.Conv2d(4, 4, 3).eval())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), scripted, nn.Conv2d(4, 2, 1)).eval()
    qmodel = qfx.quantize(model, X)
    path = qfx.save(qmodel, tmp_path / "m.qfx")
    for handed in ({"model": model}, {"modules": {"1": scripted}}):
        assert torch.equal(qfx.load(path, **handed)(X), qmodel(X))
    with pytest.raises(qfx.FormatError, match="code is not in the file: 1"):
        qfx.load(path)
