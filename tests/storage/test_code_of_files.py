"""What a file names becomes Python: nothing in it reaches what the tables do not hold."""

from __future__ import annotations

from typing import Any

import pytest

import qfx
from qfx.storage.fields import parse_json
from qfx.storage.files import load_buffer
from tests.storage.test_hostile import data, nodes, told  # noqa: F401  # a fixture

WIDE = "\uff3f"  # normal form: _
X: dict[str, Any] = {"node": "x"}


def added(content: Any, module: str, *calls: dict[str, Any]) -> None:
    """A module without tensors, and nodes before the output."""
    held = {"path": module, "type": "Identity", "arguments": {}, "state": []}
    content["model"]["attributes"].append(held)
    nodes(content)[-1:-1] = calls


FILES = {
    "a path that Python reads as __init__": (
        f"m._{WIDE}init_{WIDE}",
        {"name": "b", "op": "module", "target": f"m._{WIDE}init_{WIDE}", "args": [X]},
    ),
    "a node that is the model": (
        "format",
        {"name": "self", "op": "call", "target": "python.str", "args": ["{0.norm}"]},
        {"name": "b", "op": "module", "target": "format", "args": [X]},
    ),
    "a node that is a builtin": ("m", {"name": "max", "op": "module", "target": "m", "args": [X]}),
    "a node that is torch": ("m", {"name": "torch", "op": "module", "target": "m", "args": [X]}),
    "a function to call": (
        "m",
        {
            "name": "b", "op": "call", "target": "python.sorted", "args": [{"list": [1, 2]}],
            "kwargs": {"key": X},
        },
    ),
    "an attribute that is a list": (
        "m", {"name": "b", "op": "call", "target": "python.getattr", "args": [X, {"list": []}]},
    ),
    "a device that is none": (
        "m", {"name": "b", "op": "call", "target": "python.str", "args": [{"device": "cuda:²"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_is_refused(data: bytes, name: str) -> None:  # noqa: F811
    module, *calls = FILES[name]
    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, lambda content: added(content, module, *calls)))


def test_a_module_is_made_without_memory_of_its_own(data: bytes) -> None:  # noqa: F811
    def large(content: Any) -> None:
        arguments = {"in_features": 2**20, "out_features": 2**20, "device": {"device": "cpu"}}
        held = {"path": "m", "type": "Linear", "arguments": arguments, "state": []}
        content["model"]["attributes"].append(held)

    with pytest.raises(qfx.FormatError, match="no file says 'device' of a Linear"):
        load_buffer(told(data, large))


def test_a_document_is_as_long_as_the_file_allows(data: bytes) -> None:  # noqa: F811
    with pytest.raises(qfx.FormatError, match=r"claims \d+ bytes, out of"):
        load_buffer(told(data, lambda c: c["model"].update(more=[[]] * 2_000_000)))


def test_an_endless_number_is_refused() -> None:
    with pytest.raises(qfx.FormatError):
        parse_json(b'{"a": 1e999}', "it")
    assert parse_json(b'{"a": 1e30}', "it") == {"a": 1e30}


def test_a_weight_is_told_as_it_is(data: bytes) -> None:  # noqa: F811
    """Kernels are tried at the sizes that are told."""

    def large(content: Any) -> None:
        read = next(n for n in nodes(content) if n["op"] == "read" and len(n["value"]) == 5)
        read["value"][3:] = [n * 500 for n in read["value"][3:]]

    with pytest.raises(qfx.FormatError, match="another shape or dtype than is told"):
        load_buffer(told(data, large))
