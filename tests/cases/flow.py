"""One call that quantizes a small model and checks what every case promises.

    quantized(model, x, "fbgemm", quantize=1, dequantize=1)

The lowered graph has exactly so many quantize and dequantize nodes, its outputs are near the float
model's (SQNR), and within one quantization step of the reference form's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import qfx
from qfx import vocab
from qfx.backends import resolve_backend
from qfx.backends.onednn import kernels as x86_kernels
from qfx.numerics.measures import sqnr
from qfx.quant.annotation import kernel_of

BACKENDS = ("fbgemm", "x86", "reference")
_QUANTIZE = (
    torch.quantize_per_tensor,
    x86_kernels.quantize,
    x86_kernels.quantize_rgbx,
    vocab.QUANTIZE,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal values that do not depend on, or touch, the global generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make: Callable[..., nn.Module], *args: Any, seed: int = 0) -> nn.Module:
    """``make(*args)`` in eval mode, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed queues tracebacks for GPUs
        return make(*args).eval()


def is_quantize(node: fx.Node) -> bool:
    return node.target in _QUANTIZE


def is_dequantize(node: fx.Node) -> bool:
    """Whether ``node`` dequantizes an activation (in the reference form weights are, too)."""
    if node.target is vocab.DEQUANTIZE:
        return bool(node.args[0].op != "get_attr")  # type: ignore[union-attr]
    return node.target is x86_kernels.dequantize or (
        node.op == "call_method" and node.target == "dequantize"
    )


def boundaries(graph_module: fx.GraphModule) -> tuple[int, int]:
    """How many quantize and dequantize nodes a graph has."""
    nodes = list(graph_module.graph.nodes)
    return sum(map(is_quantize, nodes)), sum(map(is_dequantize, nodes))


def kernels(qmodel: qfx.QuantizedModel) -> list[str]:
    """The kernels of the lowered graph, in order, by the name of the function that is called."""
    return [
        getattr(node.target, "__name__", str(node.target)).partition(".")[0]
        for node in qmodel.graph.nodes
        if kernel_of(node) is not None
    ]


def targets(graph_module: fx.GraphModule) -> list[Any]:
    return [node.target for node in graph_module.graph.nodes if node.op.startswith("call_")]


def tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


class Branches(nn.Module):
    """Models side by side, each with an input of its own: many cases in one call of quantize."""

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.eval()

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]


def step(qmodel: qfx.QuantizedModel) -> float:
    """The largest step that outputs of the reference form, or what they derive from, have."""
    return max(steps(qmodel), default=0.0)


def steps(qmodel: qfx.QuantizedModel) -> list[float]:
    """:func:`step` of every output."""
    output = next(iter(reversed(qmodel.reference.graph.nodes)))
    leaves = [leaf for leaf in pytree.tree_leaves(output.args) if isinstance(leaf, fx.Node)]
    return [max(_scales(leaf, set()), default=0.0) for leaf in leaves]


def steps_of_branches(qmodel: qfx.QuantizedModel) -> list[float]:
    """:func:`step` of every branch of models side by side, which may have several outputs each."""
    output = next(iter(reversed(qmodel.reference.graph.nodes)))
    found = []
    for branch in output.args[0]:  # type: ignore[union-attr]
        leaves = [leaf for leaf in pytree.tree_leaves(branch) if isinstance(leaf, fx.Node)]
        found.append(max((s for leaf in leaves for s in _scales(leaf, set())), default=0.0))
    return found


def _scales(node: fx.Node, seen: set[fx.Node]) -> Iterator[float]:
    if node in seen:
        return
    seen.add(node)
    if node.target is vocab.QUANTIZE:
        yield float(node.args[1])  # type: ignore[arg-type]
        return
    for operand in node.all_input_nodes:
        yield from _scales(operand, seen)


def run(module: nn.Module, args: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        return module(*copy.deepcopy(args))


_ONE_BIT = 6.02
"""dB that a bit is worth."""


def less_a_bit(bound: float, backend: str) -> float:
    """``bound``, in dB and of 8 bits, or a bit less where the kernels of ``backend`` saturate."""
    return bound - (_ONE_BIT if resolve_backend(backend).saturates else 0.0)


def quantized(
    model: nn.Module,
    inputs: Any,
    backend: str,
    *,
    quantize: int | None = None,
    dequantize: int | None = None,
    bound: float = 30.0,
    steps: float = 1.0,
    **options: Any,
) -> qfx.QuantizedModel:
    """Quantize ``model`` and check the outcome.

    Args:
        model: in eval mode.
        inputs: a tensor or a tuple of positional arguments.
        backend: name of the backend.
        quantize, dequantize: exact counts in the lowered graph.
        bound: least SQNR against the float model in dB, of kernels that take all 8 bits.
        steps: largest difference from the reference form, in steps of its outputs.
        options: further arguments of ``qfx.quantize``.
    """
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    expected = run(model, args)
    qmodel = qfx.quantize(model, inputs, backend=backend, **options)
    counts = boundaries(qmodel)
    if quantize is not None:
        assert counts == (quantize, dequantize), f"{counts} in\n{listing(qmodel)}"
    actual = run(qmodel, args)
    assert pytree.tree_structure(actual) == pytree.tree_structure(expected)
    quality = sqnr(expected, actual)
    bound = less_a_bit(bound, backend)
    assert quality > bound, f"SQNR {quality:.1f} dB against float, in\n{listing(qmodel)}"
    within = steps * step(qmodel) * 1.001 + 1e-6
    for ours, theirs in zip(tensors(actual), tensors(run(qmodel.reference, args)), strict=True):
        largest = float((ours.float() - theirs.float()).abs().max()) if ours.numel() else 0.0
        assert largest <= within, f"{largest} from the reference, allowed {within}"
    return qmodel


def listing(graph_module: fx.GraphModule) -> str:
    """The graph as text, for messages."""
    return "\n".join(str(n.format_node()) for n in graph_module.graph.nodes if n.op != "get_attr")
