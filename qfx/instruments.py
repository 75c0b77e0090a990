"""The one seam for what cuts across passes: an :class:`Instrument` is told before and after each.

Passes themselves neither time, print nor check anything.

The numeric check compares what the graph computes before and after a pass by its signal-to-noise
ratio, ``SQNR = 10 log10(sum(y^2) / sum((y - y')^2))`` in dB, over all float outputs together;
infinite when they agree exactly.
"""

from __future__ import annotations

import copy
import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qfx.errors import ConfigError, PassError
from qfx.graph.interpret import Interpreter

if TYPE_CHECKING:
    from qfx.graph.history import Stage
    from qfx.pass_base import Pass, PassContext


class Instrument:
    """Base of instruments; each method does nothing unless overridden."""

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        """Called once, with the stage that the pipeline starts from."""

    def before_pass(self, step: Pass, ctx: PassContext) -> None:
        """Called before each pass."""

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        """Called after each pass, once its graph has been verified and recorded."""


class Timing(Instrument):
    """How long each pass took.

    Attributes:
        seconds: per pass, in the order they ran; a pass that ran twice has the sum.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        self.seconds[step.name] = self.seconds.get(step.name, 0.0) + stage.seconds

    def __str__(self) -> str:
        width = max(map(len, self.seconds), default=0)
        ranked = sorted(self.seconds.items(), key=lambda item: -item[1])
        return "\n".join(f"{name:{width}}  {s * 1e3:9.2f} ms" for name, s in ranked)


class Dump(Instrument):
    """Writes the IR of each stage to ``directory/NN-name.txt`` as soon as it is there.

    The last file is the state before a pass that hangs or kills the process.
    """

    def __init__(self, directory: str | PathLike[str]) -> None:
        self.directory = Path(directory)

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write(stage)

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        self._write(stage)

    def _write(self, stage: Stage) -> None:
        path = self.directory / f"{stage.index:02d}-{stage.name}.txt"
        path.write_text(f"# stage {stage.index}: {stage.name}\n{stage.snapshot.to_text()}")


class NumericCheck(Instrument):
    """Compares the outputs of each stage with those of the stage before it.

    Args:
        min_sqnr: least SQNR in dB that a pass must keep; None only records.
        inputs: positional arguments to run with; those of the capture when None.

    Attributes:
        sqnr: per pass, in dB.
    """

    def __init__(
        self, *, min_sqnr: float | None = None, inputs: tuple[Any, ...] | None = None
    ) -> None:
        self.min_sqnr = min_sqnr
        self.inputs = inputs
        self.sqnr: dict[str, float] = {}
        self._before: list[Tensor] = []

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        self._before = self._outputs(ctx)

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        after = self._outputs(ctx)
        ratio = self.sqnr[step.name] = sqnr(self._before, after)
        self._before = after
        if self.min_sqnr is not None and not ratio >= self.min_sqnr:
            raise PassError(
                f"pass {step} changes what the model computes: {ratio:.1f} dB SQNR against the "
                f"stage before it, at least {self.min_sqnr:.1f} asked for",
                pass_name=step.name,
                graph_module=ctx.graph_module,
            )

    def _outputs(self, ctx: PassContext) -> list[Tensor]:
        args = ctx.example_inputs if self.inputs is None else self.inputs
        if not args and not ctx.example_kwargs:
            raise ConfigError("the numeric check needs example inputs: NumericCheck(inputs=...)")
        return run_detached(ctx.graph_module, args, ctx.example_kwargs)


def run_detached(
    graph_module: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> list[Tensor]:
    """All tensors that a graph returns, without a trace: no state of the model, of its inputs or of
    the random generator changes, and no code is generated.
    """
    given = _positional(graph_module.graph, copy.deepcopy(args), copy.deepcopy(kwargs or {}))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        result = _Detached(graph_module).run(*given, enable_io_processing=False)
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


class _Detached(Interpreter):
    """Runs copies of submodules and buffers, so that observers and statistics stay as they are."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self._copies: dict[int, Any] = {}

    def fetch_attr(self, target: str) -> Any:
        value = super().fetch_attr(target)
        if not isinstance(value, (Tensor, nn.Module)):
            return value
        if id(value) not in self._copies:
            detached = value.detach().clone() if isinstance(value, Tensor) else None
            self._copies[id(value)] = copy.deepcopy(value) if detached is None else detached
        return self._copies[id(value)]


def _positional(graph: fx.Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments in the order of the inputs of ``graph``; those left out keep their default."""
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    given = list(args)
    for node in inputs[len(args) :]:
        name = str(node.target).lstrip("*")
        if name not in kwargs and not node.args:
            break
        given.append(kwargs[name] if name in kwargs else node.args[0])
    return given


def sqnr(reference: list[Tensor], other: list[Tensor]) -> float:
    """Signal-to-noise ratio in dB of ``other`` against ``reference``, over all tensors together.

    Infinite when they are equal (NaN counts as equal to NaN), minus infinite when numbers, shapes
    or integer values differ.
    """
    if [t.shape for t in reference] != [t.shape for t in other]:
        return -math.inf
    signal = noise = 0.0
    for a, b in zip(reference, other, strict=True):
        if torch.equal(a, b) or torch.allclose(a, b, rtol=0, atol=0, equal_nan=True):
            signal += float(a.double().nan_to_num().square().sum()) if not a.is_complex() else 0.0
        elif not a.is_floating_point():
            return -math.inf
        else:
            signal += float(a.double().square().sum())
            noise += float((a.double() - b.double()).square().sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf
