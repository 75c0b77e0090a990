from __future__ import annotations

import builtins
import copy
import inspect
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

import qfx
from qfx import vocab
from qfx.capture.capture import capture, propagate_values
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta
from qfx.graph.clone import clone_graph_module


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Lambda(nn.Module):
    """A module whose forward is a function of itself and the inputs."""

    def __init__(self, function: Callable[..., Any], **children: Any) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def traced(function: Callable[..., Any], x: Any, **children: Any) -> fx.GraphModule:
    return capture(Lambda(function, **children).eval(), (x,))


def guards(graph_module: fx.GraphModule) -> list[Any]:
    return [n.kwargs["expected"] for n in graph_module.graph.nodes if n.target is vocab.GUARD]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


# -- what a capture says of its nodes ------------------------------------------------------------
def test_nodes_know_their_module_line_type_and_value() -> None:
    graph_module = capture(Net().eval(), (image(2, 3, 8, 8),))
    found = {n.name: (meta.origins(n), meta.value_of(n)) for n in graph_module.graph.nodes}
    assert all(len(origins) == 1 for origins, _ in found.values())
    (conv,), value = found["block_conv"]
    assert (conv.module_path, conv.type_name) == ("block.conv", "torch.nn.modules.conv.Conv2d")
    line = inspect.getsourcelines(Block.forward)[1] + 1
    assert conv.source == f"graph/test_tracing.py:{line}" or conv.source.endswith(f":{line}")
    assert value == meta.TensorInfo((2, 4, 6, 6), torch.float32)
    (relu,), _ = found["relu"]
    assert (relu.module_path, relu.type_name) == ("block", "torch.relu")
    assert found["x"][0][0].type_name == "input"


def test_source_inside_torch_is_the_line_that_called_it() -> None:
    graph_module = capture(Net().eval(), (image(2, 3, 8, 8),))
    node = next(n for n in graph_module.graph.nodes if n.name == "head_1")
    line = inspect.getsourcelines(Net.forward)[1] + 1
    assert meta.source(node).endswith(f"test_tracing.py:{line}")
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


# -- signatures, arguments, results --------------------------------------------------------------
class Signature(nn.Module):
    def forward(
        self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0, *, mode: str = "add"
    ) -> Tensor:
        x = x * scale
        if mask is not None:
            x = x * mask
        return x + 1 if mode == "add" else x


def test_signature_keeps_names_and_defaults() -> None:
    graph_module = capture(Signature(), (image(3),))
    parameters = inspect.signature(graph_module.forward).parameters
    assert list(parameters) == ["x", "mask", "scale", "mode"]
    assert [p.default for p in parameters.values()][1:] == [None, 2.0, "add"]


def test_signature_keeps_keyword_only_parameters() -> None:
    graph_module = capture(Signature(), (image(3),))
    for same in (graph_module, clone_graph_module(graph_module), copy.deepcopy(graph_module)):
        parameters = inspect.signature(same.forward).parameters
        assert [p.kind.name for p in parameters.values()][2:] == [
            "POSITIONAL_OR_KEYWORD",
            "KEYWORD_ONLY",
        ]
    with pytest.raises(TypeError, match="positional arguments"):
        graph_module(image(3), None, 2.0, "add")


class Needed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: float = 1.0, *, mask: Tensor, z: float = 2.0) -> Tensor:
        return self.linear(x) * y * mask + z


def test_a_keyword_only_parameter_without_default() -> None:
    model, kwargs = Needed().eval(), {"mask": torch.ones(3)}
    qmodel = qfx.quantize(model, image(2, 3), example_kwargs=kwargs, backend="reference")
    assert str(inspect.signature(qmodel.forward)) == "(x, y=1.0, *, mask, z=2.0)"
    close = {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(qmodel(image(2, 3), **kwargs), model(image(2, 3), **kwargs), **close)
    with pytest.raises(TypeError, match="mask"):
        qmodel(image(2, 3))
    data = [{"x": image(2, 3), "mask": torch.ones(3), "z": 3.0}]
    assert qfx.compare(model, qmodel, data).sites


def test_variadic_parameters_need_no_star_of_their_own() -> None:
    class Variadic(nn.Module):
        def forward(self, *xs: Tensor, scale: float = 2.0) -> Tensor:
            return (xs[0] + xs[1]) * scale

    graph_module = capture(Variadic(), (image(3), image(3)))
    assert str(inspect.signature(graph_module.forward)) == "(*xs, scale=2.0)"


@pytest.mark.parametrize(
    "asked",
    [
        lambda x: x.is_contiguous(),
        lambda x: x.stride(1) == 36,
        lambda x: x.stride()[0] == x.shape[1] * 36,
        lambda x: not x.is_contiguous(memory_format=torch.channels_last),
        lambda x: x.storage_offset() == 0,
    ],
)
def test_branches_on_layouts_are_taken_and_not_guarded(asked: Callable[[Tensor], bool]) -> None:
    class Layouts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x if asked(x) else x.contiguous())

    model, x = Layouts().eval(), image(2, 8, 6, 6)
    graph_module = capture(model, (x,))
    assert not any("a branch at" in str(n.kwargs) for n in graph_module.graph.nodes)
    other = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(graph_module(other), model(other))
    for backend in sorted({"x86", "reference"} & set(qfx.backends.available())):
        qmodel = qfx.quantize(model, x, backend=backend)
        assert qmodel(x).shape == x.shape


def test_lengths_of_strides_are_ranks_and_guarded() -> None:
    graph_module = traced(lambda m, x: x * 2 if len(x.stride()) == 2 else x, image(2, 3))
    with pytest.raises(ConfigError, match="captured with"):
        graph_module(image(2, 3, 4))


def test_a_number_stays_an_argument() -> None:
    graph_module = capture(Signature(), (image(3),))
    assert torch.equal(graph_module(image(3), scale=5.0), Signature()(image(3), scale=5.0))


@pytest.mark.parametrize("change", [{"mask": torch.ones(3)}, {"mode": "mul"}])
def test_an_argument_that_steered_the_capture_is_guarded(change: dict[str, Any]) -> None:
    graph_module = capture(Signature(), (image(3),))
    with pytest.raises(ConfigError, match=f"argument {next(iter(change))} = .*capture the model"):
        graph_module(image(3), **change)


def test_arguments_given_by_keyword_are_symbolic() -> None:
    graph_module = capture(Signature(), (image(3),), {"mask": torch.ones(3)})
    mask = torch.tensor([0.0, 1.0, 2.0])
    assert torch.equal(graph_module(image(3), mask=mask), Signature()(image(3), mask=mask))


Pair = namedtuple("Pair", ["left", "right"])


class Nested(nn.Module):
    def forward(self, batch: dict[str, Any], parts: list[Any], *rest: Tensor, **named: Any) -> Any:
        total = batch["x"] + parts[0] + sum(rest) + named["z"]
        if parts[1] is None:
            total = total + parts[2].left * batch["n"]
        return {"out": total, "nothing": None, "parts": [total, (rest[0], 3)]}


def nested_arguments(n: float) -> tuple[Any, ...]:
    pair = Pair(torch.full((2,), 3.0), None)
    return {"x": torch.ones(2), "n": n}, [torch.ones(2), None, pair], torch.ones(2), torch.ones(2)


def test_containers_go_in_and_come_out() -> None:
    graph_module = capture(Nested(), nested_arguments(2.0), {"z": torch.ones(2)})
    for n in (2.0, 4.0):
        ours = graph_module(*nested_arguments(n), z=torch.zeros(2))
        theirs = Nested()(*nested_arguments(n), z=torch.zeros(2))
        assert torch.equal(ours["out"], theirs["out"])
        assert ours["nothing"] is None
        assert torch.equal(ours["parts"][1][0], theirs["parts"][1][0])
        assert ours["parts"][1][1] == 3


def test_a_container_of_another_length_is_refused() -> None:
    graph_module = capture(Nested(), nested_arguments(2.0), {"z": torch.ones(2)})
    with pytest.raises(ConfigError, match="the length of argument rest = 2"):
        graph_module(*nested_arguments(2.0), torch.ones(2), z=torch.zeros(2))


def test_tuples_that_calls_return_keep_their_structure() -> None:
    graph_module = capture(nn.LSTM(3, 4), (image(5, 2, 3),))
    out, (hidden, cell) = graph_module(image(7, 1, 3))
    assert (out.shape, hidden.shape, cell.shape) == ((7, 1, 4), (1, 1, 4), (1, 1, 4))


def test_arguments_that_do_not_fit_the_signature() -> None:
    with pytest.raises(ConfigError, match=r"do not fit forward\(x.*missing.*'x'"):
        capture(Signature(), ())


def test_arguments_that_no_graph_can_take() -> None:
    with pytest.raises(ConfigError, match="argument x of the example inputs is a object"):
        traced(lambda m, x: x, object())


# -- sizes stay symbolic, decisions are guarded --------------------------------------------------
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.view(x.shape[0], -1),
        lambda m, x: x.flatten(x.ndim - 1),
        lambda m, x: x.reshape([1] * x.dim() + [-1]),
        lambda m, x: x + torch.zeros(x.size(0), 1, 1, dtype=x.dtype, device=x.device),
        lambda m, x: torch.roll(x, (x.shape[0] // 2, 1), (0, 1)),
    ],
)
def test_sizes_stay_symbolic(function: Callable[..., Any]) -> None:
    graph_module = traced(function, image(2, 3, 4))
    assert not guards(graph_module)
    x = image(5, 6, 7)
    assert torch.equal(graph_module(x), function(None, x))


def test_spreading_a_shape_fixes_ranks_only() -> None:
    graph_module = traced(lambda m, x: x.new_zeros(*x.shape[:2]) + x.sum((2,)), image(2, 3, 4))
    x = image(5, 6, 7)
    assert torch.equal(graph_module(x), x.sum((2,)))
    with pytest.raises(ConfigError, match="the number of dimensions of x = 3"):
        graph_module(image(2, 3, 4, 5))


def branch(m: object, x: Tensor) -> Tensor:
    if x.shape[0] > 1:
        return x + 1
    return x - 1


def test_a_branch_on_a_size_holds_on_its_side() -> None:
    graph_module = traced(branch, image(2, 3))
    assert torch.equal(graph_module(image(4, 3)), image(4, 3) + 1)
    with pytest.raises(ConfigError, match=r"a branch at .*test_tracing.py:\d+ = True"):
        graph_module(image(1, 3))


def test_a_loop_over_a_size_holds_for_that_size() -> None:
    graph_module = traced(lambda m, x: sum(x[:, i] for i in range(x.shape[1])), image(2, 3))
    assert torch.equal(graph_module(image(5, 3)), sum(image(5, 3)[:, i] for i in range(3)))
    with pytest.raises(ConfigError, match=r"= 3, but these inputs make it 4"):
        graph_module(image(5, 4))


def test_a_loop_over_chunks_is_guarded_and_unpacking_is_not() -> None:
    assert guards(traced(lambda m, x: sum(x.unbind(1)), image(2, 3))) == [3]

    def unpack(m: object, x: Tensor) -> Tensor:
        a, b = x.chunk(2)
        return a + b

    assert not guards(traced(unpack, image(2, 3)))


def test_parameters_decide_without_a_guard() -> None:
    linear = nn.Linear(3, 3)
    graph_module = traced(lambda m, x: x if m.l.bias.sum() > 1e9 else m.l(x), image(2, 3), l=linear)
    assert not guards(graph_module)


def test_isinstance_sees_tensors_and_numbers() -> None:
    def check(m: object, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        assert isinstance(x.shape[0], int)
        return x + 1

    assert torch.equal(traced(check, image(2))(image(2)), image(2) + 1)
    assert "isinstance" not in globals()


def test_a_decision_that_tracing_cannot_see_is_noticed() -> None:
    with pytest.raises(CaptureError, match="does not compute what the model computes"):
        traced(lambda m, x: x + 1 if builtins.isinstance(x, Tensor) else x - 1, image(2))


def test_a_model_that_is_random_by_itself_is_no_reason_to_fail() -> None:
    numbers = iter(range(1, 100))
    graph_module = traced(lambda m, x: x * next(numbers), image(2))
    x = image(2)
    assert torch.equal(graph_module(x), graph_module(x))  # one number was recorded


def test_functions_that_take_numbers_or_tensors_take_proxies() -> None:
    graph_module = traced(lambda m, x: torch.pow(x, 3.0) + torch.pow(2.0, x), image(2))
    assert torch.equal(graph_module(image(2)), torch.pow(image(2), 3.0) + torch.pow(2.0, image(2)))


# -- what can't be captured ----------------------------------------------------------------------
def data_branch(m: object, x: Tensor) -> Tensor:
    return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("function", "construct"),
    [
        (data_branch, "a branch that depends on the contents of a tensor"),
        (lambda m, x: x * sum(1 for _ in x.max().item()), "iteration over a float"),
        (lambda m, x: x * "12"[int(x.sum() > 9)], "an integer of Python that depends"),
        (lambda m, x: x * {0.0: 1}.get(float(x.sum()), 2), "a key that depends on the contents"),
        (lambda m, x: x * len(f"{x.sum()}"), "a text that depends on the contents"),
        (lambda m, x: sum(range(x.argmax().item())) + x, "an integer of Python that depends"),
        (lambda m, x: x + object(), "a object where a graph holds only tensors"),
        (lambda m, x: x + m.layers[0].weight, "a parameter that is not registered"),
    ],
)
def test_what_a_graph_cannot_hold(function: Callable[..., Any], construct: str) -> None:
    place = r"module 'child' \(.*test_tracing.py:\d+\): "
    child = Lambda(function, layers=[nn.Linear(1, 1)])
    with pytest.raises(CaptureError, match=f"{place}{construct}[^\n]*can't be captured") as caught:
        traced(lambda m, x: m.child(x), image(3), child=child)
    assert "What to do: " in str(caught.value)


def test_what_tracing_alone_breaks_is_a_capture_error() -> None:
    def numpy(m: object, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().copy())

    with pytest.raises(CaptureError, match=r"the model \(.*test_tracing.py:\d+\): this can't be"):
        traced(numpy, image(3))


def test_what_the_model_itself_raises_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        capture(Net().eval(), (image(2, 5, 8, 8),))
    text = str(caught.value)
    assert "module 'block.conv' (" in text
    assert "test_tracing.py:" in text
    assert "Conv2d(x: float32[2, 5, 8, 8])" in text


def test_an_error_in_plain_python_of_the_model() -> None:
    def fails(m: object, x: Tensor) -> Tensor:
        raise KeyError("no such thing")

    with pytest.raises(ConfigError, match=r"the model itself raises.*no such thing"):
        traced(fails, image(3))


@pytest.mark.parametrize("negate", [False, True])
def test_an_untraceable_child_can_be_kept_whole(negate: bool) -> None:
    child = Lambda(data_branch)
    model = nn.Sequential(nn.Linear(3, 3), child, nn.Linear(3, 3)).eval()
    graph_module = capture(model, (image(2, 3),), keep_untraceable=True)
    names = [n.name for n in graph_module.graph.nodes]
    assert names == ["input_1", "_0", "_1", "_2", "output"]
    kept = next(n for n in graph_module.graph.nodes if n.name == "_1")
    assert "a branch that depends on the contents of a tensor" in meta.note_of(kept)
    x = -image(2, 3) if negate else image(2, 3)
    assert torch.equal(graph_module(x), model(x))


def test_leaves_of_ones_own() -> None:
    model = nn.Sequential(Block(), nn.ReLU()).eval()
    kept = capture(model, (image(1, 3, 4, 4),), leaf=lambda module, path: path == "0")
    assert [n.name for n in kept.graph.nodes] == ["input_1", "_0", "_1", "output"]


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
