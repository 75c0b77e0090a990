"""The module in whose place a region is, as it is written, over the weights of the region's graphs.

It computes the calls that no graph takes, layer by layer. Each weight is restored from the codes of
the graphs when it is read, so that there is one set of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from qfx.graph.in_place import READS
from qfx.graph.lazy import lazily
from qfx.private_attributes import FLAT_WEIGHTS, flat_weight_names, tensors_held
from qfx.runtime.held import Restored
from qfx.runtime.likeness import Constants, standing_for
from qfx.runtime.quantized import QuantizedModel

_HELD, _SHAPES = "_held", "_shapes"


def over_codes(module: nn.Module, graphs: Sequence[QuantizedModel]) -> tuple[nn.Module, int]:
    """``module`` over the weights of ``graphs``, and how many bytes it needs besides.

    Args:
        module: in eval mode; used up.
        graphs: quantized, of this module.
    """
    constants = [Constants(graph.reference, at) for at, graph in enumerate(graphs)]
    made: dict[int, Restored | Tensor] = {}
    for path, owner in list(module.named_modules()):
        held: dict[str, Restored] = {}
        for registry in tensors_held(owner):
            for name, tensor in list(registry.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = standing_for(constants, path, name, tensor)
                standing = made[id(tensor)]
                if isinstance(standing, Tensor):
                    registry[name] = standing
                else:
                    held[name] = standing
                    del registry[name]
        if held:
            hold(owner, held)
    theirs = {id(t) for each in constants for t in each.tensors}
    return module, sum(
        t.numel() * t.element_size()
        for t in {id(t): t for t in _tensors(module)}.values()
        if id(t) not in theirs
    )


# -- how a module reads it ------------------------------------------------------------------------
def hold(owner: nn.Module, held: dict[str, Restored]) -> None:
    """Let ``owner`` restore weights when they are read, as parametrized modules compute theirs."""
    vars(owner)[_HELD] = held
    vars(owner)[READS] = _read
    kind = type(owner)
    body: dict[str, Any] = {name: property(_restored(name)) for name in held}
    body["_apply"] = _apply
    if isinstance(owner, nn.RNNBase):
        del vars(owner)[FLAT_WEIGHTS]
        body[FLAT_WEIGHTS] = property(_flat_weights, lambda self, flat: None)
    owner.__class__ = type(kind.__name__, (kind,), body)


def weights_held(module: nn.Module) -> Iterator[tuple[str, Restored]]:
    """The weights of a module that are restored when they are read, by all of their names."""
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, held in vars(owner).get(_HELD, {}).items():
            yield f"{path}.{name}".lstrip("."), held


def _flat_weights(self: nn.RNNBase) -> list[Tensor]:
    """What a recurrent layer keeps in a list and puts together anew in every call."""
    return [getattr(self, name) for name in flat_weight_names(self)]


def _read(owner: nn.Module, name: str) -> Any:
    """What code around a region reads of it: weights are restored only if it computes with them."""
    held = vars(owner)[_HELD].get(name)
    if held is None:
        return getattr(owner, name)
    known = vars(owner).setdefault(_SHAPES, {})
    if name not in known:
        known[name] = held.value().to("meta")
    return lazily(known[name], held.value, held.device)


def _restored(name: str) -> Callable[[nn.Module], Tensor]:
    return lambda self: vars(self)[_HELD][name].value()


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    held = vars(self)[_HELD]
    vars(self)[_HELD] = {name: each.converted(fn) for name, each in held.items()}
    kind: type[nn.Module] = type(self).__mro__[1]
    made: nn.Module = kind._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
    return made


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for each in module.modules():
        for held in vars(each).get(_HELD, {}).values():
            yield from held.tensors()
