"""Files whose scales are fewer than kernels read: refused, or nothing reads them as scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import qfx
from qfx.storage.container import Container
from qfx.storage.documents import MODEL, unpack
from qfx.storage.files import load_buffer
from tests.storage.fuzz import rewritten

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    torch.manual_seed(0)
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(6, 64)).eval(), X, backend="x86", check=False)
    path = qfx.save(qmodel, tmp_path_factory.mktemp("m") / "m.qfx")
    return Container(bytearray(path.read_bytes()))


def cut(container: Container, count: int) -> dict[str, torch.Tensor]:
    """The scales and zero points of the weight, and no more of them than ``count``."""
    names = ("0.weight_scale", "0.weight_zero_point")
    return {name: container.tensor(name)[:count].clone() for name in names}


def nodes(document: Any) -> list[dict[str, Any]]:
    return list(document["model"]["graph"]["nodes"])


def test_scales_are_counted_where_no_shape_is_told(container: Container) -> None:
    document: Any = unpack(container, MODEL)
    for node in nodes(document):
        if node["op"] == "read":
            node.pop("value")
    data = rewritten(container, MODEL, document, cut(container, 3))
    with pytest.raises(qfx.FormatError, match=r"scales of shape \[3\] where \[64\] are read"):
        load_buffer(bytearray(data))


def test_scales_along_inputs_are_not_taken_for_those_of_outputs(container: Container) -> None:
    document: Any = unpack(container, MODEL)
    scales = cut(container, 6)
    for node in nodes(document):
        if node["op"] == "read" and node["target"] in scales:
            node["value"][1] = 6
        if node["target" if "target" in node else "op"] == "dequantize" and "axis" in str(node):
            node["kwargs"]["axis"] = 1
    loaded = load_buffer(bytearray(rewritten(container, MODEL, document, scales)))
    assert isinstance(loaded, qfx.QuantizedModel)
    assert "packed" not in str(loaded.code)
    torch.testing.assert_close(loaded(X), loaded.reference(X))
