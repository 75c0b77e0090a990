"""What every node yields for the example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import fx

from qfx.capture import arguments
from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.graph.copying import buffers_restored, side_effects_undone
from qfx.graph.interpret import NamedInterpreter


def propagate_values(
    graph_module: fx.GraphModule,
    example_inputs: tuple[object, ...],
    example_kwargs: Mapping[str, object] | None = None,
) -> None:
    """Run the graph once on the example inputs and set the Value of every node anew.

    Buffers and random state are afterwards as they were.

    Raises:
        ConfigError: an operation raises on these inputs.
    """
    args = arguments.copy_tensors(example_inputs)
    kwargs = arguments.copy_tensors(dict(example_kwargs or {}))
    bound = inspect.signature(graph_module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    with side_effects_undone(graph_module), buffers_restored(graph_module):
        _Values(graph_module, bound.arguments).run()


class _Values(NamedInterpreter):
    """Runs a graph and writes down what every node yields."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            raise ConfigError(
                f"{meta.where(n)}: raises on the example inputs: {error}\nWhat to do: pass example "
                "inputs of the shapes and dtypes that the model takes."
            ) from error
        meta.set_value(n, meta.describe(result))
        return result
