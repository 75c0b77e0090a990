"""Mutations of saved files: each loads right, or is a FormatError.

    python -m tests.storage.fuzz --count 100000 --seed 1

A mutation is of one of three kinds. *Raw* ones change bytes, as damage does; the checksums know, so
that what loads all the same computes what the file computed before. *Told* ones change what the
header or a document says, *forged* ones what tensors hold, both with checksums made right again, as
one would who means harm; what loads need not be what was saved, but nothing but a typed error may
come of it: no crash, no hang, no code that is not qfx's, no file written, no memory beyond what the
file is long.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import qfx
from qfx.storage.container import Container, checksum, container_parts
from qfx.storage.documents import HISTORY, MODEL, pack, tensor_name, unpack
from qfx.storage.files import load_buffer

SECONDS = 20.0
"""What a load may take, on a machine that is busy."""

GROWTH = 256 << 20
"""Bytes by which the peak of memory may grow in all loads together; the files have 10 kB."""

X = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """Many kinds of nodes, arguments and containers in one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fold, self.linear = nn.BatchNorm2d(2, track_running_stats=False), nn.Linear(4, 3)
        self.register_buffer("table", torch.arange(6, dtype=torch.int64))

    def forward(self, x: torch.Tensor, scale: float = 1.5) -> dict[str, Any]:
        y = torch.relu(self.norm(self.conv(x))) * scale
        z = torch.cumprod(y, 1)[:, ::2, self.table[:3]].mean((2, 3))
        pooled = self.linear(y.mean((2, 3)))
        return {"pooled": pooled, "rest": (z, [self.fold(x), None]), "top": pooled.topk(2)}


class Decides(nn.Module):
    """Decides by data, so that a part of it is a region."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.body(x))
        return y if y.sum() > 0 else -y


@dataclass(frozen=True)
class Base:
    """A file to mutate, and what its model gives.

    Attributes:
        name: of the model.
        data: the file.
        run: gives it inputs.
        expected: what comes out.
        model: the code around its regions, if it has any.
    """

    name: str
    data: bytes
    run: Callable[[nn.Module], Any]
    expected: str
    model: nn.Module | None = None


def _run(model: nn.Module) -> str:
    if isinstance(model, qfx.PreparedModel):
        model.eval()
    with torch.no_grad():
        return repr(model(X))


@cache
def bases() -> tuple[Base, ...]:
    """Small files of every kind."""
    torch.manual_seed(0)
    model = Branches()
    made: dict[str, nn.Module] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("static", "dynamic"):
            made[method] = qfx.quantize(model.eval(), X, method=method, check=False)
        made["reference"] = qfx.quantize(model.eval(), X, backend="reference", check=False)
        calibrated = qfx.prepare(model.eval(), X)
        made["calibrated"] = qfx.calibrate(calibrated, [X])
        made["training"] = qfx.prepare(model.train(), X, method="qat")
        made["training"](X)
        made["regions"] = qfx.quantize(
            Decides().eval(), X, regions=("body",), min_coverage=None, check=False
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.qfx"
        found = []
        for name, each in made.items():
            data = qfx.save(each, path, history=name == "static").read_bytes()
            around = Decides() if name == "regions" else None
            expected = _run(load_buffer(bytearray(data), model=around))
            found.append(Base(name, data, _run, expected, around))
    return tuple(found)


# -- mutations -----------------------------------------------------------------------------------
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**31, -(2**31), 2**62, 2**63 - 1, 10**19, 10**40,
    0.0, -0.5, 1e308, 1e-320, "", "x", "nan", "inf", "..", "a.b", "*args", "__class__",
    "__import__('os').system('false')", "x; import os", "x\ny", "'", "torch.load", "os.system",
    "builtins.eval", "aten.add.Tensor", "python.getattr", "conv2d", "add", "output", "self", "len",
    [], {}, [[]], [0], {"node": "x"}, {"node": "output"}, {"tensor": "x"}, {"list": []},
    {"make": "os.system"}, {"make": "dict", "elements": True}, {"dtype": "float32"}, {"spec": {}},
    {"slice": [None, 2, None]}, {"device": "cuda:999"}, {"range": [0, 2**62, 1]}, {"size": [2**62]},
    {"float": "nan"}, {"dict": [[1, 2]]},
    {"qparams": [1.0, 0, {"dtype": "uint8"}, 0, 255, None, None]},
)  # fmt: skip


def raw(data: bytes, rng: random.Random) -> bytes:
    """Damage: bits, bytes, runs, lengths."""
    made = bytearray(data)
    kind = rng.randrange(7)
    at = rng.randrange(min(len(made), 400)) if rng.random() < 0.3 else rng.randrange(len(made))
    span = rng.choice((1, 2, 4, 8, 64, 1000))
    if kind == 0:
        made[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        made[at] = rng.randrange(256)
    elif kind == 2:
        del made[at:]
    elif kind == 3:
        del made[at : at + span]
    elif kind == 4:
        made[at:at] = made[at : at + span]
    elif kind == 5:
        made[at : at + span] = rng.randbytes(span)
    else:
        made[:8] = rng.choice((0, 1, len(made), len(made) - 8, 2**31, 2**63, 2**64 - 1)).to_bytes(
            8, "little"
        )
    return bytes(made)


def told(data: bytes, rng: random.Random) -> bytes:
    """Another header, model or history, with checksums that are right."""
    container = Container(bytearray(data))
    documents = [MODEL] * 8 + ["header"] + [HISTORY] * (tensor_name(HISTORY) in container.entries)
    which = rng.choice(documents)
    if which == "header":
        length = int.from_bytes(data[:8], "little")
        text = json.dumps(changed(json.loads(data[8 : 8 + length]), rng)).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]
    content = unpack(container, which)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = changed(content, rng)
    return rewritten(container, which, content)


def forged(data: bytes, rng: random.Random) -> bytes:
    """Tensors of other values, dtypes or shapes, with checksums that are right."""
    container = Container(bytearray(data))
    content: Any = unpack(container, MODEL)
    names = [name for name in container.entries if not name.startswith("__")]
    name = rng.choice(names)
    tensor = container.tensor(name).clone()
    if rng.random() < 0.6 and tensor.numel():
        flat = tensor.view(-1).view(torch.uint8)
        for _ in range(rng.choice((1, 3, 20))):
            flat[rng.randrange(len(flat))] = rng.choice((0, 1, 127, 128, 255))
    elif rng.random() < 0.5:
        tensor = tensor.to(rng.choice((torch.float32, torch.int64, torch.int8, torch.float64)))
    else:
        tensor = tensor.reshape(-1)[: rng.randrange(tensor.numel() + 1)].clone()
    return rewritten(container, MODEL, content, {name: tensor})


def rewritten(
    container: Container, which: str, content: Any, tensors: dict[str, Any] | None = None
) -> bytes:
    """A file with another document, or other tensors, and checksums that are right."""
    held = {n: container.tensor(n) for n in container.entries if not n.startswith("__qfx")}
    held |= tensors or {}
    if tensors:
        for name, tensor in tensors.items():
            content["tensors"][name]["crc32"] = checksum(tensor)
    said = dict(container.metadata)
    for document in (MODEL, HISTORY):
        if document == which:
            more, of_it = pack(document, content)
            held, said = held | more, said | of_it
        elif tensor_name(document) in container.entries:
            held[tensor_name(document)] = container.tensor(tensor_name(document))
    return b"".join(bytes(part) for part in container_parts(held, said))


def changed(content: Any, rng: random.Random) -> Any:
    """A document with one place changed, in place."""
    made = content
    places = list(_places(made))
    if not places:
        return copy.deepcopy(rng.choice(HOSTILE))
    holder, key = rng.choice(places)
    other, its = rng.choice(places)
    kind = rng.randrange(7)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = json.loads(json.dumps(other[its]))
    elif kind == 2 and isinstance(holder, dict):
        holder[str(rng.choice(HOSTILE))] = holder.pop(key)
    elif kind == 3 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), json.loads(json.dumps(holder[key])))
    elif kind == 4:
        value: Any = []
        for _ in range(rng.choice((3, 50, 120))):
            value = rng.choice(([value], {"list": [value]}))
        holder[key] = value
    elif kind == 5 and type(holder[key]) is int:
        holder[key] += rng.choice((-1, 1, 1000, -(2**40), 2**40))
    else:
        holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    return made


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document, up to a depth."""
    ahead = [value]
    for each in ahead:
        if not isinstance(each, (dict, list)):
            continue
        for key, inner in list(each.items() if isinstance(each, dict) else enumerate(each)):
            yield each, key
            ahead.append(inner)


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "raw": raw,
    "told": told,
    "forged": forged,
}


# -- judgement -----------------------------------------------------------------------------------
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.spawn",
    "os.remove",
    "subprocess.Popen",
    "socket.",
    "pickle.",
)
_events: list[str] = []


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event.startswith(FORBIDDEN):
        _events.append(f"{event}{args}")
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        _events.append(f"open{args[:2]}")


_watching = False


def watch() -> None:
    """Have the interpreter tell what a load does beside loading."""
    global _watching
    if not _watching:
        sys.addaudithook(_watch)
        _watching = True


def judge(base: Base, kind: str, data: bytes) -> tuple[str, str]:
    """What became of a mutation, and what is wrong with that, or ""."""
    _events.clear()
    began = time.process_time()
    verdict, fault = "loads", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = load_buffer(bytearray(data), model=base.model)
            len(model.history)
        except (qfx.FormatError, qfx.BackendError) as error:
            verdict = type(error).__name__
        except (Exception, SystemExit) as error:  # the fault that is looked for
            verdict, fault = type(error).__name__, f"{type(error).__name__}: {error}"
        else:
            if kind == "raw" and base.run(model) != base.expected:
                fault = "a damaged file loads as another model"
    if not fault and _events:
        fault = f"does what no load does: {_events[0]}"
    if not fault and time.process_time() - began > SECONDS:
        fault = f"takes {time.process_time() - began:.1f} s"
    return verdict, fault


def mutation(number: int, seed: int) -> tuple[Base, str, bytes]:
    """The mutation of a number: the same in every process."""
    rng = random.Random(f"{seed}.{number}")
    base = rng.choice(bases())
    kind = rng.choice(("raw", "raw", "raw", "told", "told", "told", "told", "forged"))
    return base, kind, KINDS[kind](base.data, rng)


def run(
    count: int, seed: int = 0, first: int = 0, *, progress: bool = False
) -> tuple[Counter[str], list[str]]:
    """Judge mutations; how many came to what, and the faults."""
    bases()
    watch()
    found: Counter[str] = Counter()
    faults: list[str] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, first + count):
        base, kind, data = mutation(number, seed)
        verdict, fault = judge(base, kind, data)
        found[f"{kind}: {verdict}"] += 1
        if fault:
            faults.append(f"{seed}.{number} ({kind} of {base.name}): {fault}")
        if number % 1000 == 999:
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
            if grown > GROWTH:
                faults.append(f"{seed}.{number}: memory grew by {grown >> 20} MiB")
                before += grown >> 10
            if progress:
                print(f"{number + 1 - first} judged, {len(faults)} faults", flush=True)
    return found, faults


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="tests.storage.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found, faults = run(given.count, given.seed, given.first, progress=True)
    for what, number in sorted(found.items()):
        print(f"{number:8} {what}")
    print("\n".join(faults[:50]))
    print(f"{len(faults)} faults in {given.count} mutations")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
