"""What nodes read by name, and the modules that they call: written down, and put together again.

Tensors are registered under the names that they have in the graph. A module that is called is
either one of PyTorch's own that its arguments say all of, or its code is not in the file: then who
loads the file hands it in, and gets its state from the file.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.errors import FormatError
from qfx.graph.leaves import has_hooks
from qfx.graph.lookup import Lookup
from qfx.graph.source import type_name
from qfx.storage.fields import Fields, Json
from qfx.storage.names import check_path
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.storage.values import ValueReader, write_value

_PLAIN = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
    AdaptiveMaxPool3d AlphaDropout AvgPool1d AvgPool2d AvgPool3d BatchNorm1d BatchNorm2d BatchNorm3d
    Bilinear CELU ChannelShuffle CircularPad1d CircularPad2d CircularPad3d ConstantPad1d
    ConstantPad2d ConstantPad3d Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
    CosineSimilarity Dropout Dropout1d Dropout2d Dropout3d ELU Embedding EmbeddingBag
    FeatureAlphaDropout Flatten Fold FractionalMaxPool2d FractionalMaxPool3d GELU GLU GroupNorm
    Hardshrink Hardsigmoid Hardswish Hardtanh Identity InstanceNorm1d InstanceNorm2d InstanceNorm3d
    LPPool1d LPPool2d LPPool3d LayerNorm LeakyReLU Linear LocalResponseNorm LogSigmoid LogSoftmax
    MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d Mish MultiheadAttention PReLU
    PairwiseDistance PixelShuffle PixelUnshuffle RMSNorm RReLU ReLU ReLU6 ReflectionPad1d
    ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d SELU SiLU
    Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign SyncBatchNorm Tanh Tanhshrink
    Threshold Unflatten Unfold Upsample UpsamplingBilinear2d UpsamplingNearest2d ZeroPad1d ZeroPad2d
    ZeroPad3d
"""


@cache
def plain_modules() -> dict[str, type[nn.Module]]:
    """The modules of PyTorch that a file may name; their arguments say all of them."""
    found = ((name, getattr(nn, name, None)) for name in _PLAIN.split())
    return {name: kind for name, kind in found if kind is not None}


# -- writing -------------------------------------------------------------------------------------
def write_attributes(
    graph_module: fx.GraphModule, graphs: Iterable[fx.Graph], store: TensorStore
) -> dict[str, Json]:
    """The tensors that nodes read, and the modules that they call."""
    nodes = [n for g in graphs for n in g.nodes if n.op in ("get_attr", "call_module")]
    called = dict.fromkeys(str(n.target) for n in nodes if n.op == "call_module")
    outer = [path for path in called if not _lies_in(path, called)]
    read = dict.fromkeys(str(n.target) for n in nodes if n.op == "get_attr")
    lookup = Lookup(graph_module)
    modules = [_write_module(path, lookup.get(path), store) for path in outer]
    tensors = [
        _write_tensor(name, lookup.get(name), _is_kept_out(graph_module, name), store)
        for name in read
        if not _lies_in(name, outer)
    ]
    return {"tensors": tensors, "modules": modules}


def _lies_in(name: str, paths: Iterable[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


def _is_kept_out(root: nn.Module, name: str) -> bool:
    path, _, last = name.rpartition(".")
    return last in root.get_submodule(path)._non_persistent_buffers_set


def _write_tensor(name: str, value: object, kept_out: bool, store: TensorStore) -> Json:
    check_path(name)
    if not isinstance(value, Tensor):
        kind = type_name(type(value))
        raise FormatError(f"the graph reads {name!r}, a {kind}; files hold tensors only")
    written: dict[str, Json] = {"name": name}
    kept = store.keep(value, name)
    if kept != name:
        written["tensor"] = kept
    if isinstance(value, nn.Parameter):
        written["parameter"] = True
        written |= {} if value.requires_grad else {"frozen": True}
    return written | ({"kept_out": True} if kept_out else {})


def _write_module(path: str, module: object, store: TensorStore) -> Json:
    check_path(path)
    if not isinstance(module, nn.Module):
        raise FormatError(f"the graph calls {path!r}, which is no module")
    written: dict[str, Json] = {"path": path, "type": type_name(type(module))}
    arguments = _plain_arguments(module)
    if arguments is not None:
        written |= {"type": type(module).__name__, "arguments": arguments}
    state = [_write_tensor(name, tensor, False, store) for name, tensor in _state(module, path)]
    modes = [name for name, each in module.named_modules() if each.training]
    return written | {"state": state} | ({"training": list(modes)} if modes else {})


def _state(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in _named_tensors(module):
        yield f"{path}.{name}", tensor


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _plain_arguments(module: nn.Module) -> dict[str, Json] | None:
    """The arguments that make such a module, if they say all of it."""
    kind = type(module)
    if plain_modules().get(kind.__name__) is not kind or has_hooks(module):
        return None
    arguments = {}
    for name in _parameters(kind):
        if hasattr(module, name):
            value = getattr(module, name)
            arguments[name] = value is not None if name == "bias" else value
    try:
        made = _make_plain(kind, arguments)
        written = {name: write_value(value) for name, value in arguments.items()}
    except (FormatError, TypeError, ValueError, RuntimeError):
        return None
    return written if _is_alike(made, module) else None


_OTHERS = ("self", "device", "dtype", "args", "kwargs")


def _parameters(kind: type[nn.Module]) -> list[str]:
    names = inspect.signature(kind.__init__).parameters
    return [name for name in names if name not in _OTHERS]


def _make_plain(kind: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return kind(**arguments)


def _is_alike(made: nn.Module, module: nn.Module) -> bool:
    ours, theirs = (dict(_named_tensors(m)) for m in (made, module))
    if ours.keys() != theirs.keys() or any(ours[n].shape != theirs[n].shape for n in ours):
        return False
    plain = (bool, int, float, str, tuple, type(None))
    said = ({k: v for k, v in vars(m).items() if k != "training"} for m in (made, module))
    one, other = ({k: v for k, v in s.items() if isinstance(v, plain)} for s in said)
    return one == other and len(list(made.modules())) == len(list(module.modules()))


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AttributeRecord:
    """A tensor under a name.

    Attributes:
        name: qualified, as the graph reads it.
        tensor: its name in the file.
        is_parameter, is_frozen: whether it is a parameter, and one without gradient.
        kept_out: whether ``state_dict`` leaves it out.
    """

    name: str
    tensor: str
    is_parameter: bool
    is_frozen: bool
    kept_out: bool


@dataclass(frozen=True)
class ModuleRecord:
    """A module that the graph calls.

    Attributes:
        path: where it is.
        type_name: its class.
        arguments: what makes it, if it is one of PyTorch's that a file may name.
        state: its tensors.
        training: the paths within it of modules that are in training mode.
    """

    path: str
    type_name: str
    arguments: Mapping[str, Any] | None
    state: tuple[AttributeRecord, ...]
    training: frozenset[str]


def read_attributes(fields: Fields) -> tuple[tuple[AttributeRecord, ...], tuple[ModuleRecord, ...]]:
    """The tensors and modules that a file describes."""
    tensors = tuple(_read_tensor(each) for each in fields.records("tensors"))
    modules = tuple(_read_module(each) for each in fields.records("modules"))
    fields.close()
    return tensors, modules


def _read_tensor(fields: Fields) -> AttributeRecord:
    name = check_path(fields.text("name"))
    record = AttributeRecord(
        name,
        fields.text("tensor", name),
        fields.flag("parameter", False),
        fields.flag("frozen", False),
        fields.flag("kept_out", False),
    )
    fields.close()
    return record


def _read_module(fields: Fields) -> ModuleRecord:
    arguments = None
    if fields.has("arguments"):
        given, reader = fields.record("arguments"), ValueReader()
        arguments = {n: reader.read(given.any(n), f"{given.place}.{n}") for n in given.names()}
    fields.any("arguments")
    record = ModuleRecord(
        check_path(fields.text("path")),
        fields.text("type"),
        arguments,
        tuple(_read_tensor(each) for each in fields.records("state")),
        frozenset(fields.texts("training")),
    )
    fields.close()
    return record


# -- putting together ----------------------------------------------------------------------------
def make_root(
    tensors: Iterable[AttributeRecord],
    modules: Iterable[ModuleRecord],
    source: TensorSource,
    given: Mapping[str, nn.Module],
) -> nn.Module:
    """A module that holds all that a graph reads and calls."""
    root = nn.Module()
    parameters: dict[str, nn.Parameter] = {}
    for record in modules:
        _register(root, record.path, _made(record, source, given, parameters))
    for each in tensors:
        tensor = _value(each, source, parameters)
        _register(root, each.name, tensor, persistent=not each.kept_out)
    return root


def lacking(modules: Iterable[ModuleRecord], given: Mapping[str, nn.Module]) -> list[ModuleRecord]:
    """The modules whose code is not in the file, and that nobody handed in."""
    return [m for m in modules if m.arguments is None and m.path not in given]


def _register(
    root: nn.Module, name: str, value: Tensor | nn.Module, *, persistent: bool = True
) -> None:
    *path, last = name.split(".")
    owner = root
    for atom in path:
        child = owner._modules.get(atom)
        if child is None:
            child = nn.Module()
            _add(owner, atom, child, name)
        owner = child
    _add(owner, last, value, name, persistent=persistent)


def _add(
    owner: nn.Module, atom: str, value: Tensor | nn.Module, name: str, *, persistent: bool = True
) -> None:
    if hasattr(owner, atom):
        raise FormatError(f"the name {name!r} is taken")
    if isinstance(value, nn.Parameter):
        owner.register_parameter(atom, value)
    elif isinstance(value, Tensor):
        owner.register_buffer(atom, value, persistent=persistent)
    else:
        owner.add_module(atom, value)


def _value(
    record: AttributeRecord, source: TensorSource, parameters: dict[str, nn.Parameter]
) -> Tensor:
    """A tensor of the file; a parameter that has two names is one."""
    tensor = source.find(record.tensor)
    if not record.is_parameter:
        return tensor
    if record.tensor not in parameters:
        trains = not record.is_frozen
        if trains and not (tensor.is_floating_point() or tensor.is_complex()):
            raise FormatError(f"{record.name!r} is a parameter of {tensor.dtype} to be trained")
        parameters[record.tensor] = nn.Parameter(tensor, requires_grad=trains)
    return parameters[record.tensor]


def _made(
    record: ModuleRecord,
    source: TensorSource,
    given: Mapping[str, nn.Module],
    parameters: dict[str, nn.Parameter],
) -> nn.Module:
    module = _fresh(record, given)
    own = dict(_named_tensors(module))
    prefix = f"{record.path}."
    stored = {each.name.removeprefix(prefix): each for each in record.state}
    if stored.keys() != own.keys():
        odd = sorted(stored.keys() ^ own.keys())
        raise FormatError(f"module {record.path!r} is another than was saved: {odd[0]!r}")
    for name, each in stored.items():
        tensor = _value(each, source, parameters)
        if tensor.shape != own[name].shape:
            raise FormatError(
                f"module {record.path!r} is another than was saved: {name} has shape "
                f"{tuple(own[name].shape)}, not {tuple(tensor.shape)}"
            )
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        registry: dict[str, Any] = owner._parameters if each.is_parameter else owner._buffers
        if last not in registry:
            raise FormatError(f"module {record.path!r} is another than was saved: {name}")
        registry[last] = tensor
    for path, child in module.named_modules():
        child.training = path in record.training
    return module


def _fresh(record: ModuleRecord, given: Mapping[str, nn.Module]) -> nn.Module:
    if record.path in given:
        return copy.deepcopy(given[record.path])
    kind = plain_modules().get(record.type_name)
    if kind is None or record.arguments is None:
        raise FormatError(f"module {record.path!r} is a {record.type_name!r}, which no file brings")
    try:
        return _make_plain(kind, record.arguments)
    except Exception as error:
        raise FormatError(f"module {record.path!r} can't be made: {error}") from None
