"""Backends with a kernel that gives something else than it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx

import qfx
from qfx import vocab
from qfx.backends import Backend, resolve_backend
from qfx.backends.base import Emitter, KernelRule, LoweringSite
from qfx.graph import meta


def with_fault(
    backend: str,
    kind: vocab.OpDef,
    corrupt: Callable[..., Any],
    *,
    method: str = "static",
    more: Callable[[LoweringSite], tuple[Any, ...]] = lambda site: (),
) -> Backend:
    """``backend``, with a call of ``corrupt`` behind each kernel of ``kind``.

    Args:
        backend: its name.
        kind: the operation.
        corrupt: gets what the kernel hands out, then ``more``.
        method: whose kernel.
        more: further arguments of ``corrupt``, of each place.
    """
    found, planted = resolve_backend(backend), []

    def faulty(rule: KernelRule) -> KernelRule:
        right = rule.emit
        if (rule.op, rule.method) != (kind, method) or right is None:
            return rule

        def wrong(em: Emitter, site: LoweringSite) -> fx.Node | qfx.Mismatch:
            node = right(em, site)
            if isinstance(node, qfx.Mismatch):
                return node
            value = meta.value_of(node)
            return em.rw.call(corrupt, node, *more(site), origins=(node,), value=value)

        planted.append(rule)
        return replace(rule, emit=wrong)

    rules = tuple(map(faulty, found.rules))
    assert planted, f"{backend} has no {method} kernel for {kind.name}"
    return replace(found, rules=rules)
