"""Tests."""

from __future__ import annotations

import copy
import inspect
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from qfx.capture.capture import capture
from qfx.capture.example_values import propagate_values
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta
from tests.capture.nets import Block, Lambda, Net, image, traced


# -- what a capture says of its nodes ------------------------------------------------------------
def test_nodes_know_their_module_line_type_and_value() -> None:
    graph_module = capture(Net().eval(), (image(2, 3, 8, 8),))
    found = {n.name: (meta.origins(n), meta.value_of(n)) for n in graph_module.graph.nodes}
    assert all(len(origins) == 1 for origins, _ in found.values())
    (conv,), value = found["block_conv"]
    assert (conv.module_path, conv.type_name) == ("block.conv", "torch.nn.modules.conv.Conv2d")
    line = inspect.getsourcelines(Block.forward)[1] + 1
    assert conv.source.endswith(f"capture/nets.py:{line}")
    assert value == meta.TensorInfo((2, 4, 6, 6), torch.float32)
    (relu,), _ = found["relu"]
    assert (relu.module_path, relu.type_name) == ("block", "torch.relu")
    assert found["x"][0][0].type_name == "input"


def test_source_inside_torch_is_the_line_that_called_it() -> None:
    graph_module = capture(Net().eval(), (image(2, 3, 8, 8),))
    node = next(n for n in graph_module.graph.nodes if n.name == "head_1")
    line = inspect.getsourcelines(Net.forward)[1] + 1
    assert meta.source(node).endswith(f"nets.py:{line}")
    assert not meta.source(node).startswith("/")


def test_a_container_alone_has_no_user_line() -> None:
    graph_module = capture(nn.Sequential(nn.ReLU()), (image(2),))
    assert [meta.source(n) for n in graph_module.graph.nodes] == ["", "", ""]


# -- the model is not touched --------------------------------------------------------------------
def test_model_random_state_and_inputs_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(True), nn.Dropout())
    model[3].eval()
    x = image(2, 3, 4, 4)
    before, given, state = copy.deepcopy(model.state_dict()), x.clone(), torch.get_rng_state()
    flags = [m.training for m in model.modules()]
    graph_module = capture(model, (x,))
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == flags
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(graph_module.state_dict()[name], tensor), "the run moved statistics"
    assert graph_module.training
    assert not graph_module.get_submodule("3").training


def test_an_input_that_the_model_writes_to_is_not_changed() -> None:
    x = image(4)
    given = x.clone()
    traced(lambda m, x: F.relu(x, inplace=True), x)
    assert torch.equal(x, given)


def test_tied_parameters_stay_tied() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    graph_module = capture(nn.Sequential(first, second), (image(2, 4),))
    assert graph_module.get_parameter("0.weight") is graph_module.get_parameter("1.weight")
    assert graph_module.get_parameter("0.weight") is not first.weight


def test_unsaved_buffers_stay_unsaved() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(4), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.table

    assert not capture(Holds(), (image(4),)).state_dict()


def test_no_state_of_torch_is_left_behind() -> None:
    zeros, call = torch.zeros, nn.Module.__call__
    fast_path = torch.backends.mha.get_fastpath_enabled()
    graph_module = traced(lambda m, x: x + torch.zeros(x.shape[0], 1), image(2, 3))
    assert torch.zeros is zeros
    assert nn.Module.__call__ is call
    assert torch.backends.mha.get_fastpath_enabled() is fast_path
    assert "wrap(" not in graph_module.code, "running the code would wrap torch.zeros for good"


# -- modules with something more to them -----------------------------------------------------------
def test_a_module_with_hooks_is_called_whole() -> None:
    calls = []
    block = Block().eval()
    block.register_forward_hook(lambda module, args, result: calls.append(module))
    graph_module = capture(nn.Sequential(block), (image(1, 3, 4, 4),))
    node = next(n for n in graph_module.graph.nodes if n.op == "call_module")
    assert "hooks" in meta.note_of(node)
    calls.clear()
    graph_module(image(1, 3, 4, 4))
    assert len(calls) == 1


def test_hooks_of_the_model_itself_run_around_the_graph() -> None:
    model = nn.Sequential(nn.ReLU())
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.register_forward_hook(lambda module, args, kwargs, y: y * 2, with_kwargs=True)
    graph_module = capture(model, (image(2),))
    assert [n.op for n in graph_module.graph.nodes] == ["placeholder", "call_module", "output"]
    assert torch.equal(graph_module(image(2)), model(image(2)))


def test_hooks_that_make_the_weights_of_a_model_in_training() -> None:
    model = nn.Linear(3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(model)
    with pytest.raises(CaptureError, match=r"weight norm.*remove_weight_norm"):
        capture(model, (image(2, 3),))
    model.eval()
    graph_module = capture(model, (image(2, 3),))
    assert set(graph_module.state_dict()) == {"weight", "bias"}
    torch.testing.assert_close(graph_module(image(2, 3)), model(image(2, 3)))


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights_are_baked_in_inference(norm: Callable[..., nn.Module]) -> None:
    model = nn.Sequential(norm(nn.Linear(3, 3))).eval()
    expected = model(image(2, 3))
    graph_module = capture(model, (image(2, 3),))
    assert set(graph_module.state_dict()) == {"0.weight", "0.bias"}
    assert torch.equal(graph_module(image(2, 3)), expected)
    assert torch.equal(model(image(2, 3)), expected), "the original is still parametrized"
    assert hasattr(model[0], "parametrizations")


def test_parametrized_weights_stay_trainable_in_training() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))).train()
    graph_module = capture(model, (image(2, 3),))
    names = {n for n, _ in graph_module.named_parameters()}
    assert names == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize("number", [np.sqrt(64), np.float32(0.5), np.int64(3)], ids=repr)
def test_scalars_of_numpy_are_numbers_in_the_graph(number: Any) -> None:
    model = Lambda(lambda m, x: F.leaky_relu(x * number, number) + number).eval()
    x = image(2, 3)
    graph_module = capture(model, (x,))
    assert "np." not in graph_module.code
    assert torch.equal(graph_module(x), model(x))


def test_subclasses_that_change_nothing_are_leaves() -> None:
    class Renamed(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 3, 1)

    class Changed(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, self.weight * 2, self.bias)

    plain = capture(nn.Sequential(Renamed()), (image(1, 3, 2, 2),))
    assert [n.op for n in plain.graph.nodes] == ["placeholder", "call_module", "output"]
    changed = capture(nn.Sequential(Changed(3, 3, 1)), (image(1, 3, 2, 2),))
    assert "call_module" not in [n.op for n in changed.graph.nodes]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.DataParallel(nn.ReLU()), "pass model.module"),
        (nn.LazyLinear(3), "not initialized"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrappers_that_have_to_go(model: nn.Module, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(model, (image(2),))


# -- values, threads, cost -------------------------------------------------------------------------
def test_values_follow_other_inputs() -> None:
    graph_module = capture(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), (image(1, 3, 2, 2),)
    )
    before = copy.deepcopy(graph_module.state_dict())
    propagate_values(graph_module, (image(5, 3, 7, 7),))
    shapes = [meta.tensor_info(n).shape for n in graph_module.graph.nodes if n.op != "output"]
    assert shapes == [(5, 3, 7, 7), (5, 4, 7, 7), (5, 4, 7, 7)]
    assert all(torch.equal(before[k], v) for k, v in graph_module.state_dict().items())
    with pytest.raises(ConfigError, match=r"_0 \(0\): raises on the example inputs"):
        propagate_values(graph_module, (image(5, 2, 7, 7),))


def test_six_threads_at_once_while_others_run_models() -> None:
    model = nn.Sequential(*(Block() if i == 0 else nn.Conv2d(4, 4, 1) for i in range(20))).eval()
    lengths: list[int] = []
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(3):
                lengths.append(len(capture(model, (image(1, 3, 4, 4),)).graph.nodes))
                model(image(1, 3, 4, 4))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert lengths == [24] * 18


def test_a_generator_is_refused_by_name() -> None:
    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            return x + torch.rand(x.shape[-1], generator=generator)

    with pytest.raises(CaptureError, match="a random generator can't be captured in a graph"):
        capture(Draws().eval(), (torch.ones(2, 3),))
