"""Which backend a stored model is lowered for here, and whether that gives what was saved.

The reference form means the same on every machine. Kernels that one machine has and another lacks
leave operations float, between the same roundings. What can't be had is a backend that this machine
lacks, and sums of 8-bit products on a CPU whose kernels saturate there.
"""

from __future__ import annotations

import torch
from torch import fx

from qfx.backends import resolve_backend
from qfx.backends.base import Backend
from qfx.backends.saturation import HIGHEST_SAFE
from qfx.errors import BackendError
from qfx.graph import meta
from qfx.quant.annotation import annotation
from qfx.vocab import Kind, OpDef

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
    wide = next((node for node in graph.nodes if _reads_eight_bits(node)), None)
    if wide is not None:
        raise BackendError(
            f"{meta.where(wide)} was quantized to 8-bit activations on a CPU that adds up products "
            "of them exactly (VNNI, AMX), and the kernels of this one saturate at 16 bits: results "
            "would be wrong. Load it on such a CPU, or quantize the float model on this one (7-bit "
            f"activations); qfx.load(path, backend={REFERENCE!r}) gives the same values, slower."
        )


def _reads_eight_bits(node: fx.Node) -> bool:
    note = annotation(node)
    if note is None or not note.decision.quantized or not isinstance(node.target, OpDef):
        return False
    if node.target.kind is not Kind.MATMUL:
        return False
    specs = (e.spec for e in note.reads.values() if e.spec.dtype in (torch.uint8, torch.int8))
    return any(spec.bounds[1] - spec.bounds[0] > HIGHEST_SAFE for spec in specs)
