"""Private attributes of PyTorch's objects: they are there, and what is done where they are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

from qfx.private_attributes import (
    FLAT_WEIGHTS,
    OVERRIDDEN,
    REGISTRIES,
    UNSAVED,
    buffers_held,
    code_of,
    flat_weight_names,
    forward_hooks,
    forward_pre_hooks,
    gather_flat_weights,
    held_by,
    is_erased,
    modules_held,
    overload_name,
    parameters_held,
    registry_of,
    schema_of,
    set_arguments,
    takes_uneven_inputs,
    tensors_held,
    tracer_of,
    unsaved_buffers,
    version_of,
    wrapper,
)


@pytest.fixture
def module() -> nn.Module:
    made = nn.Sequential(nn.BatchNorm1d(2))
    made.register_buffer("seen", torch.zeros(1), persistent=False)
    return made


@pytest.fixture
def graph() -> fx.Graph:
    return fx.symbolic_trace(nn.Linear(2, 2)).graph


def test_this_pytorch_has_what_has_no_other_name(module: nn.Module) -> None:
    assert {*REGISTRIES, UNSAVED} <= vars(module).keys()
    assert all(callable(getattr(module, name)) for name in OVERRIDDEN)
    assert FLAT_WEIGHTS in vars(nn.LSTM(1, 1))


def test_what_a_module_holds(module: nn.Module) -> None:
    norm = module[0]  # type: ignore[index]
    assert [*parameters_held(norm)] == ["weight", "bias"]
    assert [*buffers_held(norm)] == ["running_mean", "running_var", "num_batches_tracked"]
    assert modules_held(module) == {"0": norm}
    assert unsaved_buffers(module) == {"seen"}
    assert tensors_held(norm) == (parameters_held(norm), buffers_held(norm))
    names = ("running_var", "weight", "training")
    assert [held_by(norm, name, 0) for name in names] == [norm.running_var, norm.weight, 0]
    assert held_by(module, "0") is norm
    assert registry_of(norm, "bias") is parameters_held(norm)
    assert registry_of(norm, "running_var") is buffers_held(norm)


def test_what_is_hooked_to_a_module(module: nn.Module) -> None:
    before = module.register_forward_pre_hook(lambda *_: None)
    behind = module.register_forward_hook(lambda *_: None)
    assert [*forward_pre_hooks(module)] == [before.id]
    assert [*forward_hooks(module)] == [behind.id]


def test_arguments_of_a_node_are_set_as_by_assignment(graph: fx.Graph) -> None:
    (read, *_), output = graph.nodes, next(iter(reversed(graph.nodes)))
    made = graph.create_node("call_function", torch.add)
    set_arguments(made, (read, [read]), {"alpha": 2})
    assert (made.args, made.kwargs) == ((read, [read]), {"alpha": 2})
    assert made in read.users
    assert made.all_input_nodes == [read]
    set_arguments(made, (), {})
    assert made.args == (read, [read])
    assert graph.find_nodes(op="call_function", target=torch.add) == [made]
    assert output in graph.nodes


def test_recurrent_layers_put_their_weights_together_anew() -> None:
    layer = nn.GRU(2, 3)
    assert flat_weight_names(layer) == [name for name, _ in layer.named_parameters()]
    other = nn.Parameter(torch.zeros(9, 2))
    parameters_held(layer)["weight_ih_l0"] = other
    gather_flat_weights(layer)
    assert getattr(layer, FLAT_WEIGHTS)[0] is other


def test_ranks_are_even_where_nothing_else_is_told() -> None:
    assert not takes_uneven_inputs(None)
    assert not takes_uneven_inputs(nn.Linear(1, 1))


def test_writes_are_counted_where_tensors_count_them() -> None:
    x = torch.zeros(2)
    before = version_of(x)
    x.add_(1)
    assert version_of(x) == before + 1
    with torch.inference_mode():
        assert version_of(torch.zeros(2).add_(1)) == 0
    assert version_of("no tensor") == 0


def test_a_wrapper_has_the_form_of_another_tensor() -> None:
    class Wrapped(Tensor):
        @classmethod
        def __torch_dispatch__(cls, *_: object) -> None:
            raise AssertionError("nothing is computed")

    like = torch.zeros(2, 3).T
    made = wrapper(Wrapped, like, torch.device("cpu"))
    assert type(made) is Wrapped
    assert (made.shape, made.stride(), made.dtype) == (like.shape, like.stride(), like.dtype)


def test_nodes_that_were_taken_out_are_known(graph: fx.Graph) -> None:
    unread = graph.create_node("call_function", torch.relu, (next(iter(graph.nodes)),))
    assert not is_erased(unread)
    graph.erase_node(unread)
    assert is_erased(unread)


def test_what_writes_the_code_of_a_graph(graph: fx.Graph) -> None:
    assert type(code_of(graph)) is CodeGen
    assert type(code_of(object())) is CodeGen  # type: ignore[arg-type]
    assert tracer_of(graph) is fx.Tracer
    assert tracer_of(fx.Graph()) is None


def test_operators_tell_their_overload_and_schema() -> None:
    add = torch.ops.aten.add
    assert [overload_name(each) for each in (add.Tensor, add.out)] == ["Tensor", "out"]
    assert overload_name(torch.ops.aten.relu.default) == "default"
    assert schema_of(add.Tensor).name == "aten::add"
    assert schema_of(torch.relu) is None
