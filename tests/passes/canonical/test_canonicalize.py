from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import vocab
from qfx.graph import meta
from qfx.stubs import DeQuantStub, QuantStub
from qfx.vocab import OpDef
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.support.checking import Result, assert_close, run


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Lambda(nn.Module):
    """A module whose forward is a function of itself and the inputs."""

    def __init__(self, function: Callable[..., Any], **children: Any) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class Lambda2(Lambda):
    def forward(self, x: Any, y: Any) -> Any:
        return self.function(self, x, y)


class Lambda3(Lambda):
    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return self.function(self, x, y, z)


def canonical(
    model: nn.Module | Callable[..., Any], *inputs: Any, atol: float = 0.0, **children: Any
) -> Result:
    """Canonicalize and check that the outputs are the model's."""
    if not isinstance(model, nn.Module):
        kind = (Lambda, Lambda2, Lambda3)[len(inputs) - 1]
        model = kind(model, **children).eval()
    result = run(Canonicalize(), model, inputs)
    assert_same(result, model, *inputs, atol=atol)
    return result


def assert_same(result: Result, model: nn.Module, *inputs: Any, atol: float = 0.0) -> None:
    def outputs(module: nn.Module) -> list[Tensor]:
        copies = [i.clone() if isinstance(i, Tensor) else i for i in inputs]
        leaves = torch.utils._pytree.tree_leaves(module(*copies))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    with torch.no_grad():
        assert_close(outputs(result.graph_module), outputs(model), atol)


def calls(result: Result) -> list[Any]:
    """What the graph computes, in order: operations, or targets of what stayed as written."""
    kinds = ("call_function", "call_method", "call_module")
    return [n.target for n in result.graph_module.graph.nodes if n.op in kinds]


def only(result: Result, op: OpDef) -> dict[str, Any]:
    """Attributes of the one call of ``op``."""
    (node,) = [n for n in result.graph_module.graph.nodes if n.target is op]
    return dict(node.kwargs)


def notes(result: Result) -> list[str]:
    return [meta.note_of(n) for n in result.graph_module.graph.nodes if meta.note_of(n)]


# -- one form for every spelling -------------------------------------------------------------------
X = (2, 4, 6, 6)

SAME: list[tuple[OpDef, dict[str, Any], list[Callable[[Tensor], Any] | nn.Module]]] = [
    (
        vocab.RELU,
        {},
        [
            nn.ReLU(),
            nn.ReLU(inplace=True),
            F.relu,
            torch.relu,
            lambda x: x.relu(),
            lambda x: x.relu_(),
            lambda x: F.relu(x, inplace=True),
            lambda x: F.relu(x, True),
            lambda x: F.relu(input=x),
            lambda x: torch.relu_(x),
        ],
    ),
    (
        vocab.CLAMP,
        {"min": 0.0, "max": 6.0},
        [
            nn.ReLU6(),
            nn.Hardtanh(0.0, 6.0),
            F.relu6,
            lambda x: torch.clamp(x, 0.0, 6.0),
            lambda x: x.clip(min=0.0, max=6.0),
            lambda x: F.hardtanh(x, 0.0, max_val=6.0),
        ],
    ),
    (vocab.CLAMP, {"max": 1.0}, [lambda x: x.clamp_max(1.0), lambda x: torch.clamp(x, max=1.0)]),
    (vocab.CLAMP, {"min": -1.0, "max": 1.0}, [F.hardtanh, nn.Hardtanh(inplace=True)]),
    (vocab.SOFTMAX, {"dim": 1}, [nn.Softmax(1), lambda x: x.softmax(1), lambda x: F.softmax(x, 1)]),
    (
        vocab.GELU,
        {"approximate": "tanh"},
        [nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")],
    ),
    (vocab.LEAKY_RELU, {}, [nn.LeakyReLU(), F.leaky_relu, nn.LeakyReLU(0.01, inplace=True)]),
    (vocab.HARDSWISH, {}, [nn.Hardswish(), F.hardswish, lambda x: F.hardswish(x, inplace=True)]),
    (vocab.ADD, {}, [lambda x: x + 1, lambda x: 1 + x, lambda x: x.add(1), lambda x: x.add_(1)]),
    (vocab.ADD, {"alpha": 2}, [lambda x: torch.add(x, x, alpha=2), lambda x: x.add(x, alpha=2)]),
    (vocab.MUL, {}, [lambda x: x * 3, lambda x: 3 * x, lambda x: torch.mul(x, 3)]),
    (vocab.DIV, {}, [lambda x: x / 2, lambda x: torch.div(x, 2), lambda x: 1 / x]),
    (vocab.DIV, {"rounding_mode": "floor"}, [lambda x: x // 2, lambda x: torch.floor_divide(x, 2)]),
    (vocab.MEAN, {"dim": (2, 3)}, [lambda x: x.mean([2, 3]), lambda x: torch.mean(x, dim=(2, 3))]),
    (
        vocab.MEAN,
        {"dim": 1, "keepdim": True},
        [lambda x: x.mean((1,), True), lambda x: x.mean(1, True)],
    ),
    (
        vocab.RESHAPE,
        {"shape": (2, -1)},
        [
            lambda x: x.view(2, -1),
            lambda x: x.reshape((2, -1)),
            lambda x: torch.reshape(x, (2, -1)),
        ],
    ),
    (
        vocab.PERMUTE,
        {"dims": (0, 2, 3, 1)},
        [lambda x: x.permute(0, 2, 3, 1), lambda x: torch.permute(x, [0, 2, 3, 1])],
    ),
    (
        vocab.TRANSPOSE,
        {"dim0": 1, "dim1": 2},
        [
            lambda x: x.transpose(1, 2),
            lambda x: torch.transpose(x, 1, 2),
            lambda x: torch.swapaxes(x, axis0=1, axis1=2),
        ],
    ),
    (
        vocab.FLATTEN,
        {"start_dim": 1},
        [nn.Flatten(), lambda x: x.flatten(1), lambda x: torch.flatten(x, 1)],
    ),
    (
        vocab.SPLIT,
        {"split_size_or_sections": 2, "dim": 1},
        [lambda x: x.split(2, 1), lambda x: torch.split(x, 2, dim=1)],
    ),
    (vocab.CHUNK, {"chunks": 2}, [lambda x: x.chunk(2), lambda x: torch.chunk(x, chunks=2)]),
    (vocab.UNBIND, {"dim": 1}, [lambda x: x.unbind(1), lambda x: torch.unbind(x, 1)]),
    (vocab.CAT, {"dim": 1}, [lambda x: torch.cat([x, x], 1), lambda x: torch.cat((x, x), dim=1)]),
    (
        vocab.EXPAND,
        {"size": (2, 4, 6, 6)},
        [lambda x: x.expand(2, 4, 6, 6), lambda x: x.expand((2, 4, 6, 6))],
    ),
    (
        vocab.MAX_POOL2D,
        {"kernel_size": (3, 3), "stride": (2, 2)},
        [
            nn.MaxPool2d(3, 2),
            lambda x: F.max_pool2d(x, 3, stride=2),
            lambda x: torch.max_pool2d(x, (3, 3), 2),
        ],
    ),
    (
        vocab.AVG_POOL2D,
        {"kernel_size": (2, 2)},
        [nn.AvgPool2d(2), nn.AvgPool2d(2, 2), lambda x: F.avg_pool2d(x, 2)],
    ),
    (
        vocab.ADAPTIVE_AVG_POOL2D,
        {"output_size": (1, 1)},
        [
            nn.AdaptiveAvgPool2d(1),
            nn.AdaptiveAvgPool2d((1, 1)),
            lambda x: F.adaptive_avg_pool2d(x, 1),
        ],
    ),
    (
        vocab.PAD,
        {"pad": (1, 1, 1, 1)},
        [nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.0), lambda x: F.pad(x, [1] * 4)],
    ),
    (
        vocab.PAD,
        {"pad": (1, 1, 1, 1), "mode": "reflect"},
        [nn.ReflectionPad2d(1), lambda x: F.pad(x, (1,) * 4, "reflect")],
    ),
    (
        vocab.INTERPOLATE,
        {"scale_factor": 2.0},
        [nn.Upsample(scale_factor=2), lambda x: F.interpolate(x, scale_factor=2.0)],
    ),
    (
        vocab.LAYER_NORM,
        {"normalized_shape": (6,)},
        [lambda x: F.layer_norm(x, (6,)), nn.LayerNorm(6, elementwise_affine=False)],
    ),
    (
        vocab.GROUP_NORM,
        {"num_groups": 2},
        [lambda x: F.group_norm(x, 2), nn.GroupNorm(2, 4, affine=False)],
    ),
    (vocab.INSTANCE_NORM, {}, [nn.InstanceNorm2d(4), lambda x: F.instance_norm(x)]),
    (
        vocab.PIXEL_SHUFFLE,
        {"upscale_factor": 2},
        [nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x, 2)],
    ),
    (vocab.MATMUL, {}, [lambda x: x @ x, lambda x: torch.matmul(x, x), lambda x: x.matmul(x)]),
]


@pytest.mark.parametrize(
    ("op", "attributes", "spelling"),
    [(op, kwargs, s) for op, kwargs, spellings in SAME for s in spellings],
    ids=[f"{op.name}-{i}" for op, _, spellings in SAME for i in range(len(spellings))],
)
def test_spellings_have_one_form(op: OpDef, attributes: dict[str, Any], spelling: Any) -> None:
    is_module = isinstance(spelling, nn.Module)
    function = nn.Sequential(spelling) if is_module else lambda m, x: spelling(x)
    result = canonical(function, image(*X))
    assert only(result, op) == attributes
    assert set(calls(result)) <= {op, vocab.GETITEM}
    assert not notes(result)


CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9), {"stride": (2,), "padding": (1,)}),
    (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 9, 9), {"groups": 2}),
    (nn.Conv2d(4, 6, (3, 5), padding="same"), (2, 4, 9, 9), {"padding": (1, 2)}),
    (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 9, 9), {}),
    (nn.Conv3d(4, 6, 1, dilation=2, bias=False), (1, 4, 3, 3, 3), {"dilation": (2, 2, 2)}),
    (
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
        (1, 4, 5, 5),
        {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 1)},
    ),
]


@pytest.mark.parametrize(("conv", "shape", "attributes"), CONVOLUTIONS)
def test_convolutions_read_their_own_parameters(
    conv: nn.Module, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    result = canonical(nn.Sequential(conv), image(*shape))
    (op,) = calls(result)
    assert op.name.startswith("conv")
    assert only(result, op) == attributes
    reads = [n.target for n in result.graph_module.graph.nodes if n.op == "get_attr"]
    assert reads == [f"0.{name}" for name, _ in conv.named_parameters()]
    assert set(result.graph_module.state_dict()) == set(reads)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.linear(x, weight=m.layer.weight, bias=m.layer.bias),
        lambda m, x: F.linear(input=x, weight=m.layer.weight, bias=m.layer.bias),
        lambda m, x: m.layer(input=x),
        lambda m, x: m.layer(x),
    ],
)
def test_linear_by_keyword(function: Callable[..., Any]) -> None:
    result = canonical(function, image(2, 3), layer=nn.Linear(3, 4))
    (node,) = [n for n in result.graph_module.graph.nodes if n.target is vocab.LINEAR]
    assert [a.target for a in node.args] == ["x", "layer.weight", "layer.bias"]
    assert not node.kwargs


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_become_a_pad(mode: str) -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode)
    result = canonical(nn.Sequential(conv), image(2, 4, 9, 9))
    assert only(result, vocab.PAD) == {"pad": (1, 1, 1, 1), "mode": mode}
    assert only(result, vocab.CONV2D) == {}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_uneven_same_padding_becomes_a_pad() -> None:
    result = canonical(nn.Sequential(nn.Conv2d(4, 6, (2, 3), padding="same")), image(2, 4, 9, 9))
    assert only(result, vocab.PAD) == {"pad": (1, 1, 0, 1)}


def test_a_shared_module_is_read_twice() -> None:
    layer = nn.Linear(3, 3)
    result = canonical(lambda m, x: m.a(m.b(x)), image(2, 3), a=layer, b=layer)
    reads = [n.target for n in result.graph_module.graph.nodes if n.op == "get_attr"]
    assert reads == ["a.weight", "a.bias"] * 2


def test_names_and_origins_are_those_of_the_capture() -> None:
    result = canonical(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), image(1, 3, 5, 5))
    compute = [n for n in result.graph_module.graph.nodes if n.op == "call_function"]
    assert [n.name for n in compute] == ["_0", "_1"]
    assert [meta.origins(n)[0].node for n in compute] == ["_0", "_1"]
    assert [meta.module_path(n) for n in compute] == ["0", "1"]
    assert [meta.rule_of(n) for n in compute] == ["canonicalize/rename-spellings"] * 2


def test_batch_norm_of_inference() -> None:
    result = canonical(nn.Sequential(nn.BatchNorm2d(4, eps=1e-3)).eval(), image(*X))
    (node,) = [n for n in result.graph_module.graph.nodes if n.target is vocab.BATCH_NORM]
    names = ["running_mean", "running_var", "weight", "bias"]
    assert [a.target for a in node.args[1:]] == [f"0.{n}" for n in names]
    assert node.kwargs == {"eps": 1e-3}


@pytest.mark.parametrize(
    ("norm", "training", "note"),
    [
        (nn.BatchNorm2d(4), True, "batch norm in training mode"),
        (
            nn.BatchNorm2d(4, track_running_stats=False),
            False,
            "the statistics are those of the batch",
        ),
        (nn.InstanceNorm2d(4, track_running_stats=True), False, "instance norm with tracked"),
    ],
)
def test_batch_norm_of_training_stays(norm: nn.Module, training: bool, note: str) -> None:
    result = run(Canonicalize(), nn.Sequential(norm).train(training), image(*X))
    assert calls(result) == ["0"]
    assert note in notes(result)[0]


def test_trainable_keeps_what_training_changes() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)).eval()
    result = run(Canonicalize(trainable=True), model, image(*X))
    assert calls(result) == [vocab.CONV2D, vocab.BATCH_NORM, vocab.RELU, vocab.DROPOUT]
    assert str(Canonicalize(trainable=True)) == "canonicalize{trainable=true}"


DROPPED = [
    *(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Identity(), nn.Dropout(inplace=True)),
    *(nn.FeatureAlphaDropout(), nn.Dropout1d()),
]


@pytest.mark.parametrize("module", DROPPED, ids=lambda m: type(m).__name__)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_does_nothing_goes(module: nn.Module) -> None:
    result = canonical(nn.Sequential(module, nn.ReLU()).eval(), image(2, 4, 6))
    assert calls(result) == [vocab.RELU]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.dropout(x, 0.5, False) * 2,
        lambda m, x: F.dropout(x, p=0.5, training=m.training) * 2,
        lambda m, x: F.dropout2d(x, 0.5, training=False, inplace=True) * 2,
        lambda m, x: F.dropout(x, p=0.0) * 2,
        lambda m, x: torch.dropout(x, 0.5, False) * 2,
    ],
)
def test_functions_that_do_nothing_go(function: Callable[..., Any]) -> None:
    assert calls(canonical(function, image(*X))) == [vocab.MUL]


def test_dropout_that_is_meant_stays() -> None:
    result = run(Canonicalize(), Lambda(lambda m, x: F.dropout(x)).eval(), image(*X))
    assert calls(result) == [F.dropout]


@pytest.mark.parametrize(
    ("function", "kept", "note"),
    [
        (lambda m, x: x.sum(0, dtype=torch.float64), "sum", "dtype=torch.float64 has no canonical"),
        (lambda m, x: torch.clamp(x, min=x.mean()), torch.clamp, "its bound is computed"),
        (lambda m, x: x.view(torch.int32), "view", "a view as another dtype"),
        (lambda m, x: F.layer_norm(x, x.shape[3:]), F.layer_norm, "its normalized_shape is"),
        (
            lambda m, x: F.avg_pool2d(x, x.shape[-2:]),
            F.avg_pool2d,
            "its kernel_size is computed when the model runs, from a shape",
        ),
        (
            lambda m, x: F.group_norm(x, x.shape[1]),
            F.group_norm,
            "its num_groups is computed",
        ),
        (
            lambda m, x: x.contiguous(memory_format=torch.channels_last),
            "contiguous",
            "memory_format=",
        ),
    ],
)
def test_near_misses_stay_and_say_why(function: Any, kept: Any, note: str) -> None:
    result = canonical(function, image(*X))
    assert kept in calls(result)
    assert any(note in n for n in notes(result)), notes(result)


def test_unknown_calls_stay_as_written() -> None:
    result = canonical(lambda m, x: torch.cumsum(x.exp(), 0), image(*X))
    assert calls(result) == ["exp", torch.cumsum]
    assert not notes(result)


# -- other products --------------------------------------------------------------------------------
EINSUMS = {
    "bhid,bhjd->bhij": [vocab.TRANSPOSE, vocab.MATMUL],
    "b h i j, b h j d -> b h i d": [vocab.MATMUL],
    "bihd,bjhd->bihj": [vocab.PERMUTE, vocab.PERMUTE, vocab.MATMUL, vocab.PERMUTE],
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum_is_matmul(equation: str) -> None:
    shape = (2, 3, 3, 3)
    function = Lambda2(lambda m, x, y: torch.einsum(equation, x, y))
    result = canonical(function, image(*shape), image(*shape, seed=1), atol=1e-6)
    assert calls(result) == EINSUMS[equation]


def test_einsum_that_is_no_matmul_stays() -> None:
    function = Lambda2(lambda m, x, y: torch.einsum("ii,ij->ij", x, y))
    result = canonical(function, image(3, 3), image(3, 3, seed=1))
    assert calls(result) == [torch.einsum]
    assert "takes a diagonal" in notes(result)[0]


class Conv1D(nn.Module):
    """The linear layer of GPT-2: its weight is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(image(3, 4)), nn.Parameter(image(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


def test_addmm_of_parameters_is_linear() -> None:
    result = canonical(nn.Sequential(Conv1D()).eval(), image(2, 3), atol=1e-6)
    assert calls(result) == [vocab.LINEAR]
    shapes = {name: tuple(t.shape) for name, t in result.graph_module.state_dict().items()}
    assert shapes == {"0.weight_1": (4, 3), "0.bias": (4,)}


def test_addmm_in_training_keeps_its_parameters() -> None:
    result = run(Canonicalize(trainable=True), nn.Sequential(Conv1D()), image(2, 3))
    assert calls(result) == [vocab.MATMUL, vocab.ADD]
    assert {n for n, _ in result.graph_module.named_parameters()} == {"0.weight", "0.bias"}


def test_addmm_with_a_scale_stays() -> None:
    function = Lambda2(lambda m, x, y: torch.addmm(x, x, y, beta=2))
    result = canonical(function, image(3, 3), image(3, 3, seed=1))
    assert calls(result) == [torch.addmm]
    assert notes(result) == ["addmm with a scale"]


# -- sizes and numbers ---------------------------------------------------------------------------
def test_sizes_are_queries() -> None:
    result = canonical(lambda m, x: x.view(x.shape[0], x.size(1) * 6, -1), image(*X))
    sizes = [vocab.SIZE, vocab.SIZE, vocab.SCALARS[operator.mul]]
    assert calls(result) == [*sizes, vocab.RESHAPE]
    assert_same(
        result, Lambda(lambda m, x: x.view(x.shape[0], x.size(1) * 6, -1)), image(3, 5, 6, 6)
    )


def test_ranks_are_queries() -> None:
    function = Lambda(lambda m, x: x.flatten(x.ndim - 1) * x.ndim + x.dim())
    result = canonical(function, image(2, 3))
    assert calls(result).count(vocab.DIM) == 3
    assert_same(result, function, image(2, 3, 4))


def test_a_rank_that_python_needs_is_guarded() -> None:
    result = canonical(lambda m, x: x * len(x.shape), image(2, 3))
    assert calls(result) == [vocab.DIM, vocab.GUARD, vocab.MUL]


def test_a_module_that_returns_indices_stays() -> None:
    pool = nn.AdaptiveMaxPool2d(1, return_indices=True)
    result = canonical(lambda m, x: m.pool(x)[1], image(*X), pool=pool)
    assert calls(result) == ["pool", vocab.GETITEM]
    assert "the indices are returned" in notes(result)[0]


def test_numbers_alone_are_no_tensor_arithmetic() -> None:
    result = canonical(lambda m, x: x + (x.shape[0] + 1) // 2, image(*X))
    scalars = [vocab.SCALARS[operator.add], vocab.SCALARS[operator.floordiv]]
    assert calls(result) == [vocab.SIZE, *scalars, vocab.ADD]


def test_assertions_are_guards() -> None:
    def asserts(m: object, x: Tensor) -> Tensor:
        torch._assert(x.shape[1] == 4, "four channels")
        return x + 1

    result = canonical(asserts, image(*X))
    found = only(result, vocab.GUARD)
    assert found == {"expected": True, "what": "four channels", "asserted": True}


def test_dead_code_goes_and_guards_stay() -> None:
    def dead(m: object, x: Tensor) -> Tensor:
        x.sigmoid()
        if x.shape[0] > 1:
            return x + 1
        return x

    greater = vocab.SCALARS[operator.gt]
    assert calls(canonical(dead, image(*X))) == [vocab.SIZE, greater, vocab.GUARD, vocab.ADD]


# -- in place --------------------------------------------------------------------------------------
def augmented(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z += y
    z -= 1
    z *= z
    return z + x


def read_through_old_name(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.add_(y)
    F.relu(z, inplace=True)
    w = z + 1
    z.mul_(w).sub_(1)
    return z / w


def unused_result(m: object, x: Tensor, y: Tensor) -> Tensor:
    x.sigmoid_()
    return x + y


def fill_a_slot(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z[0] = y[1]
    z[:, 1:2] = 7.0
    return z


def unknown_in_place(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.exp_()
    F.selu(z, True)
    return z.masked_fill_(y > 0, 3.0) + z


def element_of_a_pair(m: object, x: Tensor, y: Tensor) -> Tensor:
    values, indices = x.max(dim=0)
    values += 1
    return values * indices


def reshaped(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z.unsqueeze_(0)
    return z.squeeze(0) + z


@pytest.mark.parametrize(
    "function",
    [
        *(augmented, read_through_old_name, unused_result, fill_a_slot, unknown_in_place),
        *(element_of_a_pair, reshaped),
    ],
)
def test_in_place_becomes_functional(function: Callable[..., Any]) -> None:
    result = canonical(function, image(2, 3), image(2, 3, seed=1))
    names = [c.name if isinstance(c, OpDef) else getattr(c, "__name__", c) for c in calls(result)]
    assert not [n for n in names if n.endswith("_") or n == "iadd"], names
    assert not notes(result)


def through_a_view(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z[0].add_(y[0])
    return z


def seen_by_a_view(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    view = z.view(-1)
    z.add_(y)
    return view


def seen_through_a_chunk(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    a, _ = z.chunk(2, 1)
    a += 1
    return z


def narrower_in_place(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x.half()
    z += y
    return z


def into_out(m: object, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    torch.add(x, y, out=z)
    return z


@pytest.mark.parametrize(
    ("function", "note"),
    [
        (through_a_view, "shares its memory and is read later"),
        (seen_by_a_view, "shares its memory and is read later"),
        (seen_through_a_chunk, "shares its memory and is read later"),
        (narrower_in_place, "have other dtypes"),
        (into_out, "has no functional twin"),
    ],
)
def test_in_place_that_others_see_stays(function: Callable[..., Any], note: str) -> None:
    result = canonical(function, image(2, 4), image(2, 4, seed=1))
    assert len([n for n in notes(result) if note in n]) == 1, notes(result)


def test_in_place_on_a_buffer_stays() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return x + self.count

    result = run(Canonicalize(), Counts(), image(3))
    assert "changed in place" in notes(result)[0]
    first, second = result.graph_module(image(3)), result.graph_module(image(3))
    assert torch.equal(second, first + 1)


def test_one_in_place_module_called_twice() -> None:
    relu = nn.ReLU(inplace=True)
    result = canonical(lambda m, x, y: m.r(x + y) + m.r(x - y), image(3), image(3, seed=1), r=relu)
    assert calls(result).count(vocab.RELU) == 2
    assert relu.inplace


def test_a_long_chain_in_place_stays_linear() -> None:
    def chain(m: object, x: Tensor) -> Tensor:
        x = x * 1
        for _ in range(300):
            x.add_(1)
        return x

    assert calls(canonical(chain, image(3))) == [vocab.MUL] + [vocab.ADD] * 300


# -- stubs, hooks, opaque modules ------------------------------------------------------------------
def test_stubs_become_stubs() -> None:
    result = canonical(nn.Sequential(QuantStub(), nn.ReLU(), DeQuantStub()), image(3))
    assert calls(result) == [vocab.QUANT_STUB, vocab.RELU, vocab.DEQUANT_STUB]


def test_stubs_of_others_are_known_by_name() -> None:
    stub = type("QuantStub", (nn.Module,), {"forward": lambda self, x: x})
    stub.__module__ = "torch.ao.quantization.stubs"
    other = type("QuantStub", (nn.Module,), {"forward": lambda self, x: x})
    result = canonical(nn.Sequential(stub(), other(), nn.ReLU()), image(3))
    assert calls(result) == [vocab.QUANT_STUB, vocab.RELU]


def test_a_module_with_hooks_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, result: result * 2)
    result = canonical(model, image(2, 3))
    assert calls(result) == ["0", vocab.RELU]
    assert "hooks" in notes(result)[0]


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (nn.LSTM(3, 4, proj_size=2), image(5, 2, 3)),
        (nn.Embedding(5, 3, max_norm=1.0), torch.tensor([1, 4])),
        (nn.EmbeddingBag(5, 3, max_norm=1.0), torch.tensor([[1, 4]])),
    ],
)
def test_opaque_modules_stay(module: nn.Module, inputs: Tensor) -> None:
    model = Lambda(lambda m, x: m.layer(x), layer=module).eval()
    assert "layer" in calls(canonical(model, inputs))


# -- attention -------------------------------------------------------------------------------------
ATTENTION = [
    (options, shape)
    for options in ({}, {"bias": False}, {"batch_first": True})
    for shape in ((5, 2, 8), (5, 8))
]


@pytest.mark.parametrize(("options", "shape"), ATTENTION)
@pytest.mark.parametrize("need_weights", [True, False])
def test_self_attention(
    options: dict[str, Any], shape: tuple[int, ...], need_weights: bool
) -> None:
    attention = nn.MultiheadAttention(8, 2, **options)
    nn.init.normal_(attention.out_proj.weight)

    def function(m: Any, x: Tensor) -> Any:
        return m.attn(x, x, x, need_weights=need_weights)

    model = Lambda(function, attn=attention).eval()
    result = canonical(model, image(*shape), atol=1e-5)
    assert calls(result).count(vocab.LINEAR) == 2
    expected = vocab.ATTENTION_WEIGHTS if need_weights else vocab.ATTENTION
    assert expected in calls(result)
    assert "attn.in_proj_weight" in result.graph_module.state_dict()
    for other in [(s + 3, *shape[1:]) for s in shape[:1]]:
        assert_same(result, model, image(*other), atol=1e-5)
    if len(shape) == 3:
        assert_same(result, model, image(4, 7, 8), atol=1e-5)


def cross(m: Any, query: Tensor, memory: Tensor) -> Any:
    return m.attn(query, memory, memory * 2, average_attn_weights=False)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("dims", [{}, {"kdim": 6, "vdim": 6}])
def test_cross_attention(dims: dict[str, int], batch_first: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **dims)
    memory = image(3, 3, dims.get("kdim", 8), seed=1)
    result = canonical(cross, image(3, 3, 8), memory, atol=1e-6, attn=attention)
    assert calls(result).count(vocab.LINEAR) == 4
    constants = {n.target for n in result.graph_module.graph.nodes if n.op == "get_attr"}
    assert "attn.in_proj_bias_k" in constants
    assert ("attn.k_proj_weight" if dims else "attn.in_proj_weight_k") in constants


MASKS = {
    "attn_mask": [
        torch.triu(torch.ones(4, 4, dtype=torch.bool), 1),
        torch.triu(torch.full((4, 4), -2.0), 1),
        torch.triu(torch.full((6, 4, 4), -2.0), 1) * torch.arange(6).view(6, 1, 1),
    ],
    "key_padding_mask": [
        torch.tensor([[False] * 4, [False, False, True, True], [False, True, True, True]]),
        torch.tensor([[0.0] * 4, [0.0, -1.0, 0.5, 0.0], [0.0, 0.0, 2.0, 0.0]]),
    ],
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    ("name", "mask"), [(name, mask) for name, masks in MASKS.items() for mask in masks]
)
def test_attention_masks(name: str, mask: Tensor, need_weights: bool) -> None:
    def function(m: Any, x: Tensor, mask: Tensor) -> Any:
        return m.attn(x, x, x, need_weights=need_weights, **{name: mask})

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    canonical(function, image(3, 4, 8), mask, atol=1e-6, attn=attention)


def test_both_attention_masks_at_once() -> None:
    def function(m: Any, x: Tensor, first: Tensor, second: Tensor) -> Any:
        return m.attn(x, x, x, attn_mask=first, key_padding_mask=second)[0]

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    masks = MASKS["attn_mask"][0], MASKS["key_padding_mask"][0]
    canonical(function, image(3, 4, 8), *masks, atol=1e-6, attn=attention)


@pytest.mark.parametrize(
    ("options", "training", "note"),
    [
        ({"dropout": 0.5}, True, "attention with dropout, in training"),
    ],
)
def test_attention_that_stays_whole(options: dict[str, Any], training: bool, note: str) -> None:
    model = Lambda(lambda m, x: m.attn(x, x, x)[0], attn=nn.MultiheadAttention(8, 2, **options))
    result = run(Canonicalize(), model.train(training), image(4, 3, 8))
    assert calls(result)[0] == "attn"
    assert note in notes(result)[0]


def layer(kind: type[nn.Module], **options: Any) -> nn.Module:
    return kind(8, 2, 16, batch_first=True, dropout=0.1, **options)


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder(norm_first: bool) -> None:
    one = layer(nn.TransformerEncoderLayer, norm_first=norm_first)
    encoder = nn.TransformerEncoder(one, 2, enable_nested_tensor=False).eval()
    result = canonical(encoder, image(2, 5, 8), atol=1e-5)
    assert calls(result).count(vocab.LINEAR) == 8
    assert not [c for c in calls(result) if not isinstance(c, OpDef)]
    assert_same(result, encoder, image(3, 7, 8), atol=1e-5)


def test_transformer_with_masks() -> None:
    transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    result = canonical(transformer, image(2, 5, 8), image(2, 4, 8), None, mask, atol=1e-5)
    assert calls(result).count(vocab.ATTENTION) == 3
    assert_same(result, transformer, image(3, 6, 8), image(3, 4, 8), None, mask, atol=1e-5)


def test_the_history_names_the_family_that_rewrote_a_call() -> None:
    def forward(m: object, x: Tensor) -> Tensor:
        x.abs()
        return torch.relu_(F.dropout(x * 2, 0.5, False).float()).view(x.shape[0], -1)

    result = canonical(forward, image(*X))
    rules = {event.rule for event in result.history["canonicalize"].events}
    families = ("rename-spellings", "dropouts", "casts", "sizes", "remove-unread")
    assert {f"canonicalize/{name}" for name in families} <= rules
