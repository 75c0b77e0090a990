"""Fake-quants: modules that round in training to what integers will hold.

    y = dequantize(quantize(x))        dy/dx = 1 inside the bounds, else 0

(:func:`qfx.semantics.affine.fake_quantize`, bit for bit what the converted model computes). Where
qparams come from is what tells them apart:

* :class:`FakeQuantize` follows an observer of the activations that pass by;
* :class:`WeightFakeQuantize` follows the weight itself, which moves with every step;
* :class:`LearnedFakeQuantize` learns the scale by gradient descent (Esser et al. 2020,
  arXiv:1902.08153).

Where nothing but zeros was seen, as behind a scale that is initialized to zero, every scale is
right, and none is when other values come: it would round them to zero, or clip them, and with that
their gradients. So a range of zeros is none to keep: it is looked for until there is one, also
where it is frozen, and a learned scale starts no earlier.

Scale and zero point are buffers (or parameters), so ``state_dict``, copies and devices keep them;
the two switches are part of ``state_dict``, too. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from qfx.errors import CalibrationError
from qfx.quant.observers.base import is_empty
from qfx.quant.qparams import QParams
from qfx.semantics import affine as ops
from qfx.torch_private import graph_task

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


class FakeQuantize(nn.Module):
    """Observes what passes by in training, and rounds it.

    Args:
        spec: how the tensor will be quantized.

    Attributes:
        observer: what chooses the range.
        scale, zero_point: those of the last update; float32 and int32, 0-dim, (C,) or (C, G).
        rangeless: for how many batches there was no range: nothing but zeros had been seen.
        observer_enabled: whether training moves the range.
        fake_quant_enabled: whether values are rounded; if not, they pass unchanged, as they do
            until there are qparams.
    """

    hands_on: ClassVar[bool] = True  # as graph.inference asks
    scale: Tensor
    zero_point: Tensor
    rangeless: Tensor
    observer_enabled: bool

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.observer = spec.make_observer()
        self._initialized = False
        self._found = False  # whether the range is known to hold more than zeros
        self.moved = False  # whether the range moved since ranks last agreed
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.register_buffer("rangeless", torch.zeros((), dtype=torch.int32))
        self.observer_enabled = True
        self.fake_quant_enabled = True
        self.calibrates = False  # whether what is not finite is an error, as in calibration
        if self.observer.seen:  # qparams known beforehand
            self.choose()

    def forward(self, x: Tensor) -> Tensor:
        """``x`` rounded; shape, dtype and memory format stay."""
        if self.observes_data and not recomputes():
            self.update(x)
        return self.rounded(x) if self.fake_quant_enabled and self.initialized else x

    @property
    def initialized(self) -> bool:
        """Whether there are qparams.

        The observer knows, also where only buffers were copied, as averages of weights do; once
        known, the device is not asked again.
        """
        if not self._initialized and not torch.compiler.is_compiling():
            self._initialized = self.observer.seen
        return self._initialized

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Let the range follow ``x``."""
        self.moved = True  # that of other ranks does, where this one has nothing to see
        if x.numel() == 0:
            return
        if self.calibrates:
            self.observer.observe(x)
        else:
            self.observer.track(x)
        self._count_rangeless()
        self.choose()
        self._initialized = torch.compiler.is_compiling() or self.observer.seen

    def _count_rangeless(self) -> None:
        self.rangeless.add_(is_empty(*self.observer.extent()).all())

    @torch.no_grad()
    def choose(self) -> None:
        """Let scale and zero point be those of what was seen."""
        self._set(*self.observer.scale_and_zero_point())

    @property
    def observes_data(self) -> bool:
        """Whether the range moves with the data that passes by."""
        return self.training and (self.observer_enabled or self.lacks_range)

    @property
    def lacks_range(self) -> bool:
        """Whether nothing but zeros was seen; once there is a range, the device is not asked."""
        if self._found or torch.compiler.is_compiling() or not self.observer.seen:
            return False
        self._found = not self.observer.lacks_range
        return not self._found

    def rounded(self, x: Tensor) -> Tensor:
        """``x`` as its integers stand for it."""
        quant_min, quant_max = self.spec.bounds
        return ops.fake_quantize(
            x,
            self.scale,
            self.zero_point,
            quant_min=quant_min,
            quant_max=quant_max,
            axis=self.spec.channel_axis,
            group_size=self.spec.group_size,
        )

    @property
    def follows_weight(self) -> bool:
        """Whether qparams are those that any weight gets that is quantized."""
        return False

    def qparams_of(self, weight: Tensor) -> QParams:
        """The qparams to convert ``weight`` with, as it is now; errors as of :meth:`qparams`."""
        return self.qparams()

    @property
    def seen(self) -> bool:
        """Whether there are qparams to convert with."""
        return self.observer.seen

    def qparams(self) -> QParams:
        """The qparams in use; CalibrationError if they are none."""
        return self._qparams(self.scale.detach())

    def _qparams(self, scale: Tensor) -> QParams:
        if not bool(scale.isfinite().all() and (scale > 0).all()):
            raise CalibrationError(
                f"the scale is {scale.flatten()[:4].tolist()}: training diverged, or only NaN and "
                "infinite values were seen"
            )
        numbers: tuple[Any, Any] = scale, self.zero_point
        if not self.spec.per_channel:
            numbers = float(numbers[0]), int(numbers[1])
        axis, groups = self.spec.channel_axis, self.spec.group_size
        return QParams(*numbers, self.spec.dtype, *self.spec.bounds, axis, groups)

    @torch.no_grad()
    def start_from(self, qparams: QParams) -> None:
        """Take qparams found by calibration; training moves on from their range."""
        self._set(torch.as_tensor(qparams.scale), torch.as_tensor(qparams.zero_point))
        self._initialized = True
        ends = torch.tensor(self.spec.bounds, dtype=torch.int32, device=self.scale.device)
        if not self.spec.per_channel:
            self.observer.observe(qparams.dequantize(ends))

    def _set(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    # -- state -----------------------------------------------------------------------------------
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: object, **kwargs: object
    ) -> None:
        """Take state without ``rangeless``, too: earlier versions had none."""
        if f"{prefix}scale" in state_dict:
            state_dict.setdefault(f"{prefix}rangeless", torch.zeros_like(self.rangeless))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def get_extra_state(self) -> Tensor:
        """The switches."""
        return torch.tensor([self.observer_enabled, self.fake_quant_enabled], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Set the switches; what there is to know besides, buffers hold."""
        self.observer_enabled, self.fake_quant_enabled = map(bool, state.tolist())
        self._initialized = self._found = False

    def extra_repr(self) -> str:
        off = [n for n in ("observer", "fake_quant") if not getattr(self, f"{n}_enabled")]
        return f"{self.spec}" + "".join(f", {name} off" for name in off)


def recomputes() -> bool:
    """Whether backward is running: a checkpoint computes again what was observed before."""
    return not torch.compiler.is_compiling() and graph_task() != -1
