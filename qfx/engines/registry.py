"""The engines by name: those of this package, and those of other packages by entry point.

[project.entry-points."qfx.engines"]
acme = "acme_qfx:Acme"
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from qfx.engines.base import Engine
from qfx.engines.eager import Eager
from qfx.engines.inductor import Inductor
from qfx.engines.onnxruntime import OnnxRuntime
from qfx.engines.openvino import OpenVINO
from qfx.errors import ConfigError, warn

GROUP = "qfx.engines"
_OWN = (OpenVINO, OnnxRuntime, Inductor, Eager)


@cache
def engines() -> dict[str, Engine]:
    """Every engine by name, whether or not it can be used here."""
    found: dict[str, Engine] = {kind.name: kind() for kind in _OWN}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        origin = f"entry point {entry.name} = {entry.value} of group {GROUP}"
        if entry.name in found:
            warn(f"{origin} is ignored: the name is taken")
            continue
        try:
            loaded = entry.load()
            engine = loaded if isinstance(loaded, Engine) else loaded()
        except Exception as error:
            warn(f"{origin} fails to load: {type(error).__name__}: {error}")
            continue
        if isinstance(engine, Engine) and engine.name == entry.name:
            found[entry.name] = engine
        else:
            warn(f"{origin} gives {engine!r}, no engine called {entry.name!r}")
    return found


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
