"""Names of PyTorch that need not be there."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.capture.capture import capture
from qfx.graph.copying import buffers_restored, side_effects_undone
from qfx.private_attributes import COMPILED, OVERRIDDEN, compiled_from
from qfx.torch_private import (
    BATCH_NORMS,
    DETECT_CAUSAL,
    DROPOUTS,
    DTYPE_OF_MASK,
    HOOK_STATE,
    HOOKS,
    OVERLOAD,
    PACKET,
    Missing,
    _kind,
    find,
    lacking,
    schema_arguments,
    wrapped,
)
from tests.support.sources import SOURCES, nodes


def test_what_is_there_is_found() -> None:
    assert find("torch.relu") is torch.relu
    assert find("torch.ops.aten.relu.default") is torch.ops.aten.relu.default


@pytest.mark.parametrize(
    "path", ["torch.nope", "torch.ops.aten.nope.default", "torch.ops.nope.nope", "torch.nope.nope"]
)
def test_what_is_missing_says_so_when_it_is_called(path: str) -> None:
    stand_in = find(path)
    assert isinstance(stand_in, Missing)
    with pytest.raises(qfx.BackendError, match=rf"PyTorch {torch.__version__[:3]}.* has no {path}"):
        stand_in(1, of=2)


def test_a_way_without_takes_its_place() -> None:
    assert find("torch.nope", instead=torch.relu) is torch.relu
    assert find("torch.relu", instead=torch.sigmoid) is torch.relu


def test_lacking_names_what_is_missing() -> None:
    assert lacking(("torch.relu", "torch.nope", "torch.ops.aten.nope")) == (
        "torch.nope",
        "torch.ops.aten.nope",
    )


# -- wrapped functions ---------------------------------------------------------------------------
def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: 2 * function(*args)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(one=lambda: 1, two=lambda: 2)
    monkeypatch.setattr(torch, "house", made, raising=False)
    return made


def test_wrapped_while_entered(house: SimpleNamespace) -> None:
    one = house.one
    with wrapped({"torch.house.one": doubled, "torch.house.two": doubled}):
        assert (house.one(), house.two()) == (2, 4)
    assert house.one is one
    assert house.two() == 2


def test_what_is_missing_is_left_out(house: SimpleNamespace) -> None:
    with wrapped(
        {"torch.house.three": doubled, "torch.nope.one": doubled, "torch.house.one": doubled}
    ):
        assert house.one() == 2
    assert house.one() == 1
    assert not hasattr(house, "three")


def test_an_error_inside_undoes_all(house: SimpleNamespace) -> None:
    with pytest.raises(ZeroDivisionError), wrapped({"torch.house.one": doubled}):
        raise ZeroDivisionError
    assert house.one() == 1


def test_a_wrapper_that_fails_undoes_those_before(house: SimpleNamespace) -> None:
    def fails(function: Callable[..., Any]) -> Callable[..., Any]:
        raise ValueError("no")

    with (
        pytest.raises(ValueError, match="no"),
        wrapped({"torch.house.one": doubled, "torch.house.two": fails}),
    ):
        pass
    assert (house.one(), house.two()) == (1, 2)


def test_one_that_cannot_be_undone_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stuck:
        def __init__(self) -> None:
            vars(self).update(one=lambda: 1, sets=0)

        def __setattr__(self, name: str, value: object) -> None:
            vars(self)["sets"] += 1
            if vars(self)["sets"] == 3:  # once each to wrap, then the first to be undone
                raise RuntimeError("stuck")
            vars(self)[name] = value

    stuck = Stuck()
    vars(stuck)["two"] = lambda: 2
    monkeypatch.setattr(torch, "stuck", stuck, raising=False)
    with (
        pytest.raises(RuntimeError, match="stuck"),
        wrapped({"torch.stuck.one": doubled, "torch.stuck.two": doubled}),
    ):
        pass
    assert stuck.one() == 1
    assert stuck.two() == 4


def test_what_someone_else_put_there_stays(house: SimpleNamespace) -> None:
    with wrapped({"torch.house.one": doubled}):
        house.one = lambda: 7
    assert house.one() == 7


# -- capture without the names that it wraps -----------------------------------------------------
class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x, src_mask=mask)


HELPERS = (DETECT_CAUSAL, DTYPE_OF_MASK)
MASK = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)


@pytest.mark.parametrize(
    "gone", [(DETECT_CAUSAL,), (DTYPE_OF_MASK,), (DETECT_CAUSAL, DTYPE_OF_MASK)]
)
def test_captures_where_they_are_missing(
    gone: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that renames its helpers."""
    for path in gone:
        place, _, name = path.rpartition(".")
        owner = attrgetter(place.removeprefix("torch."))(torch)
        monkeypatch.delattr(owner, name)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    x = torch.randn(2, 4)
    torch.testing.assert_close(capture(model, (x,))(x), model(x))


def test_masks_are_seen_through_where_they_are_there() -> None:
    model, x = Attends().eval(), torch.randn(2, 3, 8)
    with torch.no_grad():
        graph = capture(model, (x, MASK))
        torch.testing.assert_close(graph(x, MASK), model(x, MASK))
        torch.testing.assert_close(
            graph(x, 0 * MASK.nan_to_num(neginf=0)), model(x, torch.zeros(3, 3))
        )


# -- what capture changes in the process ---------------------------------------------------------
def test_one_side_effect_that_cannot_be_undone_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stuck(enabled: bool) -> None:
        if enabled:
            raise RuntimeError("stuck")

    monkeypatch.setattr(torch.backends.mha, "set_fastpath_enabled", stuck)
    before = random.getstate()

    def draw() -> None:
        with side_effects_undone(nn.Identity()):
            random.random()

    with pytest.raises(RuntimeError, match="stuck"):
        draw()
    assert random.getstate() == before
    assert torch.is_grad_enabled()


def test_one_buffer_that_cannot_be_restored_does_not_keep_the_others() -> None:
    module = nn.Module()
    for name in ("first", "stuck", "last"):
        module.register_buffer(name, torch.zeros(2))
    with torch.inference_mode():
        module.stuck = torch.zeros(2)

    def write() -> None:
        with buffers_restored(module):
            module.first += 1
            module.last = torch.ones(2)

    with pytest.raises(RuntimeError, match="inference tensor"):
        write()
    assert module.first.tolist() == module.last.tolist() == [0.0, 0.0]


# -- in one place --------------------------------------------------------------------------------
PLACES = ("torch_private.py", "private_attributes.py")
LINEAR = fx.symbolic_trace(nn.Linear(1, 1))
OBJECTS = (
    *(LINEAR, LINEAR.graph, next(iter(LINEAR.graph.nodes)), fx.Tracer(), fx.Interpreter(LINEAR)),
    *(nn.LSTM(1, 1), nn.parallel.DistributedDataParallel, torch.zeros(1), nn.Parameter),
    *(torch.ops.aten.relu, torch.ops.aten.relu.default, torch.dtype, torch.device, torch.Size),
)
"""Of each kind of object of PyTorch that qfx has to do with."""

ATTRIBUTES = {
    name
    for each in OBJECTS
    for name in dir(each)
    if name.startswith("_") and not name.startswith("__")
} | {COMPILED}
ATTRIBUTES -= set(OVERRIDDEN)
"""Their private attributes, whatever they are called on."""


def private_names(path: Path) -> Iterator[str]:
    """Private names of torch's modules: reached, looked up by their paths, or imported."""
    for node in nodes(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("find", "lacking"):
            yield from re.findall(r"torch[.\w]*\._[a-z]\w*", ast.unparse(node))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[1] != "_":
            owner = ast.unparse(node.value)
            if owner.partition(".")[0] in ("torch", "F", "nn", "fx", "aten"):
                yield f"{owner}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if any(part.startswith("_") for part in parts):
                yield f"{node.module}: {', '.join(alias.name for alias in node.names)}"


def private_attributes(path: Path) -> Iterator[str]:
    """Private attributes of torch's objects: read, written, or named in a string."""
    own = {
        node.attr
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    own |= {node.name for node in nodes(path) if isinstance(node, ast.FunctionDef)}
    for node in nodes(path):
        if isinstance(node, ast.Constant) and node.value in ATTRIBUTES - own:
            yield repr(node.value)
        if not isinstance(node, ast.Attribute) or node.attr not in ATTRIBUTES:
            continue
        if ast.unparse(node.value) != "self" or node.attr not in own:
            yield ast.unparse(node)


def test_private_names_of_pytorch_are_looked_up_in_one_place() -> None:
    for path in SOURCES:
        assert path.name in PLACES or list(private_names(path)) == [], path


def test_private_attributes_of_pytorch_are_reached_in_one_place() -> None:
    found = {p: sorted(private_attributes(p)) for p in SOURCES if p.name not in PLACES}
    assert {str(path): names for path, names in found.items() if names} == {}


def test_a_private_path_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "planted.py"
    path.write_text('f = find("torch.ops.aten._nope"); g = find("torch.ops.aten.nope.default")')
    assert list(private_names(path)) == ["torch.ops.aten._nope"]


@pytest.mark.slow  # loads the compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_compiled_tells_of_what() -> None:
    module = nn.Linear(1, 1)
    assert compiled_from(torch.compile(module)) is module
    assert compiled_from(module) is None


@pytest.mark.parametrize(
    "line",
    [
        "Tensor._make_wrapper_subclass(kind, shape)",
        "module._parameters[name] = value",
        "self._buffers",
        "getattr(node, '_erased', False)",
        "kind._schema.name",
        "super()._replicate_for_data_parallel()",
    ],
)
def test_a_private_attribute_is_seen(line: str, tmp_path: Path) -> None:
    path = tmp_path / "planted.py"
    path.write_text(line)
    assert len(list(private_attributes(path))) == 1


@pytest.mark.parametrize("operator", [torch.ops.aten.add.Tensor, torch.ops.aten.relu.default])
def test_types_of_operators(operator: Any) -> None:
    assert isinstance(operator, OVERLOAD)
    assert isinstance(operator.overloadpacket, PACKET)
    arguments = schema_arguments(operator)
    assert arguments is not None
    assert arguments[0].name == "self"


def test_kinds_of_modules() -> None:
    norms = (nn.BatchNorm1d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2))
    dropouts = (nn.Dropout(), nn.Dropout2d(), nn.FeatureAlphaDropout())
    assert all(isinstance(norm, BATCH_NORMS) for norm in norms)
    assert all(isinstance(dropout, DROPOUTS) for dropout in dropouts)
    assert not isinstance(nn.LayerNorm(2), BATCH_NORMS)
    assert _kind("torch.nn.nope", nn.Dropout, nn.AlphaDropout) == (nn.Dropout, nn.AlphaDropout)


def test_hooks_are_attributes_of_modules() -> None:
    assert set(HOOKS) < set(HOOK_STATE) <= set(vars(nn.Module()))
    assert "_forward_hooks" in HOOKS
