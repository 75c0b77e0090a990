"""Whether a difference is the file's own, or what the model makes of next to nothing.

Networks that round make much of little: a sum added up in another order moves a code here and
there, the next layers more. Two questions tell that from a fault. Given the codes that the model
has in front of each layer, how do those differ that come of it? And how far from itself is the
model if each number that it rounds is moved to the next float, up or down?
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.export.onnx.packages import require
from qfx.graph import meta
from qfx.graph.interpret import NamedInterpreter
from qfx.numerics.measures import error_of
from qfx.torch_private import pytree
from qfx.vocab import is_op


@dataclass(frozen=True)
class SiteCheck:
    """Codes that a file makes of the model's own codes.

    Attributes:
        site: the node of the reference graph.
        module: the path of the module.
        share: of the codes that differ.
        steps: the largest difference.
    """

    site: str
    module: str
    share: float
    steps: int


@dataclass(frozen=True)
class GivenCodes:
    """A file in which every layer reads the codes that the model has there.

    Attributes:
        model: what to run; codes are inputs, and outputs.
        codes: those inputs, by name.
        sites: the node whose codes an output is, by its name, and what the model has.
    """

    model: Any
    codes: Mapping[str, Tensor]
    sites: Mapping[str, tuple[fx.Node, Tensor]]

    def compare(self, made: Mapping[str, Tensor]) -> tuple[SiteCheck, ...]:
        """How the codes that were made differ, the worst site first."""
        rows = (_compared(n, want, made[name]) for name, (n, want) in self.sites.items())
        return tuple(sorted(rows, key=lambda row: (-row.steps, -row.share)))


def summary(sites: Sequence[SiteCheck]) -> str:
    """How many sites differ, and the worst of them, in a line."""
    if not any(site.steps for site in sites):
        return f"given the model's codes: none of {len(sites)} sites differs"
    one, more = (sum(s.steps == 1 for s in sites), sum(s.steps > 1 for s in sites))
    worst = sites[0]
    return (
        f"given the model's codes: {one} of {len(sites)} sites are a step off, {more} more; the "
        f"worst, {worst.site}: {worst.steps} in {100 * worst.share:.2g} % of the codes"
    )


def _compared(node: fx.Node, want: Tensor, have: Tensor) -> SiteCheck:
    apart = (want.to(torch.int32) - have.to(torch.int32)).abs()
    share = float((apart > 0).float().mean())
    return SiteCheck(node.name, meta.module_path(node), share, int(apart.max()))


def given_codes(
    reference: fx.GraphModule, path: str | os.PathLike[str], arguments: Mapping[str, Any]
) -> GivenCodes:
    """Cut a file where it rounds as the model does.

    Args:
        reference: the graph that the file was made of.
        path: of the file.
        arguments: of the model, by name.
    """
    onnx_ir: Any = require("onnx_ir")
    model = onnx_ir.load(path)
    known = _codes(reference, arguments)
    written = {n.metadata_props.get("qfx.node", ""): n.outputs[0] for n in model.graph}
    codes: dict[str, Tensor] = {}
    sites: dict[str, tuple[fx.Node, Tensor]] = {}
    for node, tensor in known.items():
        value = written.get(node.name)
        if value is None:
            continue
        given = onnx_ir.Value(name=f"{value.name}_given", shape=value.shape, type=value.type)
        value.replace_all_uses_with(given)
        model.graph.inputs.append(given)
        if not value.is_graph_output():
            model.graph.outputs.append(value)
        codes[given.name], sites[value.name] = tensor, (node, tensor)
    return GivenCodes(model, codes, sites)


def _codes(reference: fx.GraphModule, arguments: Mapping[str, Any]) -> dict[fx.Node, Tensor]:
    """The codes that the model makes."""
    found: dict[fx.Node, Tensor] = {}

    class Watch(NamedInterpreter):
        def run_node(self, n: fx.Node) -> Any:
            made = super().run_node(n)
            if is_op(n, vocab.QUANTIZE):
                found[n] = made
            return made

    with torch.no_grad():
        Watch(reference, arguments).run()
    return found


def moved_by_an_ulp(reference: fx.GraphModule, arguments: Mapping[str, Any]) -> float:
    """SQNR in dB of the model against itself, what it rounds moved to the next float."""
    generator = torch.Generator().manual_seed(0)

    class Moved(NamedInterpreter):
        def run_node(self, n: fx.Node) -> Any:
            if not is_op(n, vocab.QUANTIZE):
                return super().run_node(n)
            (input, *rest), kwargs = self.fetch_args_kwargs_from_env(n)
            up = torch.rand(input.shape, generator=generator).to(input.device) < 0.5
            ends = (input.new_tensor(end) for end in (torch.inf, -torch.inf))
            above, below = (input.nextafter(end) for end in ends)
            assert isinstance(n.target, vocab.OpDef)
            return n.target(torch.where(up, above, below), *rest, **kwargs)

    with torch.no_grad():
        both = [each(reference, arguments).run() for each in (NamedInterpreter, Moved)]
    plain, moved = (
        [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)] for made in both
    )
    pairs = zip(plain, moved, strict=True)
    return min(error_of(want.float(), have.float()).sqnr for want, have in pairs)
