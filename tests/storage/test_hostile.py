"""Files that mean harm are refused before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.storage import limits
from qfx.storage.container import Container, container_parts
from qfx.storage.documents import MODEL, pack, tensor_name, unpack
from qfx.storage.fields import parse_json
from qfx.storage.files import load_buffer
from tests.storage import fuzz


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        y = torch.relu(self.conv(x)) * scale
        return torch.nansum(self.linear(y.mean((2, 3))), dim=1).clamp(min=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    qmodel = qfx.quantize(Small().eval(), torch.randn(1, 2, 6, 6), backend="reference", check=False)
    return qfx.save(qmodel, tmp_path_factory.mktemp("m") / "m.qfx").read_bytes()


def told(data: bytes, change: Callable[[Any], object]) -> bytearray:
    """The file with another document, whose checksum is right."""
    container = Container(bytearray(data))
    content: Any = unpack(container, MODEL)
    change(content)
    held, said = pack(MODEL, content)
    tensors = {n: container.tensor(n) for n in container.entries if n != tensor_name(MODEL)}
    parts = container_parts({**tensors, **held}, {**container.metadata, **said})
    return bytearray(b"".join(map(bytes, parts)))


def headed(data: bytes, change: Callable[[Any], object]) -> bytearray:
    """The file with another header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return bytearray(len(text).to_bytes(8, "little") + text + data[8 + length :])


def nodes(content: Any) -> list[Any]:
    found: list[Any] = content["model"]["graph"]["nodes"]
    return found


def node(content: Any, target: str) -> Any:
    return next(each for each in nodes(content) if each.get("target") == target)


def test_the_file_itself_loads(data: bytes) -> None:
    assert load_buffer(told(data, lambda content: None)).backend == "reference"


NAMES = ("x; import os", "x\nimport os", "class", "__class__", "1x", "a b", "ﬁ", "")


def test_names_of_nodes_are_ascii(data: bytes) -> None:
    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, lambda content: nodes(content)[0].update(name="é")))


@pytest.mark.parametrize("name", NAMES)
def test_names_that_would_be_code(name: str, data: bytes) -> None:
    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, lambda content: nodes(content)[0].update(name=name)))
    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, lambda content: nodes(content)[0].update(target=name)))
    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, lambda c: node(c, "torch.nansum")["kwargs"].update({name: 1})))


@pytest.mark.parametrize(
    "target", ["os.system", "torch.load", "builtins.eval", "python.eval", "aten.add_.Tensor", "", 7,
               {"make": "os.system"}, {"make": "builtins.object"}, {"make": "list", "call": 1}],
)  # fmt: skip
def test_functions_outside_of_the_tables(target: Any, data: bytes) -> None:
    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, lambda content: node(content, "torch.nansum").update(target=target)))


@pytest.mark.parametrize("method", ["numpy", "tofile", "apply_", "__reduce_ex__", "share_memory_"])
def test_methods_outside_of_the_table(method: str, data: bytes) -> None:
    change = {"op": "method", "target": method}
    with pytest.raises(qfx.FormatError, match="which no file may"):
        load_buffer(told(data, lambda content: node(content, "torch.nansum").update(change)))


def test_attributes_that_lead_out(data: bytes) -> None:
    def ask(content: Any) -> None:
        asked = node(content, "torch.nansum")
        asked.update(target="python.getattr", args=[asked["args"][0], "__class__"], kwargs={})

    with pytest.raises(qfx.FormatError, match="that no file may ask for"):
        load_buffer(told(data, ask))


def test_a_node_that_reads_a_later_one_or_itself(data: bytes) -> None:
    for name in ("output", "nansum"):
        reads = {"args": [{"node": name}]}
        with pytest.raises(qfx.FormatError, match="which no earlier node is called"):
            load_buffer(told(data, lambda c, r=reads: node(c, "torch.nansum").update(r)))


def test_two_nodes_of_one_name_and_no_output(data: bytes) -> None:
    with pytest.raises(qfx.FormatError, match="two nodes are called"):
        load_buffer(told(data, lambda content: nodes(content).insert(1, nodes(content)[0])))
    with pytest.raises(qfx.FormatError, match="no output"):
        load_buffer(told(data, lambda content: nodes(content).pop()))


@pytest.mark.parametrize("value", [10**19, -(10**19), 10**4000])
def test_numbers_that_are_none(value: int, data: bytes) -> None:
    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, lambda c: node(c, "torch.nansum").update(made_up=[value])))


@pytest.mark.parametrize("value", [10**19, -(10**19), 10**4000])
def test_integers_without_end(value: int, data: bytes) -> None:
    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, lambda c: node(c, "torch.nansum")["kwargs"].update(dim=value)))


def test_nesting_without_end(data: bytes) -> None:
    deep: Any = 0
    for _ in range(limits.DEPTH + 1):
        deep = [deep]
    with pytest.raises(qfx.FormatError, match="deep"):
        load_buffer(told(data, lambda c: node(c, "torch.nansum")["kwargs"].update(dim=deep)))
    with pytest.raises(qfx.FormatError):
        parse_json(b"[" * 1_000_000, "it")


def test_shapes_without_end(data: bytes) -> None:
    shape = ["float32", *[2**20] * 3]
    with pytest.raises(qfx.FormatError, match="no shape"):
        load_buffer(told(data, lambda content: nodes(content)[0].update(value=shape)))


@pytest.mark.parametrize("numbers", [{"stride": 10**6}, {"padding": [2**40, 1]}, {"groups": 0}])
def test_convolutions_without_end(numbers: Any, data: bytes) -> None:
    with pytest.raises(qfx.FormatError, match="no convolution that a file may hold"):
        load_buffer(told(data, lambda c: node(c, "conv2d").update(kwargs=numbers)))


def test_observers_and_passes_that_are_not_registered(data: bytes) -> None:
    def observer(content: Any) -> None:
        content["model"]["tables"]["specs"][0]["observer"] = "os.system"

    with pytest.raises(qfx.FormatError, match="no observer is called"):
        load_buffer(told(data, observer))
    for name in ("my-pass", "fold-constants", "lower{x=1}", "lower{" + "(" * 500):
        with pytest.raises(qfx.FormatError):
            load_buffer(told(data, lambda c, n=name: c["model"].update(lowering=[n])))


def test_a_field_that_means_nothing_and_one_of_a_newer_version(data: bytes) -> None:
    mutated = told(data, lambda content: nodes(content)[0].update(colour="red"))
    with pytest.raises(qfx.FormatError, match="'colour', which means nothing"):
        load_buffer(mutated)
    newer = headed(bytes(mutated), lambda header: header["__metadata__"].update(version="1.7"))
    assert load_buffer(newer).backend == "reference"
    with pytest.raises(qfx.FormatError, match=r"version 2\.0 of the format"):
        load_buffer(headed(data, lambda header: header["__metadata__"].update(version="2.0")))
    with pytest.raises(qfx.FormatError, match="uses 'holograms'"):
        load_buffer(told(data, lambda content: content.update(features=["holograms"])))


# -- the container -------------------------------------------------------------------------------
def test_what_is_no_such_file() -> None:
    for text in (b"", b"PK\x03\x04" + bytes(100), bytes(8), b"\x02" + bytes(7) + b"[]"):
        with pytest.raises(qfx.FormatError):
            load_buffer(bytearray(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"PK\x03\x04" + bytes(100), r"looks like a torch\.save file .* use torch\.load"),
        (b"no model at all", r"no file of qfx\.save"),
        (bytes(100), r"no file of qfx\.save"),
        (b"\x10", r"no file of qfx\.save, or cut off: it has 1 bytes"),
    ],
)
def test_what_is_another_file_is_called_so(text: bytes, says: str) -> None:
    with pytest.raises(qfx.FormatError, match=says):
        load_buffer(bytearray(text))


def test_a_file_that_is_cut_off(data: bytes) -> None:
    for size in (len(data) - 1, len(data) // 2, 100, 10, 8):
        with pytest.raises(qfx.FormatError, match="cut off"):
            load_buffer(bytearray(data[:size]))


def test_a_header_that_claims_more_than_there_is(data: bytes) -> None:
    for length in (len(data), 2**40, 2**64 - 1):
        with pytest.raises(qfx.FormatError, match="the header claims"):
            load_buffer(bytearray(length.to_bytes(8, "little") + data[8:]))


def first_of(header: Any) -> Any:
    return next(entry for name, entry in header.items() if name != "__metadata__")


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [-1, 3]},
        {"data_offsets": [1]},
        {"shape": [2**62, 2**62]},
        {"shape": [-1]},
        {"shape": [1.0]},
        {"shape": [1] * 100},
        {"dtype": "F128"},
        {"dtype": ["F32"]},
        {"more": 1},
    ],
)
def test_tensors_that_are_none(change: Any, data: bytes) -> None:
    with pytest.raises(qfx.FormatError):
        load_buffer(headed(data, lambda header: first_of(header).update(change)))


def test_tensors_that_overlap_or_leave_holes(data: bytes) -> None:
    def overlap(header: Any) -> None:
        entries = [e for n, e in header.items() if n != "__metadata__"]
        entries[1].update(entries[0])

    with pytest.raises(qfx.FormatError, match="overlaps another tensor"):
        load_buffer(headed(data, overlap))
    with pytest.raises(qfx.FormatError, match="belong to no tensor"):
        load_buffer(bytearray(data + b"\0"))


def test_a_tensor_twice(data: bytes) -> None:
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].rstrip()
    doubled = text[:-1] + b"," + text[1:]
    with pytest.raises(qfx.FormatError, match="a key twice"):
        load_buffer(bytearray(len(doubled).to_bytes(8, "little") + doubled + data[8 + length :]))


def test_a_deflated_bomb(data: bytes) -> None:
    container = Container(bytearray(data))
    bomb, said = pack(MODEL, "0" * 50_000_000)
    for length, match in (("1000", "is not of the 1000 bytes"), (str(2**62), "claims")):
        tensors = {n: container.tensor(n) for n in container.entries if n != tensor_name(MODEL)}
        metadata = {**container.metadata, **said, "model.bytes": length}
        parts = b"".join(map(bytes, container_parts({**tensors, **bomb}, metadata)))
        with pytest.raises(qfx.FormatError, match=match):
            load_buffer(bytearray(parts))


def test_damage_of_every_tensor_is_noticed(data: bytes) -> None:
    entries = Container(bytearray(data)).entries
    for entry in entries.values():
        made = bytearray(data)
        made[entry.begin] ^= 1
        with pytest.raises(qfx.FormatError, match="checksum"):
            load_buffer(made)


def test_loading_does_nothing_but_load(data: bytes) -> None:
    fuzz.watch()
    base = fuzz.Base("small", data, lambda model: "", "")
    assert fuzz.judge(base, "told", data) == ("loads", "")
