"""The modules that a graph calls: those that a file can say all of, and those that it can't.

Some of PyTorch's own layers, and what qfx puts into a graph that is calibrated or trained, are made
from their arguments again. The code of any other is not in the file: who loads it hands the module
in, and that gets its state from the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import FormatError, QfxError
from qfx.graph.clone import deep_copy
from qfx.graph.leaves import has_hooks
from qfx.graph.source import type_name
from qfx.quant.channel_mean import ChannelMean, Reach
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.learned_fake_quant import LearnedFakeQuantize
from qfx.quant.observers.base import Observer
from qfx.quant.observers.guarding import unwritten
from qfx.quant.spec import QuantSpec
from qfx.quant.weight_fake_quant import WeightFakeQuantize
from qfx.storage.fields import Fields, Json
from qfx.storage.values import ValueReader, write_value
from qfx.torch_private import BATCH_NORMS
from qfx.training.dropout import KINDS, AttentionDropout, Dropout
from qfx.training.norm_factor import NormFactor

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


# -- what qfx puts into a graph ------------------------------------------------------------------
@dataclass(frozen=True)
class _Own:
    """A kind of module of qfx's: how its arguments are read off it, and make one.

    Attributes:
        kind: the class; of observers any that has a registered name.
        tell: what makes one like it.
        make: makes one.
        resizes: whether its tensors have the shapes that data gave them.
    """

    kind: type[nn.Module]
    tell: Callable[[Any], dict[str, Any]]
    make: Callable[..., nn.Module]
    resizes: bool = False


def _switches(fake_quant: FakeQuantize) -> dict[str, Any]:
    starts = isinstance(fake_quant, WeightFakeQuantize) and fake_quant.start is not None
    return {
        "spec": fake_quant.spec,
        "observes": fake_quant.observer_enabled,
        "rounds": fake_quant.fake_quant_enabled,
        "moved": fake_quant.moved,
        **({"starts": True} if starts else {}),
    }


def _fake_quant(
    kind: type[FakeQuantize],
    spec: QuantSpec,
    observes: bool,
    rounds: bool,
    moved: bool,
    starts: bool = False,
) -> FakeQuantize:
    made: FakeQuantize
    if kind is WeightFakeQuantize:
        made = WeightFakeQuantize(spec, None, starts=starts)  # what it starts from is its state
    else:
        made = kind(spec)
    made.observer_enabled, made.fake_quant_enabled, made.moved = observes, rounds, moved
    return made


def _reach(mean: ChannelMean) -> dict[str, Any]:
    parts = None if mean.reach is None else tuple(asdict(mean.reach).values())
    return {"axis": mean.axis, "reach": parts}


def _channel_mean(axis: int, reach: tuple[tuple[int, ...], ...] | None) -> ChannelMean:
    return ChannelMean(axis, None if reach is None else Reach(*reach))


def _dropout(p: float, kind: str) -> Dropout:
    if kind not in KINDS:
        raise ValueError(f"no dropout is called {kind!r}")
    return Dropout(p, kind)


def _maker(kind: type[FakeQuantize]) -> Callable[..., nn.Module]:
    def make(**arguments: Any) -> nn.Module:
        return _fake_quant(kind, **arguments)

    return make


OWN: dict[str, _Own] = {
    "qfx.Observer": _Own(
        Observer, lambda m: {"spec": m.spec}, lambda spec: spec.make_observer(), True
    ),
    **{
        f"qfx.{kind.__name__}": _Own(kind, _switches, _maker(kind), True)
        for kind in (FakeQuantize, LearnedFakeQuantize, WeightFakeQuantize)
    },
    "qfx.ChannelMean": _Own(ChannelMean, _reach, _channel_mean, True),
    "qfx.Dropout": _Own(Dropout, lambda m: {"p": m.p, "kind": m.kind}, _dropout),
    "qfx.AttentionDropout": _Own(
        AttentionDropout, lambda m: {"p": m.p, "flags": m.flags}, AttentionDropout
    ),
    "qfx.NormFactor": _Own(NormFactor, lambda m: {"eps": m.eps}, NormFactor),
}
"""What a file calls the modules of qfx's own."""


_OF_NORMS = {"weight", "bias", "running_mean", "running_var"}
"""What graphs read of a batch-norm's own; of one whose class is unknown, too."""


# -- writing -------------------------------------------------------------------------------------
def write_kind(module: nn.Module, read: Set[str]) -> tuple[dict[str, Json], frozenset[str]]:
    """What kind of module it is, and what makes one like it if that says all of it.

    Passes put tensors into a layer for the graph to read, which making it does not bring back:
    the shift of a batch-norm's bias, say. They are told besides.

    Args:
        module: any.
        read: the names of its tensors that the graph reads.
    """
    for name, own in OWN.items():
        if type(module) is own.kind or (own.kind is Observer and isinstance(module, Observer)):
            return {"type": name, "arguments": _own_arguments(own, module)}, frozenset()
    plain = _plain_arguments(module, read)
    if plain is None:
        put = read - _OF_NORMS if isinstance(module, BATCH_NORMS) else ()
        return {"type": type_name(type(module))}, frozenset(put)
    arguments, added = plain
    return {"type": type(module).__name__, "arguments": arguments}, added


def _own_arguments(own: _Own, module: nn.Module) -> dict[str, Json]:
    told = own.tell(module)
    spec = told.get("spec")
    if isinstance(module, Observer) and type(module) is not module.spec.observer_class:
        raise FormatError(f"{module} is not the observer that its spec names")
    lost = unwritten(module) if isinstance(module, Observer) else ()
    if lost:
        raise FormatError(
            f"{module} keeps {', '.join(lost)} in plain attributes, which would be lost: let its "
            "__init__ call self.register_buffer(name, tensor) for what record() changes"
        )
    if isinstance(spec, QuantSpec):
        try:
            spec.to_dict()
        except QfxError as error:
            raise FormatError(str(error)) from None
    return {name: write_value(value) for name, value in told.items()}


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all of their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _plain_arguments(
    module: nn.Module, read: Set[str]
) -> tuple[dict[str, Json], frozenset[str]] | None:
    """The arguments that make such a module, if they say all of it but what the graph reads."""
    if plain_modules().get(type(module).__name__) is not type(module) or has_hooks(module):
        return None
    told = _told(module)
    if told is None:
        return None
    made, written = told
    added = frozenset(dict(named_tensors(module)).keys() - dict(named_tensors(made)).keys())
    return (written, added) if added <= read and _is_alike(made, module, added) else None


def arguments_of(module: nn.Module) -> dict[str, Json] | None:
    """The arguments of one of PyTorch's layers, whatever it holds besides; None of any other."""
    if plain_modules().get(type(module).__name__) is not type(module):
        return None
    told = _told(module)
    return None if told is None else told[1]


def _told(module: nn.Module) -> tuple[nn.Module, dict[str, Json]] | None:
    """A layer made of the arguments that a module has as attributes, and they as JSON."""
    arguments = {}
    for name in _parameters(type(module)):
        if hasattr(module, name):
            value = getattr(module, name)
            arguments[name] = value is not None if name == "bias" else value
    try:
        made = _make_plain(type(module), arguments)
        return made, {name: write_value(value) for name, value in arguments.items()}
    except (FormatError, TypeError, ValueError, RuntimeError):
        return None


_OTHERS = ("self", "device", "dtype", "args", "kwargs")


def _parameters(kind: type[nn.Module]) -> list[str]:
    names = inspect.signature(kind.__init__).parameters
    return [name for name in names if name not in _OTHERS]


def _make_plain(kind: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return kind(**arguments)


def _is_alike(made: nn.Module, module: nn.Module, added: Set[str]) -> bool:
    ours = dict(named_tensors(made))
    theirs = {name: tensor for name, tensor in named_tensors(module) if name not in added}
    if ours.keys() != theirs.keys() or any(ours[n].shape != theirs[n].shape for n in ours):
        return False
    plain = (bool, int, float, str, tuple, type(None))
    said = ({k: v for k, v in vars(m).items() if k != "training"} for m in (made, module))
    one, other = ({k: v for k, v in s.items() if isinstance(v, plain)} for s in said)
    return one == other and len(list(made.modules())) == len(list(module.modules()))


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ModuleKind:
    """What kind of module a file asks for.

    Attributes:
        name: its class.
        arguments: what makes it; None where its code is not in the file.
    """

    name: str
    arguments: Mapping[str, Any] | None

    @property
    def is_plain(self) -> bool:
        """Whether it is one of PyTorch's layers, made of its arguments."""
        return self.arguments is not None and self.name not in OWN

    @property
    def resizes(self) -> bool:
        """Whether its tensors have the shapes that data gave them."""
        return self.arguments is not None and self.name in OWN and OWN[self.name].resizes

    def make(self, path: str, given: Mapping[str, nn.Module]) -> nn.Module:
        """A module of the kind, or a copy of the one that was handed in for ``path``."""
        if self.arguments is None:
            if path not in given:
                raise FormatError(f"module {path!r} is a {self.name!r}, which no file brings")
            return deep_copy(given[path], {})
        try:
            if self.name in OWN:
                return OWN[self.name].make(**self.arguments)
            return _make_plain(plain_modules()[self.name], self.arguments)
        except Exception as error:  # whatever arguments of a file make a constructor raise
            raise FormatError(f"module {path!r} can't be made: {error}") from None


def read_kind(fields: Fields) -> ModuleKind:
    """What :func:`write_kind` wrote; the other keys somebody else reads."""
    name = fields.text("type")
    if not fields.has("arguments"):
        fields.any("arguments")
        return ModuleKind(name, None)
    if name not in OWN and name not in plain_modules():
        fields.refuse("type", f"no file can make a {name[:80]!r}")
    given, reader = fields.record("arguments"), ValueReader()
    taken = given.names() if name in OWN else _parameters(plain_modules()[name])
    others = set(given.names()) - set(taken)
    if others:  # such as a device, on which tensors of any size would be made
        fields.refuse("arguments", f"no file says {sorted(others)[0][:80]!r} of a {name}")
    return ModuleKind(
        name, {n: reader.read(given.any(n), f"{given.place}.{n}") for n in given.names()}
    )
