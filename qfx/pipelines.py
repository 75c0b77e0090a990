"""The standard pipelines; their passes are in the package ``qfx_passes``, loaded on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qfx.backends.base import Backend
    from qfx.framework.pipeline import Pipeline


def static(backend: str | Backend | None = None) -> Pipeline:
    """Post-training static quantization.

    Args:
        backend: what it is for; None inherits the backend of the call it is given to.
    """
    from qfx_passes import pipelines

    return pipelines.static(backend)


def qat(backend: str | Backend | None = None) -> Pipeline:
    """Quantization-aware training; its marker ``calibrate`` is where the model is trained.

    Args:
        backend: what it is for; None inherits the backend of the call it is given to.
    """
    from qfx_passes import pipelines

    return pipelines.qat(backend)


def dynamic(backend: str | Backend | None = None) -> Pipeline:
    """Dynamic quantization: integer weights, activations measured at run time.

    Args:
        backend: what it is for; None inherits the backend of the call it is given to.
    """
    from qfx_passes import pipelines

    return pipelines.dynamic(backend)


def weight_only(backend: str | Backend | None = None) -> Pipeline:
    """Weight-only quantization: integer weights, float activations.

    Args:
        backend: what it is for; None inherits the backend of the call it is given to.
    """
    from qfx_passes import pipelines

    return pipelines.weight_only(backend)
