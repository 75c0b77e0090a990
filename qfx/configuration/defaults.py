"""What is quantized how when the user says nothing: the defaults of each backend and method."""

from __future__ import annotations

from qfx.backends import resolve_backend
from qfx.backends.base import Backend
from qfx.errors import ConfigError
from qfx.quant.qconfig import QConfig, QConfigMapping


def get_default_qconfig(backend: str | Backend = "auto", method: str = "static") -> QConfig:
    """The QConfig that ``backend`` uses for ``method``.

    Raises:
        BackendError: no such backend here.
        ConfigError: the backend does not know the method.
    """
    target = resolve_backend(backend)
    if method not in target.defaults:
        raise ConfigError(
            f"backend {target.name!r} has no default for method {method!r}; it has: "
            f"{', '.join(target.defaults)}"
        )
    return target.defaults[method]


def get_default_qconfig_mapping(
    backend: str | Backend = "auto", method: str = "static"
) -> QConfigMapping:
    """A mapping that gives everything the default QConfig of ``backend`` for ``method``."""
    return QConfigMapping().set_global(get_default_qconfig(backend, method))
