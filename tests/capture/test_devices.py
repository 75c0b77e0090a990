"""Branches by the device or dtype of an input are guarded, like those by its sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.capture.capture import capture
from tests.cases.flow import randn, seeded, sqnr

X = randn(2, 3)


class Net(nn.Module):
    def __init__(self, question: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.linear, self.question = nn.Linear(3, 3), question

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y * 2 if self.question(y) else y * 3


BY_DEVICE: dict[str, Callable[[Tensor], object]] = {
    "type ==": lambda y: y.device.type == "cpu",
    "type !=": lambda y: y.device.type != "cpu",
    "type, the other way": lambda y: "cpu" == y.device.type,  # noqa: SIM300
    "type in a tuple": lambda y: y.device.type in ("cpu", "mps"),
    "type in a set": lambda y: y.device.type in {"cpu", "mps"},
    "type as a key": lambda y: {"cpu": True}.get(y.device.type),
    "type starts with": lambda y: y.device.type.startswith("cp"),
    "device ==": lambda y: y.device == torch.device("cpu"),
    "text": lambda y: str(y.device) == "cpu",
    "is_cpu": lambda y: y.is_cpu,
}
BY_DTYPE: dict[str, Callable[[Tensor], object]] = {
    "==": lambda y: y.dtype == torch.float32,
    "in": lambda y: y.dtype in (torch.float32, torch.float16),
    "text": lambda y: str(y.dtype) == "torch.float32",
    "type()": lambda y: y.type() == "torch.FloatTensor",
    "bytes": lambda y: y.element_size() == 4,
    "eps": lambda y: torch.finfo(y.dtype).eps > 1e-8,
}


@pytest.mark.parametrize("name", BY_DEVICE)
def test_another_device(name: str) -> None:
    model = Net(BY_DEVICE[name]).eval()
    captured = capture(model, (X,))
    torch.testing.assert_close(captured(X), model(X))
    line = r"at test_devices.py:\d+ = .*, but these inputs make it .*capture the model anew"
    with pytest.raises(qfx.ConfigError, match=line):
        captured.to("meta")(X.to("meta"))


@pytest.mark.parametrize("name", BY_DTYPE)
def test_another_dtype(name: str) -> None:
    model = Net(BY_DTYPE[name]).eval()
    captured = capture(model, (X,))
    torch.testing.assert_close(captured(X), model(X))
    with pytest.raises(qfx.ConfigError, match=r"at test_devices.py:\d+ = "):
        captured.double()(X.double())


@pytest.mark.parametrize("name", ["type ==", "is_cpu"])
@pytest.mark.parametrize("backend", ["reference", "x86"])
def test_quantized_models_too(name: str, backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    model = seeded(lambda: Net(BY_DEVICE[name]))
    quantized = qfx.quantize(model, X, backend=backend)
    assert quantized.report.coverage == 1.0
    assert sqnr(model(X), quantized(X)) > 25
    if backend == "reference":
        with pytest.raises(qfx.ConfigError, match="capture the model anew"):
            quantized.to("meta")(X.to("meta"))


# -- what does not decide, and what Python and PyTorch need a text for -----------------------------
class Autocast(nn.Module):
    """As the rotary embeddings of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.linear(x))
        kind = y.device.type
        kind = kind if isinstance(kind, str) and kind != "mps" else "cpu"
        with torch.autocast(device_type=kind, enabled=False):
            y = y * torch.ones(3, device=y.device.type)
        return y.to(y.device.type) if y.device.type != "mps" else y


def test_a_text_of_python() -> None:
    model = Autocast().eval()
    captured = capture(model, (X,))
    torch.testing.assert_close(captured(X), model(X))
    guards = [n for n in captured.graph.nodes if n.target is vocab.GUARD]
    assert len(guards) == 1, "one for each text that it is compared with"
    canonical, _ = qfx.run_passes(model, [qfx.get_pass("canonicalize")], X)
    relu = next(n for n in canonical.graph.nodes if n.target is vocab.RELU)
    assert {n.target for n in relu.users} == {vocab.MUL}, "so that it can be fused"


def test_nothing_is_left_behind_in_what_a_model_keeps() -> None:
    class Keeps(nn.Module):
        kind = ""

        def forward(self, x: Tensor) -> Tensor:
            self.kind = x.device.type
            return x * 2 if self.kind == "cpu" else x

    captured = capture(Keeps(), (X,))
    assert torch.equal(captured(X), X * 2)
    assert copy.deepcopy(captured)(X).shape == X.shape


def test_the_device_of_a_parameter_is_no_question() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight if self.weight.device.type == "cpu" else x

    captured = capture(Own(), (X,))
    assert [n for n in captured.graph.nodes if n.target is vocab.GUARD] == []
