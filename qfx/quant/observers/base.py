"""What every observer is: a module that hands its input through and remembers what it saw.

All it remembers is in buffers, so ``state_dict``, ``deepcopy`` and ``.to(device)`` keep it.
As other modules with statistics, it records in training mode only: ``eval()`` stops it.
``a.merge(b)`` leaves in ``a`` what one observer would hold that had seen the data of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from qfx.errors import CalibrationError, ConfigError
from qfx.private_attributes import buffers_held
from qfx.quant.observers import guarding
from qfx.quant.observers.variants import variant
from qfx.quant.qparams import QParams, choose_qparams, scale_and_zero_point
from qfx.semantics.layout import dense_view

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec

_Self = TypeVar("_Self", bound="Observer")


class Observer(nn.Module):
    """Base of observers; a subclass writes :meth:`record`, :meth:`range` and :meth:`absorb`.

    Args:
        spec: how the observed tensor will be quantized.

    Attributes:
        per_channel: whether the class finds a range per channel (and per group), or one.
        per_tensor: of a per-channel class, the name of the one that does the same per tensor, for
            kernels that take no more.
        measures: whether the class finds qparams at all.
        learns: whether training learns the scale, and the class says where it starts.
        options: names of class attributes that :meth:`with_args` may set.
        batches: how many tensors were recorded.
        failed: whether the last tensor was refused, so that a caller can tell which site it was.
    """

    hands_on: ClassVar[bool] = True  # as graph.inference asks
    per_channel: ClassVar[bool] = False
    per_tensor: ClassVar[str] = "minmax"
    measures: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    recording: Tensor
    batches: Tensor

    def __init_subclass__(cls) -> None:
        """A class that records in a way of its own is tracked by what it records."""
        super().__init_subclass__()
        if "record" in cls.__dict__ and "track" not in cls.__dict__:
            cls.track = Observer.track  # type: ignore[method-assign]

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.failed = False
        self.register_buffer("recording", torch.ones((), dtype=torch.bool))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    # -- for users of observers ------------------------------------------------------------------
    @property
    def enabled(self) -> bool:
        """Whether the observer records in training mode; it hands its input through anyway."""
        return bool(self.recording)

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.recording.fill_(value)

    @property
    def seen(self) -> bool:
        """Whether there is anything to choose qparams from."""
        return bool(self.batches > 0)

    @property
    def lacks_range(self) -> bool:
        """Whether nothing but zeros was seen: every scale is right for these, and none is known."""
        return self.seen and bool(is_empty(*self.extent()).all())

    def forward(self, x: Tensor) -> Tensor:
        """Record ``x`` if enabled and in training mode, and return it."""
        if self.training and self.enabled:
            self.observe(x)
        return x

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Record ``x``; an empty tensor changes nothing.

        Raises:
            CalibrationError: ``x`` is not floating point, or holds NaN or infinite values; then
                nothing of it is recorded.
            ConfigError: recording failed, or wrote to ``x``.
        """
        self.failed = True
        if not x.is_floating_point():
            raise CalibrationError(
                f"only floating-point tensors have a range to observe, not {x.dtype}"
            )
        if x.numel() > 0:
            guarding.record(self, x.detach().float())
            self.batches.add_(1)
        self.failed = False

    @torch.no_grad()
    def track(self, x: Tensor) -> bool:
        """:meth:`observe` in training, which goes on where calibration stops.

        A batch with NaN or infinite values, as a gradient scaler provokes, is passed over.
        Observers of training don't wait for the device to say what a tensor holds.

        Returns:
            False where nothing was recorded; True also where the device alone knows.
        """
        try:
            self.observe(x)
        except CalibrationError:
            self.failed = False
            return False
        return True

    def scale_and_zero_point(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point for what was seen, as tensors: 0-dim, (C,) or (C, G)."""
        return scale_and_zero_point(*guarding.ends(self), self.spec)

    def qparams(self) -> QParams:
        """Quantization parameters for what was seen.

        Raises:
            CalibrationError: nothing was seen, or the range is none: inverted, not finite.
        """
        if not self.seen:
            raise CalibrationError(
                "the observer has seen no data; run calibration data through the prepared model"
            )
        return choose_qparams(*guarding.checked_ends(self), self.spec)

    @torch.no_grad()
    def merge(self: _Self, other: _Self) -> None:
        """Take over what ``other``, an observer of the same class and spec, has seen.

        Raises:
            ConfigError: the two don't observe the same way.
        """
        if type(self) is not type(other) or self.spec != other.spec:
            raise ConfigError(
                f"can't merge {type(other).__name__} of {other.spec} into"
                f" {type(self).__name__} of {self.spec}: merge observers of one kind"
            )
        if not other.seen:
            return
        self.absorb(other)
        self.batches.add_(other.batches.to(self.batches.device))

    def reset(self) -> None:
        """Forget everything seen."""
        for name, blank in self._fresh().items():
            setattr(self, name, blank.clone())

    @torch.no_grad()
    def clear(self) -> None:
        """Forget everything seen, in place: the next tensor is as large as the last."""
        for name, blank in self.blanks().items():
            self.get_buffer(name).copy_(blank)

    def _fresh(self) -> dict[str, Tensor]:
        """The buffers of a new observer, without the switch; made once."""
        device = self.recording.device
        kept: dict[str, Tensor] = self.__dict__.get("_kept", {})
        if not kept or any(blank.device != device for blank in kept.values()):
            fresh = type(self)(self.spec).to(device)
            kept = {name: b for name, b in fresh.named_buffers() if name != "recording"}
            self.__dict__["_kept"] = kept
        return kept

    @classmethod
    def with_args(cls: type[_Self], **options: object) -> type[_Self]:
        """This class with other options, e.g. ``MovingAverage.with_args(averaging_constant=0.1)``.

        Equal options give the same class, so that specs made from them are equal.
        """
        unknown = sorted(set(options) - set(cls.options))
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no option {', '.join(unknown)};"
                f" it has {', '.join(cls.options) or 'none'}"
            )
        return variant(cls, tuple(sorted(options.items()))) if options else cls

    @classmethod
    def made_from(cls) -> tuple[type[Observer], tuple[tuple[str, Any], ...]]:
        """The class that :meth:`with_args` was called on, and the options given; else itself."""
        origin: type[Observer] = cls.__dict__.get("_made_from", cls)
        return origin, cls.__dict__.get("_given", ())

    @classmethod
    def check_methods(cls) -> None:
        """Refuse a class that lacks what observing takes.

        Raises:
            ConfigError: it names the methods.
        """
        needed = {
            "record(self, x)": cls.record is Observer.record and cls.observe is Observer.observe,
            "range(self)": cls.range is Observer.range and cls.qparams is Observer.qparams,
        }
        missing = [name for name, lacks in needed.items() if lacks]
        if missing:
            raise ConfigError(f"the observer {cls.__name__} defines no {' and no '.join(missing)}")

    # -- for subclasses --------------------------------------------------------------------------
    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        """Refuse a spec that this class can't serve; called when the spec is made."""
        if cls.per_channel and not spec.per_channel:
            raise ConfigError(
                f"{cls.__name__} finds a range per channel: set per_channel=True,"
                " or choose observer='minmax'"
            )
        if spec.per_channel and not cls.per_channel:
            raise ConfigError(
                f"{cls.__name__} finds one range for the whole tensor: set per_channel=False,"
                " or choose observer='per_channel_minmax'"
            )

    def record(self, x: Tensor) -> None:
        """Remember a non-empty float32 tensor, which is not to be written to."""
        raise NotImplementedError

    def blanks(self) -> dict[str, Tensor]:
        """What buffers hold before data, in the shapes that they have; see :meth:`clear`."""
        return self._fresh()

    def range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value to represent: 0-dim or numbers, (C,) per channel."""
        raise NotImplementedError

    def extent(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value seen; no wider than zero where :meth:`range` is not."""
        return guarding.ends(self)

    def absorb(self: _Self, other: _Self) -> None:
        """Merge the state of ``other``, which has seen data."""
        raise NotImplementedError

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: object, **kwargs: object
    ) -> None:
        """Take the shapes of the incoming state: per-channel buffers are empty before data."""
        for name, buffer in buffers_held(self).items():
            incoming = state_dict.get(prefix + name)
            if buffer is not None and incoming is not None and incoming.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(incoming.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return repr(self.spec)


def is_number(value: object) -> bool:
    """Whether an option is a number; what a configuration file holds may be anything."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_empty(low: Tensor, high: Tensor) -> Tensor:
    """Whether nothing but zeros lies in a range, or it is that of no data (infinite)."""
    return (low >= 0) & (high <= 0)


def smallest_and_largest(x: Tensor) -> tuple[Tensor, Tensor]:
    """0-dim minimum and maximum of a non-empty tensor; CalibrationError if it is not all finite."""
    low, high = torch.aminmax(dense_view(x))
    require_finite(x, (low, high))
    return low, high


def require_finite(x: Tensor, extremes: Iterable[Tensor]) -> None:
    """CalibrationError with counts unless the ``extremes`` of ``x`` (NaN propagates) are finite."""
    if all(bool(e.isfinite().all()) for e in extremes):
        return
    nan, inf = int(x.isnan().sum()), int(x.isinf().sum())
    raise CalibrationError(
        f"{nan} NaN and {inf} infinite values among {x.numel()}: no scale can represent them;"
        " look for an overflow or a division by zero upstream, or leave this operation float"
    )
