"""Backends of other packages, by name: entry points of the group ``qfx.backends``.

    [project.entry-points."qfx.backends"]
    acme = "acme_qfx:backend"

An entry point loads a :class:`~qfx.backends.base.Backend` of its name, or a function that makes it;
one whose machine is another raises :class:`qfx.BackendError`, and is not available then.
"""

from __future__ import annotations

from qfx.backends.base import Backend
from qfx.errors import BackendError
from qfx.plug_ins import PlugIns

INSTALLED = PlugIns("qfx.backends", Backend, "qfx.Backend", absent=(BackendError,))
