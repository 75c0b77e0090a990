"""What a pass wrote to the tensors that the graph reads, instead of making new ones.

Others hold them too: the graph that the result is checked against, and that of the last valid
stage. Autograd counts writes to a tensor, but for those through ``.data``. A pass that is not ours
is not trusted to take no such way: what the graph reads is copied before it, and compared after it.
What the graph itself may write to is its state, and not looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qfx.errors import PassError
from qfx.framework.checkpoint import Checkpoint
from qfx.framework.instruments import Instrument
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.lookup import Lookup
from qfx.graph.state import keeps_its_buffers, written_names
from qfx.history.stage import Stage

_OURS = ("qfx", "qfx_passes")


def held_values(module: fx.GraphModule) -> dict[str, object]:
    """The parameters, buffers and constants of ``module``, by name."""
    found: dict[str, object] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    lookup = Lookup(module)
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    found.update((name, lookup.get(name)) for name in read)
    return found


class KeepsContents(Instrument):
    """Fails at a pass that writes to what the graph reads, and undoes it."""

    def __init__(self) -> None:
        self._before: Checkpoint | None = None
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}

    def before_pass(self, step: Pass, ctx: PassContext) -> None:
        self._before, self._copies = None, {}
        if type(step).__module__.partition(".")[0] in _OURS:
            return
        self._before = Checkpoint(ctx.graph_module)
        self._copies = _copies(ctx.graph_module)

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        before, copies = self._before, self._copies
        self._before, self._copies = None, {}
        written = [name for name, (now, copy) in copies.items() if not _same(now.detach(), copy)]
        if before is None or not written:
            return
        for tensor, copy in map(copies.__getitem__, written):
            _restore(tensor, copy)
        earlier = before.restore()
        node, rule = _reader_of(earlier.graph, written), _writer_among(stage)
        by = f" (rule {rule})" if rule else ""
        at = (
            "" if node is None else f"; %{meta.where(node)} reads {', '.join(_read(node, written))}"
        )
        raise PassError(
            f"pass {step}{by} wrote to the contents of {', '.join(written)}{at}. They are back as "
            "they were. Others may hold them: make a new constant, rw.constant(name, tensor), and "
            "read that.",
            pass_name=step.name,
            rule=rule,
            node=None if node is None else node.name,
            graph_module=earlier,
        )


def _copies(module: fx.GraphModule) -> dict[str, tuple[Tensor, Tensor]]:
    """What ``module`` reads and a pass may not write to, by name, each with a copy."""
    state, lookup = written_names(module.graph), Lookup(module)
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    held = {**{name: lookup.get(name) for name in sorted(read)}, **dict(module.named_parameters())}
    for path, part in module.named_modules():
        if keeps_its_buffers(part):
            held |= {f"{path}.{n}": b for n, b in part.named_buffers(recurse=False)}
    return {
        name: (value, value.detach().clone())
        for name, value in held.items()
        if isinstance(value, Tensor) and value.layout is torch.strided and name not in state
    }


def _restore(tensor: Tensor, copy: Tensor) -> None:
    """Give ``tensor`` the contents that it had, and its shape and dtype."""
    if tensor.shape != copy.shape or tensor.dtype != copy.dtype:
        tensor.data = copy
        return
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.copy_(copy)


def _reader_of(graph: fx.Graph, names: list[str]) -> fx.Node | None:
    """The first operation that reads one of the tensors called ``names``."""
    node: fx.Node
    for node in graph.nodes:
        if _read(node, names):
            return node
    return None


def _read(node: fx.Node, names: list[str]) -> list[str]:
    """Those of the tensors called ``names`` that a node reads, or the module that it calls."""
    if node.op == "call_module":
        held = [name for name in names if name.startswith(f"{node.target}.")]
        if held:
            return held
    operands = {str(o.target) for o in node.all_input_nodes if o.op == "get_attr"}
    return [name for name in names if name in operands]


def _writer_among(stage: Stage) -> str | None:
    """The rule that wrote: the only one that matched, if it was one."""
    matched = [counted.rule for counted in stage.statistics if counted.matches]
    return matched[0].partition("/")[2] if len(matched) == 1 else None


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if torch.equal(one, other) or not one.is_floating_point():
        return torch.equal(one, other)
    return torch.equal(*(each.reshape(-1).view(torch.uint8) for each in (one, other)))  # NaN
