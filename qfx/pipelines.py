"""The standard pipelines; their passes are in the package ``qfx_passes``, loaded on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfx.errors import ConfigError

if TYPE_CHECKING:
    from qfx.backends.base import Backend
    from qfx.framework.pipeline import Pipeline


EFFORTS = ("fast", "default", "high")
"""What calibration may cost for accuracy."""


def check_effort(effort: object, pipeline: Pipeline | None = None) -> None:
    """ConfigError unless ``effort`` is known, and left alone where a pipeline says what runs."""
    if effort not in EFFORTS:
        raise ConfigError(f"effort={effort!r}: choose one of {', '.join(map(repr, EFFORTS))}")
    if pipeline is not None and effort != "default":
        raise ConfigError(
            f"effort={effort!r} chooses the passes, and so does pipeline=. Give one of them: "
            f"qfx.pipelines.static(effort={effort!r}) is a pipeline to start from"
        )


def static(backend: str | Backend | None = None, *, effort: str = "default") -> Pipeline:
    """Post-training static quantization.

    Args:
        backend: what it is for; None inherits the backend of the call it is given to.
        effort: "fast" only observes; "default" adds what is closed-form and cheap; "high" adds
            what takes minutes: codes of all weights that are chosen by what layers yield.

    Raises:
        ConfigError: there is no such effort.
    """
    from qfx_passes import pipelines

    check_effort(effort)
    return pipelines.static(backend, effort)


def qat(backend: str | Backend | None = None) -> Pipeline:
    """Quantization-aware training; its marker ``calibrate`` is where the model is trained.

    Args:
        backend: what it is for; None inherits the backend of the call it is given to.
    """
    from qfx_passes import pipelines

    return pipelines.qat(backend)


def dynamic(backend: str | Backend | None = None, *, effort: str = "default") -> Pipeline:
    """Dynamic quantization: integer weights, activations measured at run time.

    Args:
        backend: what it is for; None inherits the backend of the call it is given to.
        effort: as for :func:`static`; what it adds takes calibration data, if there is any.

    Raises:
        ConfigError: there is no such effort.
    """
    from qfx_passes import pipelines

    check_effort(effort)
    return pipelines.dynamic(backend, effort)


def weight_only(backend: str | Backend | None = None, *, effort: str = "default") -> Pipeline:
    """Weight-only quantization: integer weights, float activations.

    Args:
        backend: what it is for; None inherits the backend of the call it is given to.
        effort: as for :func:`static`; only "high" adds anything, and it takes calibration data.

    Raises:
        ConfigError: there is no such effort.
    """
    from qfx_passes import pipelines

    check_effort(effort)
    return pipelines.weight_only(backend, effort)
