"""The part of the tracer that computes what every node yields, and tells what it depends on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.capture.assignments import MADE_ONCE
from qfx.capture.call_containers import Given
from qfx.capture.decisions import DecidingTracer, node_failed
from qfx.capture.dispatched_effects import Witness
from qfx.capture.examples import (
    attribute_of,
    proxies_in,
    tells_of_data,
    tells_of_layout,
    tells_of_size,
)
from qfx.capture.provenance import (
    Provenance,
    TracedMemory,
    memory_of,
    tensors_in,
)
from qfx.capture.proxy import ValueProxy
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta
from qfx.graph.effects import returned_through
from qfx.graph.interpret import called_by
from qfx.graph.overlap import version
from qfx.torch_private import pytree


class _Made(NamedTuple):
    """A tensor among the arguments of a call that is no proxy, and what it was before the call."""

    tensor: Tensor
    name: str
    before: Tensor
    version: int

    @classmethod
    def among(cls, arguments: object, names: Mapping[Any, str]) -> list[_Made]:
        """What is found in a nest of arguments; ``names`` are those of the graph's constants."""
        leaves = pytree.tree_leaves(arguments)
        found = [leaf for leaf in leaves if type(leaf) is Tensor and leaf in names]
        return [cls(t, names[t], t.clone(), version(t)) for t in found]

    @property
    def is_written(self) -> bool:
        return version(self.tensor) != self.version


class EvaluatingTracer(DecidingTracer):
    """Runs each node as it is recorded, on the values of the example inputs.

    Args:
        remedy: what to do about a model that itself raises on them; "" if it does not.
        options: of ``fx.Tracer``.

    Attributes:
        made: proxies for tensors that are none, by identity: made from no input, and written to.
    """

    def __init__(self, *, remedy: str, **options: Any) -> None:
        super().__init__(**options)
        self._remedy = remedy
        self._running = False
        self._thread = threading.get_ident()
        self._witness = Witness(self._unrecorded_draw, self._read_unrecorded)
        self.made: dict[int, ValueProxy] = {}
        self._attribute_memory = TracedMemory()

    def _is_foreign(self) -> bool:
        """Whether the call is none of ours: another thread, or the inside of a leaf."""
        return self._running or threading.get_ident() != self._thread

    def set_data(self, proxy: ValueProxy, value: Any) -> None:
        """Record ``proxy.data = value``, for a tensor that the model keeps, as a write."""
        held, given = proxy.example, value.example if isinstance(value, ValueProxy) else value
        is_held = proxy.node.op == "get_attr" and isinstance(given, Tensor)
        if not is_held or (given.shape, given.dtype) != (held.shape, held.dtype):
            self.refuse(
                "an assignment to .data that does more than to change values",
                "write to a buffer of a fixed shape in place, as in self.state.copy_(new)",
            )
        self.create_proxy("call_method", "copy_", (proxy, value), {})

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
        versions, made = _versions(operands), _Made.among((args, kwargs), self.tensor_attrs)
        try:
            example = self._compute(node, given.values(args), given.values(kwargs))
        except (CaptureError, ConfigError):
            raise
        except Exception as error:
            failed = node_failed(node, error, self._remedy)
            self.graph.erase_node(node)  # the model, or PyTorch, may go on without it
            raise failed from error
        self._note_writes(operands, versions)
        for each in made:
            if each.is_written:
                self._make_anew(each, operands)
        proxy = self.proxy_of(node, example, args, operands)
        if any(memory_of(each.tensor, ()).overlaps(proxy.memory) for each in made):
            meta.set_alias(node)
        return proxy

    def _make_anew(self, made: _Made, operands: list[ValueProxy]) -> None:
        """Let the graph make a tensor in every run, where capture made it once, and it is written.

        Its constant is what it was; the graph copies that first. What Python goes on to read of it
        would be what it is for the example inputs, and is refused.
        """
        self.settle()
        setattr(self.root, made.name, made.before)
        copied = self._copied(made.name, made.before)
        memory = memory_of(made.tensor, [each.memory for each in operands])
        memory.write(
            inputs=any(o.from_input for o in operands), data=any(o.from_data for o in operands)
        )
        self.made[id(made.tensor)] = ValueProxy(copied, self, made.tensor, Provenance(), memory)

    def _copied(
        self, name: str, tensor: Tensor, readers: Container[fx.Node] | None = None
    ) -> fx.Node:
        """A copy of a constant of the graph, for all that read it, or for ``readers`` alone."""
        held = [n for n in self.graph.nodes if n.op == "get_attr" and n.target == name]
        with self.graph.inserting_after(held[0]):
            copied = self.create_node("call_method", "clone", (held[0],), {})
        meta.set_value(copied, meta.describe(tensor))
        for node in held:
            node.replace_all_uses_with(
                copied,
                delete_user_cb=lambda user: (
                    user is not copied and (readers is None or user in readers)
                ),
            )
        return copied

    def copy_returned(self) -> None:
        """Let the graph return copies of tensors that the model makes anew, and capture made once.

        Who calls it may write to them.
        """
        returned = {n: r for n, r in returned_through(self.graph).items() if n.op == "get_attr"}
        readers: dict[str, list[fx.Node]] = {}
        for node, through in returned.items():
            readers.setdefault(str(node.target), []).extend(through)
        for tensor, name in list(self.tensor_attrs.items()):
            if name in readers and name.startswith(MADE_ONCE) and isinstance(tensor, Tensor):
                self._copied(name, tensor, readers[name])

    def _read_unrecorded(self, tensors: Iterable[Tensor]) -> None:
        """Called for what Python itself does with tensors that are no proxies."""
        if self._is_foreign() or not self.made:
            return
        known = [each.memory for each in self.made.values()]
        if any(memory_of(tensor, ()).overlaps(memory) for tensor in tensors for memory in known):
            self.refuse(
                "a tensor that depends on no input when it is made, and then on what is written to "
                "it, and is computed with by itself",
                "make it from an input, as in x.new_zeros(3)",
            )

    def proxy_of(
        self, node: fx.Node, example: object, args: tuple[object, ...], operands: list[ValueProxy]
    ) -> ValueProxy:
        """A proxy for what ``node`` yields, which the call of ``args`` made."""
        meta.set_value(node, meta.describe(example))
        if isinstance(example, Tensor) and example.layout is not torch.strided:
            meta.set_sparse(node)
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

    def _held(self, node: fx.Node, tensor: object) -> ValueProxy:
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

    def _compute(self, node: fx.Node, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
        """What ``node`` yields for these values, with a note of what it did besides."""
        if node.op == "get_attr":
            return attribute_of(self.root, str(node.target))
        if node.target is vocab.GUARD:
            return None
        called = self._called(node)
        own = list(called.parameters()) if isinstance(called, nn.Module) else []
        with self._plain_python(), self._witness.watching((args, kwargs, own)) as seen:
            result = called(*args, **kwargs)
        meta.set_effects(node, **seen()._asdict())
        return result

    def _called(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))
        return called_by(node)

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
