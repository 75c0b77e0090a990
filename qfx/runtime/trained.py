"""What a training graph means: the graph of inference, kept beside it.

A model in training has two forms over the same parameters. In training it normalizes with the
statistics of the batch; in inference it computes, bit for bit, what conversion will make of it. So
``eval()`` shows the accuracy that the quantized model will have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from torch import fx, nn

from qfx.graph import meta
from qfx.graph.clone import copy_graph
from qfx.graph.working import WorkingGraphModule
from qfx.quant.qparams import QParams
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.own_code import with_own_code


@dataclass(frozen=True)
class Start:
    """The quantized model that training starts from.

    Attributes:
        reference: its reference graph.
        weights: name of a layer -> the qparams of its weight, filled in as layers are found.
    """

    reference: fx.GraphModule
    weights: dict[str, QParams] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What a training graph means.

    Attributes:
        graph: what it computes in inference, and is converted from; owned by no module.
        weights: name of a layer in there -> its weights and the fake-quants of these, in order.
    """

    graph: fx.Graph
    weights: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def rounded(self, owner: nn.Module) -> WorkingGraphModule:
        """The graph, over what ``owner`` holds, in which weights pass their fake-quants."""
        made = WorkingGraphModule(owner, copy_graph(self.graph))
        rw = Rewriter(made, pass_name="round-weights")
        done: dict[tuple[fx.Node, str], fx.Node] = {}
        for node in list(made.graph.nodes):
            operands = {operand.name: operand for operand in node.all_input_nodes}
            for weight, module in self.weights.get(node.name, ()):
                operand = operands[weight]
                if (operand, module) not in done:
                    with rw.at(operand.next):
                        done[operand, module] = rw.call_submodule(
                            module, operand, value=meta.value_of(operand)
                        )
                rw.rewire(node, operand, done[operand, module])
        return made


def by_mode(
    training: Callable[..., object], owner: nn.Module, trained: Trained
) -> Callable[..., Any]:
    """``forward`` of ``owner``: that of the training graph, in eval mode that of what it means."""
    made = trained.rounded(owner)
    made.recompile()
    inference = type(made).forward

    def forward(self: nn.Module, *args: object, **kwargs: object) -> Any:
        return (training if self.training else inference)(self, *args, **kwargs)

    return wraps(training)(with_own_code(forward))
