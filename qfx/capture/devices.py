"""The type of a device, by which a model decides: ``if x.device.type == "cuda":``.

It has to be a text of Python, since PyTorch asks for one (``torch.autocast(x.device.type)``); what
the model's own code compares it with is guarded. Asked is the device of an argument: a graph is on
one device, and a value that nothing else reads is easier to fuse.
"""

from __future__ import annotations

import operator
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from qfx.private_attributes import is_erased

if TYPE_CHECKING:
    from qfx.capture.evaluation import EvaluatingTracer
    from qfx.capture.proxy import ValueProxy


class DeviceType(str):
    """``x.device.type`` of something that depends on the arguments.

    Attributes:
        device: the proxy for the device.
    """

    device: ValueProxy

    def __new__(cls, device: ValueProxy) -> DeviceType:
        made = super().__new__(cls, device.example.type)
        made.device = device
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)

    def __eq__(self, other: object) -> bool:
        self._decides(other, sys._getframe(1))
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        self._decides(other, sys._getframe(1))
        return super().__ne__(other)

    def __hash__(self) -> int:
        self._decides(str(self), sys._getframe(1))
        return super().__hash__()

    def startswith(self, prefix: str | tuple[str, ...], *bounds: Any) -> bool:
        """Whether the type starts so, as any text may."""
        self._decides(str(self), sys._getframe(1))
        return super().startswith(prefix, *bounds)

    def _decides(self, other: object, frame: FrameType) -> None:
        """Guard whether it equals ``other``, if the model's own code asks."""
        tracer = self.device.tracer
        if type(other) is not str or tracer.is_done or tracer.user_frame(frame) is not frame:
            return
        known = tracer.asked_devices.get((self.device.example, other))
        if known is not None and not is_erased(known):
            return
        asked = _of_an_argument(tracer, self.device)
        equal = tracer.call(operator.eq, tracer.call(getattr, asked, "type"), other)
        tracer.decide_value(equal, f"the type of a device, compared with {other!r},", frame)
        tracer.asked_devices[self.device.example, other] = equal.node


def _of_an_argument(tracer: EvaluatingTracer, device: ValueProxy) -> ValueProxy:
    """The device of the first argument that is on ``device``, or itself."""
    for _, proxy in tracer.inputs:
        assert isinstance(proxy.example, torch.Tensor)
        if proxy.example.device == device.example:
            found: ValueProxy = tracer.call(getattr, proxy, "device")
            return found
    return device
