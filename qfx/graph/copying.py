"""The copy of a model that is traced, and what tracing must leave as it was."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from qfx.caller_modes import undisturbed
from qfx.errors import CaptureError, ConfigError
from qfx.graph.clone import deep_copy
from qfx.graph.containers import is_size
from qfx.graph.locks import CAPTURE_LOCK
from qfx.graph.overlap import overwrite, version
from qfx.private_attributes import (
    COMPILED,
    buffers_held,
    compiled_from,
    forward_pre_hooks,
    modules_held,
)
from qfx.torch_private import pytree


class Holder(nn.Module):
    """Holds a model that is itself a leaf."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training


def check_model(model: nn.Module) -> None:
    """Raise unless ``model`` is a module that can be copied and traced at all."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"expected an nn.Module, got {type(model).__name__}")
    check_told_apart(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            f"the model is a {type(model).__name__}, compiled by TorchScript, which has no Python "
            "left to trace. What to do: pass the nn.Module that it was made from; to one that is "
            "built anew, load_state_dict(model.state_dict()) gives the weights of a saved file."
        )
    if compiled_from(model) is not None:
        raise CaptureError(
            f"the model is wrapped by torch.compile. What to do: pass model.{COMPILED}, and "
            "compile the result."
        )
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise CaptureError(
            f"the model is wrapped in {type(model).__name__}. What to do: pass model.module."
        )
    lazy = [n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise CaptureError(
            f"parameter {lazy[0]!r} is not initialized yet (a lazy module). "
            "What to do: run the model once before."
        )
    if model.training and any(map(_makes_weights, forward_pre_hooks(model).values())):
        raise CaptureError(
            "a hook of the model itself computes its weights (weight norm, spectral norm or "
            "pruning), and the model is in training mode. What to do: make the hook permanent "
            "(torch.nn.utils.remove_weight_norm and the like), or use "
            "torch.nn.utils.parametrizations."
        )


def check_told_apart(model: nn.Module) -> None:
    """Raise where a class of modules compares by value, so that PyTorch takes two for one.

    Its own walks (``named_modules``, ``state_dict``, ``eval``) keep sets of the modules met.
    """
    met: dict[nn.Module, tuple[nn.Module, str]] = {}
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        kind, where = type(module).__name__, f"module {path!r}" if path else "the model"
        advice = f"What to do: give {kind} `__eq__ = object.__eq__; __hash__ = object.__hash__`."
        if type(module).__hash__ is None:
            raise CaptureError(
                f"{where} is a {kind}, which has __eq__ and no __hash__: PyTorch can't walk through"
                f" the modules of such a model. {advice}"
            )
        first, name = met.setdefault(module, (module, where))
        if first is not module:
            raise CaptureError(
                f"{name} and {where} are equal by the __eq__ of {kind}: PyTorch takes them for one,"
                f" and finds the parameters of the first alone. {advice}"
            )
        if name == where:  # else it was met by another name
            children = reversed(modules_held(module).items())
            waiting += [(f"{path}.{n}".lstrip("."), m) for n, m in children if m is not None]


def copy_of(model: nn.Module, tensors: Mapping[Tensor, Tensor] | None = None) -> nn.Module:
    """A deep copy whose reparametrized weights are plain parameters where they are not trained.

    Args:
        model: what is copied; not changed.
        tensors: what the copy has in the place of a tensor.
    """
    root = deep_copied(model, None, tensors)
    for module in list(root.modules()):
        if not module.training:
            _bake_weights(module)
    return root


def deep_copied(
    model: nn.Module,
    in_place: Mapping[nn.Module, nn.Module] | None = None,
    tensors: Mapping[Tensor, Tensor] | None = None,
) -> nn.Module:
    """A deep copy of a model that has run; with some of its modules replaced.

    Args:
        model: what is copied; not changed.
        in_place: what the copy has in the place of a module, wherever it is mentioned.
        tensors: what it has in the place of a tensor.

    Raises:
        CaptureError: it can't be deep-copied.
    """
    replaced = in_place or {}
    memo: dict[int, Any] = {id(module): made for module, made in replaced.items()}
    memo.update((id(tensor), made) for tensor, made in (tensors or {}).items())
    inner = {id(m) for module in replaced for m in module.modules()}
    for module in (m for m in model.modules() if id(m) not in inner):
        memo.update((id(held), OrderedDict()) for held in vars(module).values() if _is_bare(held))
    try:
        return deep_copy(model, memo)
    except Exception as error:
        raise CaptureError(
            f"the model can't be deep-copied: {type(error).__name__}: {error}\n"
            "What to do: make copy.deepcopy(model) work; usually a module keeps something that "
            "can't be copied, such as a lock, a file or a generator."
        ) from error


def _is_bare(held: object) -> bool:
    """Whether something is an empty dict as modules hold a dozen: deepcopy takes long for these."""
    return type(held) is OrderedDict and not held and not vars(held)


def inference_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, whose reparametrized weights are plain parameters.

    Raises:
        CaptureError: the model can't be captured.
    """
    model_in_eval = nn.Module.train(deep_copied(model), False)  # exported ones refuse .eval()
    check_model(model_in_eval)
    return model_in_eval


def computed_weights(model: nn.Module) -> list[str]:
    """Paths of the modules whose weights are computed: weight norm, spectral norm, pruning."""
    return [
        path or "the model itself"
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module)
        or any(map(_makes_weights, forward_pre_hooks(module).values()))
    ]


def _makes_weights(hook: object) -> TypeGuard[WeightNorm | SpectralNorm | BasePruningMethod]:
    return isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod))


def _bake_weights(module: nn.Module) -> None:
    """Replace weight norm, spectral norm, pruning and the like by the weight that they yield."""
    if parametrize.is_parametrized(module):
        _bake_parametrizations(module)
    for key, hook in list(forward_pre_hooks(module).items()):
        if _makes_weights(hook):
            hook.remove(module)
            del forward_pre_hooks(module)[key]


def _bake_parametrizations(module: nn.Module) -> None:
    """As ``parametrize.remove_parametrizations``, which would change the class of the original."""
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    values = {name: getattr(module, name).detach() for name in lists}
    trained = {name: any(True for _ in lists[name].parameters()) for name in lists}
    kind = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    module.__class__ = kind
    for name, value in values.items():
        if trained[name]:
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)


@contextmanager
def side_effects_undone(model: nn.Module | None = None) -> Iterator[None]:
    """No gradients, autocast or fast path of attention; random state restored, of devices too.

    One thread at a time: of two, the second would find, and put back, what the first has set.
    """
    tensors = () if model is None else _tensors(model)
    devices = {t.device.index for t in tensors if t.device.type == "cuda"}
    with CAPTURE_LOCK, ExitStack() as undo:  # whatever fails to be undone, the rest is
        fast_path = torch.backends.mha.get_fastpath_enabled()
        undo.callback(random.setstate, random.getstate())
        if "numpy.random" in sys.modules:  # which need not be installed
            numpy_random: Any = sys.modules["numpy.random"]
            undo.callback(numpy_random.set_state, numpy_random.get_state())
        undo.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        known = sorted(device for device in devices if device is not None)
        undo.enter_context(torch.random.fork_rng(devices=known))
        undo.enter_context(undisturbed())
        undo.enter_context(torch.no_grad())
        yield


def apart_from_buffers(value: Any, root: nn.Module) -> Any:
    """``value`` with copies of the tensors that lie in a buffer, which is about to be restored."""
    buffers = (b for b in root.buffers() if isinstance(b, torch.Tensor))  # forward may set others
    memory = {b.untyped_storage().data_ptr() for b in buffers if b.layout is torch.strided}

    def copied(leaf: Any) -> Any:
        is_plain = isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided
        return leaf.clone() if is_plain and leaf.untyped_storage().data_ptr() in memory else leaf

    return pytree.tree_map(copied, value, is_leaf=is_size)


@contextmanager
def parameters_restored(root: nn.Module, original: nn.Module) -> Iterator[set[str]]:
    """Parameters of a copy that a run writes to are put back to those of the original.

    Yields a set for the names of more of them: writing to ``parameter.data`` is not counted.
    """
    written: set[str] = set()
    before = {name: version(p) for name, p in root.named_parameters()}
    try:
        yield written
    finally:
        kept = dict(original.named_parameters())
        for name, parameter in root.named_parameters():
            is_written = name in written or before.get(name) != version(parameter)
            if is_written and name in kept:
                overwrite(parameter, kept[name])


@contextmanager
def buffers_restored(root: nn.Module) -> Iterator[None]:
    """Statistics that the run of the examples moves are put back."""
    with ExitStack() as undo:
        for module in root.modules():
            for name, buffer in buffers_held(module).items():
                if buffer is not None:
                    undo.callback(_restore, module, name, buffer, buffer.clone())
        yield


def _restore(module: nn.Module, name: str, buffer: torch.Tensor, before: torch.Tensor) -> None:
    buffers_held(module)[name] = buffer
    overwrite(buffer, before)


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()
