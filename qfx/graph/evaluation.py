"""The part of the tracer that computes what every node yields, and tells what it depends on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx

from qfx import vocab
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta
from qfx.graph.decisions import DecidingTracer, node_failed
from qfx.graph.examples import (
    attribute_of,
    proxies_in,
    tells_of_data,
    tells_of_layout,
    tells_of_size,
)
from qfx.graph.given import Given
from qfx.graph.provenance import (
    Memory,
    Provenance,
    memory_of,
    tensors_in,
    version,
)
from qfx.graph.proxy import ValueProxy
from qfx.graph.witness import Witness


class EvaluatingTracer(DecidingTracer):
    """Runs each node as it is recorded, on the values of the example inputs.

    Args:
        remedy: what to do about a model that itself raises on them; "" if it does not.
        options: of ``fx.Tracer``.
    """

    def __init__(self, *, remedy: str, **options: Any) -> None:
        super().__init__(**options)
        self._remedy = remedy
        self._running = False
        self._thread = threading.get_ident()
        self._witness = Witness(self._unrecorded_draw)
        self._attribute_memory = Memory()

    def _is_foreign(self) -> bool:
        """Whether the call is none of ours: another thread, or the inside of a leaf."""
        return self._running or threading.get_ident() != self._thread

    def _unrecorded_draw(self) -> None:
        if not self._is_foreign():
            self.refuse(
                "random numbers drawn into a tensor that depends on no input",
                "draw them with a function that makes the tensor, like torch.randn(...) or "
                "torch.rand_like(x)",
            )

    def evaluate(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], given: Given
    ) -> ValueProxy:
        """The proxy for ``node``, whose arguments may be proxies; ``given`` is what it gets.

        Raises:
            CaptureError, ConfigError: its operation raises on the example inputs.
        """
        operands = proxies_in((args, kwargs))
        versions = _versions(operands)
        try:
            example = self._compute(node, given.values(args), given.values(kwargs))
        except (CaptureError, ConfigError):
            raise
        except Exception as error:
            raise node_failed(node, error, self._remedy) from error
        self._note_writes(operands, versions)
        return self.proxy_of(node, example, args, operands)

    def proxy_of(
        self, node: fx.Node, example: Any, args: tuple[Any, ...], operands: list[ValueProxy]
    ) -> ValueProxy:
        """A proxy for what ``node`` yields, which the call of ``args`` made."""
        meta.set_value(node, meta.describe(example))
        if node.op == "get_attr":
            return self._held(node, example)
        memory = memory_of(example, [each.memory for each in operands])
        if any(memory.overlaps(each.memory) for each in operands):
            meta.set_alias(node)
        drew = bool(meta.drew(node))
        provenance = Provenance(
            inputs=drew or any(each.from_input for each in operands),
            data=drew or tells_of_data(node, args, operands),
            sizes=tells_of_size(node, args, operands, example),
            layout=tells_of_layout(node, args, operands, example),
        )
        return ValueProxy(node, self, example, provenance, memory)

    def _held(self, node: fx.Node, tensor: Any) -> ValueProxy:
        """The proxy for an attribute; others may share its memory."""
        memory = memory_of(tensor, [self._attribute_memory])
        self._attribute_memory.pieces.update(memory.pieces)
        return ValueProxy(node, self, tensor, Provenance(), memory)

    def _note_writes(self, operands: list[ValueProxy], versions: list[int]) -> None:
        """Remember what an operation wrote into its operands.

        What it wrote into attributes is what a call finds there that the next one changes.
        """
        for each, before, after in zip(operands, versions, _versions(operands), strict=True):
            if before == after:
                continue
            state = each.memory.overlaps(self._attribute_memory)
            each.memory.write(
                inputs=state or any(o.from_input for o in operands),
                data=any(o.from_data for o in operands),
            )

    def _compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What ``node`` yields for these values, with a note of what it did besides."""
        if node.op == "get_attr":
            return attribute_of(self.root, str(node.target))
        if node.target is vocab.GUARD:
            return None
        with self._plain_python(), self._witness.watching((args, kwargs)) as seen:
            result = self._called(node)(*args, **kwargs)
        meta.set_effects(node, **seen()._asdict())
        return result

    def _called(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_method":
            return lambda receiver, *rest, **named: getattr(receiver, str(node.target))(
                *rest, **named
            )
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))
        assert callable(node.target)
        return node.target

    @contextmanager
    def _plain_python(self) -> Iterator[None]:
        """Calls inside are carried out, not recorded."""
        self._running = True
        try:
            yield
        finally:
            self._running = False


def _versions(operands: list[ValueProxy]) -> list[int]:
    return [sum(map(version, tensors_in(each.example))) for each in operands]
