"""A file takes no memory beyond what it holds, whatever numbers stand in it."""

from __future__ import annotations

from contextlib import suppress
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.backends.onednn import verified_convs
from qfx.graph.inference import Inference
from qfx.storage.files import load_buffer
from tests.storage.test_hostile import Small, node, nodes, told

MOST = 1 << 24
"""Numbers that a trial of a kernel may hold at once."""


class Moved(nn.Module):
    """Values that only move between two layers, by numbers of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 4, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.reshape(self.conv(x), (1, 64)))


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 4, (1, 3), stride=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x)


def saved(model: nn.Module, folder: Any, backend: str = "x86") -> bytes:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 6, 6)
    qmodel = qfx.quantize(model.eval(), x, backend=backend, check=False)
    return qfx.save(qmodel, folder / "m.qfx").read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return saved(Small(), tmp_path_factory.mktemp("m"))


@pytest.mark.parametrize("times", [60, 10**6])
def test_shapes_of_activations_are_tried_in_part(
    times: int, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    trial = verified_convs._trial

    def watched(call: Any, ending: Any, codes: Tensor, weight: Tensor, run: Any) -> Any:
        positions = prod(call.result(tuple(codes.shape))[2:])
        tried.append(max(positions * prod(weight.shape[1:]), codes.numel()))
        return trial(call, ending, codes, weight, run)

    def grow(content: Any) -> None:
        for each in nodes(content):
            value = each.get("value")
            if each["op"] != "read" and isinstance(value, list) and len(value) == 5:
                value[1], value[3], value[4] = 64, value[3] * times, value[4] * times

    monkeypatch.setattr(verified_convs, "_trial", watched)
    with suppress(qfx.FormatError):  # kernels may refuse such sizes, too
        load_buffer(told(small, grow))
    assert all(columns <= MOST for columns in tried)


def test_weights_that_are_told_to_be_large(small: bytes) -> None:
    def grow(content: Any) -> None:
        weight = next(n for n in nodes(content) if n["name"] == "conv_weight_1")
        weight["value"] = ["float32", 1 << 16, 63, 3, 3]

    with pytest.raises(qfx.FormatError, match="is told to be"):
        load_buffer(told(small, grow))


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_nothing_runs_to_tell_what_nodes_yield(
    backend: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Inference, called: Any, arguments: Any) -> None:
        raise AssertionError(f"{called} ran")

    def grow(content: Any) -> None:
        moved = node(content, "reshape")
        big = {"name": "big", "op": "call", "target": "operator.lshift", "args": [1, 10**12]}
        nodes(content).insert(nodes(content).index(moved), big)
        (reshaped,) = [key for key in ("args", "kwargs") if "64" in str(moved.get(key))]
        moved[reshaped] = (
            [moved["args"][0], [1, {"node": "big"}]]
            if reshaped == "args"
            else {"shape": [1, {"node": "big"}]}
        )

    data = saved(Moved(), tmp_path, backend)
    monkeypatch.setattr(Inference, "_call", run)
    load_buffer(bytearray(data))
    load_buffer(told(data, grow))


def test_strides_that_write_a_weight_out(tmp_path: Any) -> None:
    data = saved(Wide(), tmp_path)

    def spread(content: Any) -> None:
        node(content, "conv_transpose2d").setdefault("kwargs", {})["stride"] = [2**16, 2**10]

    with pytest.raises(qfx.FormatError, match="packing the layers up to it"):
        load_buffer(told(data, spread))
    with pytest.raises(qfx.FormatError, match="no convolution"):
        load_buffer(told(data, lambda c: node(c, "conv_transpose2d").update(kwargs={"stride": 0})))


def test_many_layers_of_one_weight(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(4):
                x = self.conv(x).relu()
            return x

    data = saved(Shared(), tmp_path)
    monkeypatch.setattr("qfx.storage.limits.PACKED_ANYWAY", 5)
    monkeypatch.setattr("qfx.storage.limits.PACKED", 0)
    load_buffer(bytearray(data))  # it is packed once, for all four

    def other(content: Any) -> None:
        node(content, "conv2d").setdefault("kwargs", {})["padding"] = [1, 1]

    with pytest.raises(qfx.FormatError, match="packing the layers up to it"):
        load_buffer(told(data, other))


def test_groups_that_are_padded(small: bytes) -> None:
    def group(content: Any) -> None:
        weight = next(n for n in nodes(content) if n["name"] == "conv_weight_1")
        weight["kwargs"]["group_size"] = 10**9

    with pytest.raises(qfx.FormatError, match="conv_weight_1"):
        load_buffer(told(small, group))
