"""A working graph module generates code when it is needed, and not before."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import fx, nn

import qfx
from qfx.graph.clone import clone_graph_module
from qfx.graph.working import WorkingGraphModule

X = torch.tensor([-1.0, 2.0])


def plus_relu() -> WorkingGraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.relu, (x,)))
    return WorkingGraphModule(nn.Module(), graph)


def doubled(module: WorkingGraphModule) -> None:
    output = next(iter(reversed(module.graph.nodes)))
    with module.graph.inserting_before(output):
        output.args = (module.graph.call_function(torch.add, (output.args[0], output.args[0])),)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """The modules whose code was generated."""
    found: list[fx.GraphModule] = []
    generate = fx.GraphModule.recompile

    def recompile(self: fx.GraphModule) -> object:
        found.append(self)
        return generate(self)

    monkeypatch.setattr(fx.GraphModule, "recompile", recompile)
    return found


def test_code_is_generated_by_the_first_call_only(compiled: list[fx.GraphModule]) -> None:
    module = plus_relu()
    assert not compiled
    assert module(X).tolist() == module(X).tolist() == [0.0, 2.0]
    assert compiled == [module]


def test_outdated_code_is_not_run() -> None:
    module = plus_relu()
    module(X)
    doubled(module)
    assert module(X).tolist() == [0.0, 2.0], "as for any GraphModule"
    module.outdate()
    assert module(X).tolist() == [0.0, 4.0]


def test_code_and_signature_are_those_of_the_graph() -> None:
    module = plus_relu()
    assert list(inspect.signature(module.forward).parameters) == ["x"]
    doubled(module)
    module.outdate()
    assert "torch.add" in module.code


def test_one_module_does_not_change_another() -> None:
    first, second = plus_relu(), plus_relu()
    first(X)
    doubled(second)
    second.outdate()
    assert (first(X).tolist(), second(X).tolist()) == ([0.0, 2.0], [0.0, 4.0])


def test_pickle_keeps_what_it_computes() -> None:
    again = pickle.loads(pickle.dumps(plus_relu()))
    assert again(X).tolist() == [0.0, 2.0]


class Branching(nn.Module):
    """A guard, a buffer, results of several, and a function outside of the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: torch.Tensor, *, factor: float = 2.0) -> dict[str, torch.Tensor]:
        y = x * factor if x.shape[1] > 3 else x
        first, second = self.layer(y).chunk(2, -1)
        return {"y": torch.cat([second, first], -1) * self.scale, "first": torch.special.i1(first)}


@pytest.fixture(scope="module")
def branching() -> qfx.QuantizedModel:
    return qfx.quantize(Branching().eval(), torch.ones(3, 4), backend="reference")


@pytest.mark.parametrize("form", ["as written", "canonical", "reference"])
def test_captured_graphs_can_be_pickled(form: str, branching: qfx.QuantizedModel) -> None:
    x, passes = torch.rand(3, 4), [qfx.get_pass("canonicalize")] * (form == "canonical")
    module = branching.reference
    if form != "reference":
        module, _ = qfx.run_passes(Branching().eval(), passes, x)
    again = pickle.loads(pickle.dumps(module))
    called = [[n.target for n in m.graph.nodes if "call" in n.op] for m in (module, again)]
    assert called[0] == called[1]
    for name, value in module(x).items():
        assert torch.equal(again(x)[name], value)


def test_passes_go_on_from_a_reference_graph(branching: qfx.QuantizedModel) -> None:
    x = torch.rand(3, 4)
    same, history = qfx.run_passes(branching.reference, [], x)
    assert torch.equal(same(x)["y"], branching(x)["y"])
    assert len(history) == 1
    with pytest.raises(qfx.ConfigError, match="canonicalize"):
        qfx.run_passes(branching.reference, [qfx.get_pass("canonicalize")], x)


@pytest.mark.parametrize("called", [False, True])
def test_copies_run_after_they_were_captured(called: bool) -> None:
    """Capture copies what it is given: a class of a class of fx's own called itself for ever."""
    module, _ = qfx.run_passes(nn.Sequential(nn.ReLU()).eval(), [qfx.get_pass("canonicalize")], X)
    if called:
        module(X)
    copied = copy.deepcopy(module)
    of_copy, shallow = copy.deepcopy(copied), copy.copy(copied)
    for each in (copied, of_copy, shallow, copy.deepcopy(shallow), module):
        again, _ = qfx.run_passes(each, [qfx.get_pass("canonicalize")], X)
        assert again(X).tolist() == each(X).tolist() == [0.0, 2.0]
    assert type(of_copy).__name__ == type(copied).__name__ == type(module).__name__ == "Sequential"
    assert len(type(of_copy).__mro__) == len(type(module).__mro__)


def test_clone_takes_the_graph_over() -> None:
    module = plus_relu()
    graph = module.graph
    clone = clone_graph_module(module, take=True)
    assert clone.graph is graph
    assert graph.owning_module is clone


def test_clone_copies_names_order_and_meta() -> None:
    module = plus_relu()
    for number, node in enumerate(module.graph.nodes):
        node.meta["number"] = [number]
    clone = clone_graph_module(module)
    pairs = list(zip(module.graph.nodes, clone.graph.nodes, strict=True))
    assert [str(a) for a, _ in pairs] == [str(b) for _, b in pairs]
    assert [str(a.args) for a, _ in pairs] == [str(b.args) for _, b in pairs]
    assert all(a is not b and a.meta is not b.meta for a, b in pairs)
    assert [b.meta["number"] for _, b in pairs] == [[0], [1], [2]]
    clone.graph.lint()


def test_one_that_takes_over_a_root_holds_what_that_held() -> None:
    root, graph = nn.Module(), fx.Graph()
    root.register_buffer("held", torch.arange(2.0), persistent=False)
    root.child = nn.ReLU()
    graph.output(graph.call_module("child", (graph.get_attr("held"),)))
    made = WorkingGraphModule.over(root.eval(), graph)
    assert made().tolist() == [0.0, 1.0]
    assert made.child is root.child
    assert graph.owning_module is made
    assert not made.training
    assert not made.state_dict()
