"""Values inside the float and the quantized model, matched by where they come from.

The last captured operation that a node of the reference graph derives from is the one whose result
it computes (of conv, batch-norm and relu fused, the relu). So a value of the float model and
one of the quantized model belong together when that origin is the same. Where a result is
quantized for all its readers, the value is taken after the rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.capture.capture import capture
from qfx.capture.regions.plan import place_origins
from qfx.errors import CaptureError, ConfigError
from qfx.framework.continued import resumed
from qfx.graph import meta
from qfx.graph.interpret import NamedInterpreter
from qfx.report.sites import QuantizationReport
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import regions_of
from qfx.vocab import is_op

Batch = tuple[tuple[Any, ...], dict[str, Any]]
Hook = Callable[[fx.Node, Any], Any]


class Watched(NamedInterpreter):
    """Runs a graph and shows every value to ``hook``, which returns the value to go on with."""

    def __init__(
        self, graph_module: fx.GraphModule, hook: Hook, arguments: Mapping[str, object]
    ) -> None:
        super().__init__(graph_module, arguments)
        self._hook = hook

    def run_node(self, n: fx.Node) -> Any:
        """The value of one node, as the hook returns it."""
        return self._hook(n, super().run_node(n))


def run_watched(graph_module: fx.GraphModule, batch: Batch, hook: Hook) -> Any:
    """Run a graph on a batch without gradients; the output."""
    args, kwargs = batch
    bound = inspect.signature(graph_module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    with torch.no_grad():
        return Watched(graph_module, hook, bound.arguments).run()


ValuesOf = Callable[[Iterable[str], Batch], "tuple[dict[str, Tensor], Any]"]
"""What tells on a batch the values of captured operations by name, and the output."""


def values_of_quantized(model: QuantizedModel, qmodel: QuantizedModel) -> ValuesOf:
    """What tells the values of a quantized model, to compare with those of another.

    Raises:
        ConfigError: the two models were not made from one.
    """
    mine, theirs = ({(s.node, s.module_path) for s in m.report.sites} for m in (model, qmodel))
    if mine != theirs:
        odd = ", ".join(sorted(node for node, _ in mine ^ theirs)[:5])
        raise ConfigError(
            f"the two quantized models were not made from the same float model: only one has {odd}"
        )
    points = observation_points(model.reference.graph)
    return partial(quantized_values, model, points)


def quantized_values(
    qmodel: QuantizedModel, points: Mapping[fx.Node, str], wanted: Iterable[str], batch: Batch
) -> tuple[dict[str, Tensor], Any]:
    """Values that a quantized model has for captured operations on a batch, and its output."""
    names, values = set(wanted), dict[str, Tensor]()

    def keep(node: fx.Node, value: object) -> Any:
        name = points.get(node)
        if name in names and isinstance(value, Tensor):
            values[name] = value.detach().clone()
        return value

    run_watched(qmodel.reference, batch, keep)
    args, kwargs = batch
    with torch.no_grad():
        return values, qmodel(*args, **kwargs)


def reference_of(qmodel: nn.Module, what: str) -> fx.GraphModule:
    """The explicit q/dq graph of a quantized model; ConfigError if it is none, or of several."""
    return quantized_graph(qmodel, what).reference


def quantized_graph(model: nn.Module, what: str = "the second argument") -> QuantizedModel:
    """``model``, which is one quantized graph; ConfigError if it is none, or has several.

    Args:
        model: what a user gave.
        what: how to call that in the error.
    """
    if regions_of(model) is not None:
        raise ConfigError(
            "this model has several regions, which are looked at one by one here: give "
            "qmodel.regions[name]"
        )
    if not isinstance(model, QuantizedModel):
        raise ConfigError(f"{what} must be what qfx.quantize returned, not {type(model).__name__}")
    return model


def refuse_model(model: object) -> None:
    """ConfigError for what is no float model in eval mode."""
    of_regions = regions_of(model) is not None
    if not isinstance(model, nn.Module) or isinstance(model, QuantizedModel) or of_regions:
        raise ConfigError("the first argument must be the float model that was quantized")
    if model.training:
        raise ConfigError("the float model is in training mode: call model.eval()")


def float_graph(
    model: nn.Module, qmodel: QuantizedModel, batch: Batch, region: str = ""
) -> fx.GraphModule:
    """The float model as captured, with the node names of the report of ``qmodel``.

    Args:
        model: the float model, or the module of it that is a region.
        qmodel: what was made of it.
        batch: what it is captured on.
        region: the path of the module in the float model.

    Raises:
        ConfigError: ``model`` is not in eval mode, or not what ``qmodel`` was made from.
    """
    refuse_model(model)
    captured = _captured(model, qmodel, batch, region)
    if region:
        place_origins(captured, region, model)
    sites = {(s.node, s.module_path) for s in qmodel.report.sites}
    found = {(n.name, meta.module_path(n)) for n in captured.graph.nodes}
    if not sites <= found:
        missing = ", ".join(sorted(node for node, _ in sites - found)[:5])
        raise ConfigError(
            f"the quantized model was not made from this float model: it has no {missing}"
        )
    return captured


def _captured(
    model: nn.Module, qmodel: QuantizedModel, batch: Batch, region: str
) -> fx.GraphModule:
    """The capture; ConfigError where the model does not take the batch, and why that may be."""
    try:
        left_by_passes = resumed(model, *batch)
        return capture(model, *batch) if left_by_passes is None else left_by_passes
    except (CaptureError, ConfigError) as error:
        here = {f"{region}.{name}".strip(".") for name, _ in model.named_modules()}
        absent = [s.module_path for s in qmodel.report.sites if s.module_path not in here]
        if absent:
            raise ConfigError(
                "the quantized model was not made from this float model, which has no module "
                f"{absent[0]!r}"
            ) from error
        raise ConfigError(NOT_TAKEN + str(error).partition("\n")[0]) from error


NOT_TAKEN = (
    "the float model does not take batch 0 of data: give batches as for calibration, of the inputs "
    "of this model.\n"
)


def computed_origin(node: fx.Node) -> str | None:
    """Name of the captured operation whose result ``node`` yields, if it is a tensor."""
    sources = meta.origins(node)
    computes = node.op.startswith("call_") and meta.tensor_info(node) is not None
    return sources[-1].node if sources and computes else None


def observation_points(graph: fx.Graph) -> dict[fx.Node, str]:
    """The float-valued nodes of a reference graph to compare, with their captured operations."""
    last: dict[str, fx.Node] = {}
    for node in graph.nodes:
        origin = computed_origin(node)
        if origin is not None and meta.is_float_tensor(node) and not _is_of_a_value(node):
            last[origin] = node
    return {_rounded(node): origin for origin, node in last.items()}


def _is_of_a_value(node: fx.Node) -> bool:
    """Whether ``node`` is a value again that another has computed, or a scale measured in one."""
    measured = any(is_op(v, vocab.DYNAMIC_QPARAMS) for v in node.all_input_nodes)
    return measured or is_op(node, vocab.DEQUANTIZE, vocab.DYNAMIC_QPARAMS)


def _rounded(node: fx.Node) -> fx.Node:
    """``node``, or what it is dequantized to where everyone reads it quantized."""
    if not node.users or not all(is_op(user, vocab.QUANTIZE) for user in node.users):
        return node
    readers = [r for user in node.users for r in user.users if is_op(r, vocab.DEQUANTIZE)]
    return readers[0] if readers else node


def float_values(
    captured: fx.GraphModule, wanted: Iterable[str], batch: Batch
) -> tuple[dict[str, Tensor], Any]:
    """Values of the captured operations ``wanted`` on a batch, and the output."""
    names, values = set(wanted), dict[str, Tensor]()

    def keep(node: fx.Node, value: object) -> Any:
        if node.name in names and isinstance(value, Tensor):
            values[node.name] = value.detach().clone()  # later nodes may write in place
        return value

    return values, run_watched(captured, batch, keep)


def alike(value: object, expected: Tensor | None) -> bool:
    """Whether ``value`` is a float tensor shaped as ``expected``, so that they can be compared."""
    return (
        expected is not None
        and isinstance(value, Tensor)
        and value.is_floating_point()
        and value.shape == expected.shape
    )


_ALIKE, _APART = 15.0, 6.0
"""From which ratio on, in dB, outputs agree at all, and up to which they have little in common."""


def doubt_of_weights(report: QuantizationReport, other: QuantizationReport) -> str:
    """A question, where two quantized models were made of float models of other weights."""
    if not (report.made_of and other.made_of) or report.made_of == other.made_of:
        return ""
    return (
        "The two were made of float models with other weights, so not all that differs is due to "
        "quantization. Was one of them trained in between, or made from another checkpoint?"
    )


def doubt(report: QuantizationReport, output: float) -> str:
    """A question, where an output at ``output`` dB is nothing like what it was at conversion."""
    checked = report.checked
    if checked is None or not checked.output > _ALIKE or not output < _APART:
        return ""
    return (
        f"The outputs have little in common ({output:.1f} dB, and {checked.output:.1f} dB on the "
        "example inputs when it was made). Is this the float model that it was made from, with the "
        "same weights, and the data like what it was calibrated with?"
    )
