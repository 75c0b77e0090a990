"""What marks a place and computes nothing: stubs put by hand, and assertions of the capture.

quant_stub(x)           ->  QUANT_STUB        assert condition, message  ->  GUARD
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.stubs import is_dequant_stub, is_quant_stub
from qfx.torch_private import ASSERT
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling


def canonical_marker(site: CallSite, call: Spelling) -> fx.Node | None:
    """The stub or guard that the call is."""
    module = site.module
    if module is not None and is_quant_stub(module):
        return site.becomes(vocab.QUANT_STUB, {"input": site.node.args[0]})
    if module is not None and is_dequant_stub(module):
        return site.becomes(vocab.DEQUANT_STUB, {"input": site.node.args[0]})
    if call.target is not ASSERT:
        return None
    condition, message = call.args[:2]
    named = {"expected": True, "what": message, "asserted": True}
    return site.becomes(vocab.GUARD, {"value": condition, **named})
