"""What was chosen and built, on disk: the second time nothing is tried again.

    QFX_CACHE_DIR/<key>/record.json      the trials, the engine, what it did not take
    QFX_CACHE_DIR/<key>/<n>.program      a program each, with its checksum in the record

The key is a digest of all that decides: the graph with its weights, the shapes of the examples, the
engines that were asked for and their versions, the CPU, threads, the code of qfx, and torch's
version.
QFX_CACHE_DIR is ``~/.cache/qfx`` if it is not set; "off" switches it off. Whatever is wrong with an
entry - a file that is missing, cut off, or of something else - makes it as good as none, so that
all of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from qfx.engines.agreement import Agreement, HoldsAgainst, compare
from qfx.engines.assembly import Assembly, Programs, put_together
from qfx.engines.base import BuildSettings, Built, CannotRun, Engine, PieceEngine, WholeEngine
from qfx.engines.choose import EngineChoice
from qfx.engines.machine import code, cpu
from qfx.engines.pieces import partition
from qfx.engines.source import Source
from qfx.engines.trials import EngineTrial
from qfx.export.onnx.forms import OnnxForm
from qfx.export.problems import Problem
from qfx.graph import meta
from qfx.graph.tensor_bytes import bytes_of
from qfx.version import __version__

SWITCH = "QFX_CACHE_DIR"
_OFF = ("off", "0", "no", "false")
_RECORD, _MOST = "record.json", 64
_SLACK = 6.0
"""dB that a program from disk may lie below what it was when it was tried."""


def folder() -> Path | None:
    """Where entries lie; None if the cache is switched off."""
    said = os.environ.get(SWITCH)
    if said is None:
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "qfx"
    return None if not said or said.lower() in _OFF else Path(said)


class CacheEntry:
    """The place of one compilation.

    Args:
        path: its folder.
        source: the model.
        settings: how engines were asked to build.
    """

    def __init__(self, path: Path, source: Source, settings: BuildSettings) -> None:
        self._path, self._source, self._settings = path, source, settings

    @staticmethod
    def of(
        source: Source, engines: Sequence[Engine], settings: BuildSettings, *, dynamic: bool
    ) -> CacheEntry | None:
        """The entry of a compilation; None without a cache, or if nothing tells the model apart."""
        base = folder()
        if base is None or source.made_up or source.written:
            return None
        nodes = source.reference.graph.nodes
        if any(node.op == "call_module" for node in nodes):
            return None  # what is in them no digest can tell
        key = _digest(source, engines, settings, dynamic=dynamic)
        return CacheEntry(base / key, source, settings)

    def load(self, engines: Mapping[str, Engine]) -> EngineChoice | None:
        """What was chosen; None if there is nothing, or something is wrong with it."""
        try:
            record = json.loads((self._path / _RECORD).read_text())
            return self._choice(record, engines)
        except Exception:  # whatever reading a damaged entry raises: it is as good as none
            return None

    def _choice(self, record: dict[str, Any], engines: Mapping[str, Engine]) -> EngineChoice | None:
        engine = engines[record["engine"]]
        trials = tuple(EngineTrial(**row) for row in record["trials"])
        settings = replace(self._settings, form=OnnxForm(record["form"]))
        if isinstance(engine, WholeEngine):
            forward = engine.wrap(self._source.model, settings, dynamic=record["dynamic"])
            return EngineChoice(engine.name, Assembly(forward), trials)
        assert isinstance(engine, PieceEngine)
        refused = {row["node"]: Problem(**row) for row in record["refused"]}
        plan = partition(self._source.reference, refused)
        programs = [self._programs(row, engine, settings) for row in record["programs"]]
        holds = HoldsAgainst(record["least"])
        made = put_together(engine, self._source.reference, plan, settings, holds, programs)
        if not self._agrees(made, record["sqnr"]):
            return None
        return EngineChoice(engine.name, made, trials, record["least"])

    def _programs(
        self, row: dict[str, Any], engine: PieceEngine, settings: BuildSettings
    ) -> Programs:
        built = (self._built(row[key], engine, settings) for key in ("free", "own"))
        return Programs(tuple(map(tuple, row["shapes"])), *built)

    def _built(
        self, row: dict[str, str] | None, engine: PieceEngine, settings: BuildSettings
    ) -> Built | None:
        if row is None:
            return None
        data = (self._path / row["file"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise CannotRun("a file of the cache is damaged")
        return engine.unpacked(data, settings)

    def _agrees(self, assembly: Assembly, sqnr: float) -> bool:
        """Whether a program from disk computes what eager does, as well as when it was tried."""
        found = self._beside_eager(assembly)
        return not found.wrong and found.sqnr >= sqnr - _SLACK

    def _beside_eager(self, assembly: Assembly) -> Agreement:
        """How far an engine is from eager on the examples."""
        wanted, found = map(self._run, (self._source.eager, assembly.forward))
        return compare(wanted, found)

    def _run(self, forward: Callable[..., Any]) -> Any:
        args, kwargs = self._source.fresh()
        with self._source.undisturbed(), torch.no_grad():
            return forward(*args, **kwargs)

    def store(self, choice: EngineChoice, engine: Engine, *, dynamic: bool) -> None:
        """Write what was chosen; where that can't be done, nothing is kept."""
        with suppress(OSError, CannotRun):
            parts: dict[str, bytes] = {}
            record = self._record(choice, engine, parts, dynamic=dynamic)
            if record is None:
                return
            parts[_RECORD] = json.dumps(record, indent=1).encode()
            _write(self._path, parts)
            _prune(self._path.parent)

    def _record(
        self,
        choice: EngineChoice,
        engine: Engine,
        parts: dict[str, bytes],
        *,
        dynamic: bool,
    ) -> dict[str, Any] | None:
        assembly = choice.assembly
        (trial,) = [t for t in choice.trials if t.name == choice.engine]
        programs = []
        for runner in assembly.runners:
            assert isinstance(engine, PieceEngine)
            made = runner.programs
            kept = [_kept(built, engine, parts) for built in (made.free, made.own)]
            if _NOT_KEPT in kept:
                return None
            programs.append({"shapes": made.shapes, "free": kept[0], "own": kept[1]})
        found = self._beside_eager(assembly)
        return {
            "engine": choice.engine,
            "form": trial.form or OnnxForm.EXACT.value,
            "dynamic": dynamic,
            "least": choice.least,
            "sqnr": min(found.sqnr, 200.0),
            "trials": [asdict(each) for each in choice.trials],
            "refused": [asdict(each) for each in assembly.plan.outside] if assembly.plan else [],
            "programs": programs,
        }


_NOT_KEPT = {"file": ""}


def _kept(
    built: Built | None, engine: PieceEngine, parts: dict[str, bytes]
) -> dict[str, str] | None:
    if built is None:
        return None
    data = engine.packed(built)
    if data is None:
        return _NOT_KEPT
    name = f"{len(parts)}.program"
    parts[name] = data
    return {"file": name, "sha256": hashlib.sha256(data).hexdigest()}


def _write(path: Path, parts: Mapping[str, bytes]) -> None:
    """Write a folder in one step: others see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=path.parent, prefix="."))
    try:
        for name, data in parts.items():
            (made / name).write_bytes(data)
        shutil.rmtree(path, ignore_errors=True)
        made.rename(path)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _prune(base: Path) -> None:
    """Let go of the oldest entries."""
    entries = sorted(base.glob("*/" + _RECORD), key=lambda path: path.stat().st_mtime)
    for record in entries[:-_MOST]:
        shutil.rmtree(record.parent, ignore_errors=True)


# -- the key ---------------------------------------------------------------------------------------
def _digest(
    source: Source, engines: Sequence[Engine], settings: BuildSettings, *, dynamic: bool
) -> str:
    hashed = hashlib.sha256()
    given = [(each.name, each.lacks() or each.version()) for each in engines]
    lowered = getattr(source.model, "backend", "")
    facts = (
        __version__, code(), torch.__version__, given, cpu(), settings.threads,
        settings.float_dtype, torch.get_num_threads(), dynamic, lowered,
        _shapes(source.arguments),
    )  # fmt: skip
    hashed.update(repr(facts).encode())
    for part in _graph(source.reference):
        hashed.update(part)
    return hashed.hexdigest()


def _shapes(arguments: Mapping[str, Any]) -> Any:
    return {name: meta.describe(value) or repr(value)[:1000] for name, value in arguments.items()}


def _graph(reference: fx.GraphModule) -> Iterator[bytes]:
    """Every node, and every tensor that one reads."""
    for node in reference.graph.nodes:
        target = getattr(node.target, "__name__", node.target)
        arguments = f"{node.args!r} {node.kwargs!r} {meta.value_of(node)!r}"
        yield f"{node.op} {node.name} {target} {arguments}".encode()
        held = attrgetter(str(node.target))(reference) if node.op == "get_attr" else None
        if isinstance(held, Tensor):
            yield f"{held.dtype} {tuple(held.shape)}".encode()
            with bytes_of(held.detach().cpu().contiguous()) as view:
                yield view.tobytes()
