"""A graph at one moment, as data: immutable, without tensors or live nodes.

A :class:`Snapshot` is a tuple of :class:`~qfx.history.record.NodeRecord`. A record depends on its
own node only, so a snapshot taken with ``previous=`` reuses ("interns") the record of every node
that did not change: twelve stages of a large graph cost little more than one. What can be derived
is derived on demand: inputs from the argument text, users from the inputs, text from the records.

``digest`` covers the program (names, targets, arguments, types, order), not its provenance.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, NoReturn

from torch import fx

from qfx.errors import ConfigError
from qfx.graph.meta import TensorInfo, Value
from qfx.history import listing
from qfx.history.record import NodeRecord, base_name, fingerprint_of, is_current, record_of

if TYPE_CHECKING:
    import graphviz
    import networkx as nx


class Snapshot:
    """An immutable view of an fx graph; see :func:`snapshot`.

    Iterates over :class:`~qfx.history.record.NodeRecord` in graph order; ``snapshot["conv1"]``
    finds one by name. Two are equal when their programs are.
    """

    def __init__(self, records: Sequence[NodeRecord], *, region: str = "main") -> None:
        vars(self).update(_records=tuple(records), _region=region)

    _records: tuple[NodeRecord, ...]
    _region: str

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Snapshot is immutable: {name!r} can't be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Snapshot is immutable: {name!r} can't be deleted")

    @property
    def records(self) -> tuple[NodeRecord, ...]:
        """All nodes, in graph order."""
        return self._records

    @property
    def region(self) -> str:
        """Which graph of the model this is."""
        return self._region

    @cached_property
    def digest(self) -> str:
        """Hex digest of the program: equal exactly when nodes and their order are."""
        packed = array("Q", (r.digest for r in self._records)).tobytes()
        return blake2b(self._region.encode() + b"\0" + packed, digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[NodeRecord]:
        return iter(self._records)

    def __contains__(self, name: object) -> bool:
        return any(r.name == name for r in self._records)

    def __getitem__(self, name: str) -> NodeRecord:
        found = next((r for r in self._records if r.name == name), None)
        if found is None:
            raise ConfigError(
                f"no node called {name!r} in this snapshot of {len(self)} nodes; "
                "print(snapshot) lists them"
            )
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __copy__(self) -> Snapshot:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Snapshot:
        return self

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<Snapshot {self._region}: {len(self)} nodes, {self.digest[:8]}>"

    def users(self) -> dict[str, tuple[str, ...]]:
        """For each node the nodes that read it, each once, in graph order."""
        found: dict[str, dict[str, None]] = {r.name: {} for r in self._records}
        for record in self._records:
            for name in record.inputs:
                found.setdefault(name, {})[record.name] = None
        return {name: tuple(readers) for name, readers in found.items()}

    def to_text(self, *, provenance: bool = True) -> str:
        """One node a line, aligned, ending in a newline.

        Args:
            provenance: whether lines end with ``# from conv1, relu  model.py:12``.
        """
        return listing.listing(self._records, provenance=provenance)

    def around(self, name: str, context: int = 3) -> str:
        """The lines around one node, which is marked with ``>``; for error messages."""
        return listing.excerpt(self._records, self[name], context)

    def to_json(self) -> str:
        """JSON, a node a line: ``region``, ``digest`` and ``nodes``; deterministic."""
        users = self.users()
        head = {"format": "qfx.snapshot", "version": 1, "region": self._region}
        start = json.dumps({**head, "digest": self.digest, "nodes": []})[: -len("]}")]
        nodes = ",\n".join(json.dumps(_as_json(r, users[r.name])) for r in self._records)
        return f"{start}\n{nodes}\n]}}\n"

    def to_networkx(self) -> nx.MultiDiGraph[str]:
        """Nodes by name with their record's fields; one edge per use, keyed by operand position."""
        import networkx as nx

        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph(region=self._region, digest=self.digest)
        for record in self._records:
            graph.add_node(record.name, **_attributes(record))
        for record in self._records:
            for position, name in enumerate(record.inputs):
                graph.add_edge(name, record.name, key=position)
        return graph

    def to_dot(self, *, frames: str | None = None) -> graphviz.Digraph:
        """A drawing: boxes coloured by kind, framed by module; green edges carry integers.

        Args:
            frames: what passes recorded of nodes under this name frames them in place of modules.

        Raises:
            ConfigError: no pass recorded anything under that name.
        """
        from qfx.history import dot

        return dot.draw_snapshot(self, frames)


def snapshot(
    graph_module: fx.GraphModule, *, region: str = "main", previous: Snapshot | None = None
) -> Snapshot:
    """The present state of any fx graph, whether qfx made it or not.

    Args:
        graph_module: the module whose graph to look at; not changed, not referenced afterwards.
        region: which graph of the model this is.
        previous: an earlier snapshot whose records of unchanged nodes are shared. When nothing
            changed, it is itself the result.

    Returns:
        The snapshot. Time is linear in the graph, new memory linear in what changed.

    Raises:
        ConfigError: ``graph_module`` is none.
    """
    if not isinstance(graph_module, fx.GraphModule):
        raise ConfigError(
            f"expected a torch.fx.GraphModule, got a {type(graph_module).__name__}. What to do: "
            "give what qfx made of a model, or torch.fx.symbolic_trace(model); of an fx.Graph, "
            "give the module that owns it (graph.owning_module)."
        )
    known = {} if previous is None else {r.name: r for r in previous.records}
    names: dict[object, str] = {}
    records = []
    for node in graph_module.graph.nodes:
        base = base_name(node, graph_module, names)
        fingerprint = fingerprint_of(node, base)
        record = known.get(node.name)
        if record is None or record.fingerprint != fingerprint or not is_current(record, node):
            record = record_of(node, base, fingerprint)
        records.append(record)
    if previous is not None and previous.region == region and _same(records, previous.records):
        return previous
    return Snapshot(records, region=region)


def _same(records: list[NodeRecord], others: tuple[NodeRecord, ...]) -> bool:
    return len(records) == len(others) and all(a is b for a, b in zip(records, others, strict=True))


def _attributes(record: NodeRecord) -> dict[str, object]:
    return {
        "op": record.op,
        "target": record.target,
        "path": record.path,
        "args": record.args,
        "type": record.type_text,
        "module_path": record.module_path,
        "source": record.source,
        "rule": record.rule,
        "origins": tuple(o.node for o in record.origins),
        "findings": dict(record.findings),
    }


def _as_json(record: NodeRecord, users: tuple[str, ...]) -> dict[str, object]:
    origins = [
        {"node": o.node, "module_path": o.module_path, "source": o.source, "type": o.type_name}
        for o in record.origins
    ]
    return {
        "name": record.name,
        "op": record.op,
        "target": record.target,
        "path": record.path,
        "args": record.args,
        "inputs": list(record.inputs),
        "users": list(users),
        "value": _value_json(record.value),
        "rule": record.rule,
        "origins": origins,
        **({"findings": dict(record.findings)} if record.findings else {}),
    }


def _value_json(value: Value) -> object:
    if isinstance(value, TensorInfo):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple | list):
        return [_value_json(v) for v in value]
    return {k: _value_json(v) for k, v in value.items()} if isinstance(value, dict) else None
