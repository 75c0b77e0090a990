"""Every kernel call of a lowered graph against the reference graph, on the same inputs.

Both graphs run side by side on the example inputs. Each value of the lowered graph that stands for
one of the reference graph is compared with it, and then put right: so a call is judged by what it
makes of right inputs, and every one at fault is found in one run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, fx

from qfx.capture.arguments import copy_tensors
from qfx.graph.steps import Steps, arguments_by_name, state_kept
from qfx.quant.annotation import annotation, kernel_of
from qfx.quant.meaning import meaning_of
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import codes_of
from qfx.torch_private import pytree
from qfx.verification.allowances import (
    allowance_reads,
    midway_allowance,
    off_in_part,
    recurrent_detail,
    relative_error,
    rounded_inputs,
)
from qfx.verification.differences import (
    Grid,
    are_same,
    fraction_off,
    plain,
    put_right,
    steps_off,
    tensor_pairs,
)
from qfx.verification.misbehaviour import differs, nodes_in, other_kind, versions, written
from qfx.verification.outputs import Batch
from qfx.vocab import RECURRENT as RECURRENT_OPS
from qfx.vocab import OpDef, bound

TIE = 0.05
"""How near to the middle between two codes both are right, in steps."""


@dataclass(frozen=True)
class Fault:
    """A call that does not compute what it stands for.

    Attributes:
        node: in the lowered graph.
        operation: the node of the reference graph that was lowered to it.
        kernel: its name in reports, or "".
        detail: what is wrong, in words.
    """

    node: str
    operation: str
    kernel: str
    detail: str


@dataclass
class CallCheck:
    """What the run showed.

    Attributes:
        faults: in graph order.
        checked: how many kernel calls were compared.
        unchecked: the kernel calls that stand for nothing in the reference graph.
        result: what the reference graph returned.
        arguments: the arguments that it changed, by name, as it left them.
    """

    faults: list[Fault] = field(default_factory=list)
    checked: int = 0
    unchecked: list[str] = field(default_factory=list)
    result: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)


def check_calls(reference: fx.GraphModule, lowered: fx.GraphModule, batch: Batch) -> CallCheck:
    """Run both graphs on a batch, and judge each call of the second."""
    with state_kept(reference), state_kept(lowered):
        return _Check(reference, lowered, batch).run()


@dataclass(frozen=True)
class _Meant:
    """What a node of the lowered graph stands for, as nodes of the reference graph.

    Attributes:
        value: the float value.
        operation: what was lowered.
        codes: the QUANTIZE that makes the same codes, if there is one.
        qparams: of codes that no QUANTIZE makes.
        within: the operation whose float results are judged by row and channel, if they are.
        judged: whether it is known to compute the same each time.
    """

    value: fx.Node
    operation: str
    codes: fx.Node | None = None
    qparams: QParams | None = None
    within: fx.Node | None = None
    judged: bool = True

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """The nodes whose values are asked for, as often as they are."""
        codes = () if self.codes is None else (self.codes, *self.measured)
        asked = () if self.within is None else allowance_reads(self.within)
        return (self.value, *codes, *asked)

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the codes, if it hands out any."""
        if self.codes is not None:
            found: torch.dtype = bound(self.codes)["dtype"]
            return found
        return None if self.qparams is None else self.qparams.dtype

    @property
    def measured(self) -> tuple[fx.Node, ...]:
        """Scale and zero point, where they are found at run time."""
        if self.codes is None:
            return ()
        numbers = (bound(self.codes)[name] for name in ("scale", "zero_point"))
        return tuple(n for n in numbers if isinstance(n, fx.Node))


class _Check:
    def __init__(self, reference: fx.GraphModule, lowered: fx.GraphModule, batch: Batch) -> None:
        self.graph = lowered.graph
        self.meant = dict(_meanings(reference.graph, lowered.graph))
        self.returned = [
            n for out in reference.graph.find_nodes(op="output") for n in nodes_in(out.args)
        ]
        wanted = Counter(node for meant in self.meant.values() for node in meant.reads)
        wanted.update(self.returned)
        self.explicit = _steps(reference, batch, wanted)
        self.actual = _steps(lowered, batch)
        self.given = arguments_by_name(reference.graph, batch[0], dict(batch[1]))
        self.found = CallCheck()

    def run(self) -> CallCheck:
        for node in self.graph.nodes:
            if node.op == "output":
                self._judge_output(node)
                break
            if not self._step(node):
                return self.found  # what follows would be judged by wrong inputs
            if kernel_of(node) is None:
                continue
            if node in self.meant or any(reader in self.meant for reader in node.users):
                self.found.checked += 1  # or the clamp behind it
            else:
                self.found.unchecked.append(node.name)
        return self.found

    def _step(self, node: fx.Node) -> bool:
        """Run and judge a node; whether what follows can be run."""
        own = node not in self.meant or meaning_of(node) is not None
        held = versions(self.actual, node) if own else []
        try:
            value = self.actual.step(node)
        except Exception as error:
            if not self.found.faults:  # else it was given what a faulty call made
                self._fault(node, f"raises {type(error).__name__}: {error}")
            return False
        spoilt = [each.read.name for each in held if written(node, each)]
        if spoilt:
            self._fault(node, f"writes to its input {spoilt[0]}, which others read")
            return False
        if node in self.meant:
            self._judge(node, self.meant[node], value)
        return True

    def _fault(self, node: fx.Node, detail: str) -> None:
        kernels = map(kernel_of, (node, *node.all_input_nodes[:1]))
        name = next((kernel.name for kernel in kernels if kernel is not None), "")
        operation = _operation_of(node, self.meant)
        self.found.faults.append(Fault(node.name, operation, name, detail))

    def _judge_output(self, node: fx.Node) -> None:
        """What is returned: nodes that stand for nothing may have made it of right values."""
        self.found.result = self.explicit.run_to_end()
        self.found.arguments = self.explicit.changed(self.given)
        for made, exact in zip(nodes_in(node.args), self.returned, strict=True):
            if made in self.meant or self.found.faults:
                continue
            pairs = tensor_pairs(self.actual.env[made], self.explicit.run_to(exact))
            if any(differs(one, other) for one, other in pairs):
                self._fault(made, f"is not what {exact.name} of the reference form returns")

    def _judge(self, node: fx.Node, meant: _Meant, value: object) -> None:
        exact = self.explicit.run_to(meant.value)
        grid, right = None, exact
        if meant.codes is not None:
            grid, codes = self._grid(meant), self.explicit.run_to(meant.codes)
            right = exact if _is_float(value) else codes  # what reads a float rounds it itself
        elif meant.qparams is not None:
            q = meant.qparams
            grid = Grid(float(q.scale), int(q.zero_point), q.quant_min, q.quant_max)
            right = pytree.tree_map_only(Tensor, lambda y: grid.place(y).round_(), exact)
        told = _without_spare_channels(value, exact)
        detail, same = other_kind(told, exact), False
        if not detail:
            pairs = list(tensor_pairs(told, exact))
            same = grid is None and all(starmap(are_same, pairs))
            details = (self._detail(one, other, grid, meant) for one, other in pairs)
            detail = "" if same else next(filter(None, details), "")
        for read in () if meant.within is None else allowance_reads(meant.within):
            self.explicit.run_to(read)  # was kept for the judgement
        if same:
            return
        put = put_right(told, right)
        if node in self.actual.env and told is value:
            self.actual.env[node] = put
        if detail and meant.judged:
            self._fault(node, detail)

    def _detail(self, value: Tensor, exact: Tensor, grid: Grid | None, meant: _Meant) -> str:
        """What is wrong with ``value``, or ""."""
        if grid is not None and (value.is_quantized or not value.is_floating_point()):
            if meant.dtype is not None and plain(value).dtype != meant.dtype:
                return f"is of {value.dtype}, not {meant.dtype}"
            off = steps_off(value, exact, grid)
            return "" if off <= TIE else f"{off:.3g} steps off the nearest code"
        if not (exact.is_floating_point() and value.is_floating_point()):
            return ""
        within = meant.within
        least = relative_error(exact.dtype, within)
        if within is None:
            off = fraction_off(value, exact)
            return "" if off <= least else f"off by {off:.2g} of the largest value"
        off = off_in_part(value, exact)
        if off <= least:
            return ""
        if next(rounded_inputs(within), None) is not None:
            if within.target in RECURRENT_OPS:
                return recurrent_detail(value, exact)
            off = off_in_part(value, exact, midway_allowance(within, self.explicit.env.__getitem__))
        return "" if off <= least else f"off by {off:.2g} of the largest value of a row or channel"

    def _grid(self, meant: _Meant) -> Grid:
        assert meant.codes is not None
        arguments = bound(meant.codes)
        given = arguments["scale"], arguments["zero_point"]
        scale, zero_point = map(self.explicit.run_to, meant.measured) if meant.measured else given
        _, low, high = codes_of(meant.codes)
        return Grid(float(scale), int(zero_point), low, high)


def _steps(
    graph_module: fx.GraphModule, batch: Batch, wanted: Mapping[fx.Node, int] | None = None
) -> Steps:
    args, kwargs = copy_tensors((batch[0], dict(batch[1])))
    return Steps(graph_module, arguments_by_name(graph_module.graph, args, kwargs), wanted)


def _meanings(reference: fx.Graph, lowered: fx.Graph) -> Iterator[tuple[fx.Node, _Meant]]:
    """What each node of ``lowered`` stands for, as far as it is known."""
    named = {node.name: node for node in reference.nodes}
    for node in lowered.nodes:
        meaning = meaning_of(node)
        if meaning is None:
            same = named.get(node.name)
            if same is not None and node.op == same.op and node.target == same.target:
                yield node, _Meant(same, node.name, judged=isinstance(node.target, OpDef))
        elif meaning.value in named:
            value, codes = named[meaning.value], named.get(meaning.codes)
            within = _within(named[meaning.operation]) if meaning.operation in named else None
            yield node, _Meant(value, meaning.operation, codes, meaning.qparams, within)


def _within(operation: fx.Node) -> fx.Node | None:
    """``operation`` where its kernel takes and hands out float."""
    note = annotation(operation)
    if note is None or not note.decision.quantized or note.method == "static":
        return None
    return operation


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _without_spare_channels(value: object, exact: object) -> Any:
    """``value`` less the channels that a kernel had added: images of 3 are kept as 4."""
    if not (isinstance(value, Tensor) and isinstance(exact, Tensor)):
        return value
    if value.dim() != exact.dim() or value.dim() < 2 or value.shape[1] <= exact.shape[1]:
        return value
    return value.narrow(1, 0, exact.shape[1])


def _operation_of(node: fx.Node, meant: Mapping[fx.Node, _Meant]) -> str:
    """The operation that ``node`` helps to compute: of the first that stands for something."""
    seen, ahead = {node}, [node]
    for reader in ahead:
        if reader in meant and meaning_of(reader) is not None:
            return meant[reader].operation
        if reader in meant:
            continue
        ahead += [user for user in reader.users if user not in seen]
        seen.update(reader.users)
    return node.name
