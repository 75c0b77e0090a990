"""The engines by name: those of this package, and those of other packages by entry point.

[project.entry-points."qfx.engines"]
acme = "acme_qfx:Acme"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from qfx.engines.base import Engine
from qfx.engines.eager import Eager
from qfx.engines.inductor import Inductor
from qfx.engines.onnxruntime import OnnxRuntime
from qfx.engines.openvino import OpenVINO
from qfx.errors import ConfigError
from qfx.plug_ins import PlugIns

_OWN = (OpenVINO, OnnxRuntime, Inductor, Eager)

INSTALLED = PlugIns("qfx.engines", Engine, "engine")  # type: ignore[type-abstract]
"""Those of other packages."""


@cache
def _own() -> Mapping[str, Engine]:
    return {kind.name: kind() for kind in _OWN}


def engines() -> dict[str, Engine]:
    """Every engine by name, whether or not it can be used here."""
    found = INSTALLED.by_name(_own())
    return {**_own(), **{n: each.made for n, each in found.items() if each.made is not None}}


def available() -> tuple[str, ...]:
    """The names of the engines that can be used here, as ``qfx.compile(engine=...)`` takes them."""
    return tuple(name for name, engine in engines().items() if not engine.lacks())


def named(name: object) -> Engine:
    """The engine of a name.

    Raises:
        ConfigError: there is none.
    """
    known = engines()
    if isinstance(name, str) and name in known:
        return known[name]
    raise ConfigError(
        f"engine {name!r} does not exist; it can be 'auto', or one or a list of "
        f"{', '.join(map(repr, known))}"
    )
