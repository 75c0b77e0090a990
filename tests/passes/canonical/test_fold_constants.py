from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import vocab
from qfx.testing.checking import Result, check
from qfx_passes.canonical.fold_constants import FoldConstants
from tests.passes.stages import change


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Holds(nn.Module):
    """A module with a parameter, and a forward that is a function of it and the input."""

    def __init__(self, function: Callable[[Any, Tensor], Any], parameter: Tensor) -> None:
        super().__init__()
        self.function = function
        self.table = nn.Parameter(parameter)
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def folded(function: Callable[..., Any], parameter: Tensor, x: Tensor, **options: Any) -> Result:
    return check(FoldConstants(**options), Holds(function, parameter).eval(), x)


def attributes(result: Result) -> list[str]:
    return [str(n.target) for n in result.graph_module.graph.nodes if n.op == "get_attr"]


class StandardizedConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0
        ).reshape_as(self.weight)
        return F.conv2d(input, weight, self.bias)


def test_a_standardized_weight_is_a_constant() -> None:
    model = nn.Sequential(StandardizedConv(3, 4, 3)).eval()
    result = check(FoldConstants(), model, image(2, 3, 6, 6))
    (conv,) = [n for n in result.graph_module.graph.nodes if n.target is vocab.CONV2D]
    assert [a.target for a in conv.args[1:]] == ["0.weight_1", "0.bias"]
    assert set(result.graph_module.state_dict()) == {"0.weight_1", "0.bias"}


def test_only_the_last_of_a_chain_is_kept() -> None:
    result = folded(lambda m, x: x + (m.table.exp() * 2).sum(0), image(4, 3), image(2, 3))
    assert attributes(result) == ["sum_1"]
    assert len(result.graph_module.state_dict()) == 1


def test_sizes_of_parameters_are_constant() -> None:
    result = folded(lambda m, x: x + m.table[:, : m.table.shape[1] // 2], image(2, 6), image(2, 3))
    assert attributes(result) == ["getitem"]


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (lambda m, x: x + m.table, "table"),
        (lambda m, x: x.sum() + m.table[:1].expand(9000, 3), "table"),
        (lambda m, x: torch.rand_like(m.table) * 0 + x, "table"),
        (lambda m, x: x + m.table[: x.shape[0]], "table"),
    ],
    ids=["a parameter itself", "much larger", "random", "read by the input"],
)
def test_what_stays(function: Callable[..., Any], kept: str) -> None:
    result = folded(function, image(2, 3), image(2, 3), growth=1)
    assert kept in attributes(result)


def test_a_buffer_that_changes_is_no_constant() -> None:
    def counts(m: Any, x: Tensor) -> Tensor:
        m.count.add_(1)
        return x + m.count * 2

    result = folded(counts, image(3), image(3))
    assert attributes(result) == ["count"]
    assert torch.equal(result.graph_module(image(3)), image(3) + 4)


def test_what_is_returned_is_a_copy() -> None:
    def several(m: Any, x: Tensor) -> Any:
        double = m.table * 2
        return x + double, double, {"more": [double, m.count + 1]}

    result = folded(several, image(2, 3), image(2, 3))
    module = result.graph_module
    assert [n.target for n in module.graph.nodes].count(vocab.CLONE) == 2
    wanted = module(image(2, 3))
    for made in module(image(2, 3))[1:2] + tuple(module(image(2, 3))[2]["more"]):
        made.zero_()
    torch.testing.assert_close(module(image(2, 3)), wanted)
    again = check(FoldConstants(), module, image(2, 3))
    assert len(again.graph_module.graph.nodes) == len(module.graph.nodes)


def test_views_of_what_is_returned_are_views_of_a_copy() -> None:
    def several(m: Any, x: Tensor) -> Any:
        n = x.shape[0]
        double = m.table * 2
        views = [double[None].expand(n, -1, -1)[0], double.narrow(0, 0, n), double.unfold(0, n, 1)]
        made = torch.ones(2, 3)
        return x + double, {"views": [*views, double.chunk(2, 1), made, made[:, :, None].mT]}

    model = Holds(several, image(2, 3)).eval()
    module = check(FoldConstants(), model, image(2, 3)).graph_module
    wanted = model(image(2, 3))
    (add,) = [n for n in module.graph.nodes if n.target is vocab.ADD]
    assert add.args[1].op == "get_attr", "what is computed with is the constant itself"
    for made in torch.utils._pytree.tree_leaves(module(image(2, 3))):
        made.zero_()
    torch.testing.assert_close(module(image(2, 3)), wanted)
    again = check(FoldConstants(), module, image(2, 3))
    assert len(again.graph_module.graph.nodes) == len(module.graph.nodes)


AFTER = """\
- %mul : f32[2,3] = mul(@table, 2)
- %add : f32[2,3] = add(%x, %mul)
+ %add : f32[2,3] = add(%x, @mul)
"""


def test_the_graph_before_and_after() -> None:
    result = folded(lambda m, x: x + m.table * 2, image(2, 3), image(2, 3))
    assert change(result.history, "fold-constants") == AFTER
