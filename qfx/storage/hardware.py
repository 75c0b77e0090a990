"""Which backend a stored model is lowered for here, and whether that gives what was saved.

The reference form means the same on every machine. Kernels that one machine has and another lacks
leave operations float, between the same roundings. What can't be had is a backend that this machine
lacks, and sums of 8-bit products on a CPU whose kernels saturate there.
"""

from __future__ import annotations

from torch import fx

from qfx.backends import resolve_backend
from qfx.backends.base import Backend
from qfx.backends.wide_codes import EXACT_SUMS, wide_layer
from qfx.errors import BackendError
from qfx.graph import meta

REFERENCE = "reference"


def backend_for(name: str, wanted: str | Backend | None) -> Backend:
    """The backend that a model saved for ``name`` is lowered for.

    Raises:
        BackendError: this machine lacks it, or ``wanted`` is another.
    """
    if wanted is None:
        try:
            return resolve_backend(name)
        except BackendError as error:
            raise BackendError(
                f"the model was saved for backend {name!r}: {error} A backend that is installed "
                f"nowhere is given: qfx.load(path, backend=the_backend); qfx.load(path, "
                f"backend={REFERENCE!r}) runs the same model on any machine, in float arithmetic."
            ) from None
    backend = resolve_backend(wanted)
    if backend.name not in (name, REFERENCE):
        raise BackendError(
            f"the model was quantized for backend {name!r}, whose tables decided what runs in "
            f"integers; it can be loaded for that, or for {REFERENCE!r}, and not for "
            f"{backend.name!r}. Quantize the float model for {backend.name!r} instead."
        )
    return backend


def check_saturation(backend: Backend, graph: fx.Graph, *, saturated: bool) -> None:
    """BackendError where kernels of this machine would add up the model's products wrongly.

    Args:
        backend: that of this machine.
        graph: the reference form.
        saturated: whether kernels saturated where the model was made.
    """
    if saturated or not backend.saturates:
        return
    wide = wide_layer(graph)
    if wide is not None:
        raise BackendError(
            f"{meta.where(wide)} reads 8-bit activations, which need {EXACT_SUMS}; those of this "
            "CPU saturate at 16 bits, and results would be wrong. Load it on such a CPU, or "
            "quantize the float model again with activations of 7 bits, which are right on any "
            f"(quant_max=127, the default on this one); qfx.load(path, backend={REFERENCE!r}) "
            "gives the same values, slower."
        )
