"""Stubs and assertions in canonical form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qfx import vocab
from qfx.stubs import DeQuantStub, QuantStub
from tests.passes.canonical.canonical_forms import X, calls, canonical, check_family, image, only


def test_stubs_become_stubs() -> None:
    result = canonical(nn.Sequential(QuantStub(), nn.ReLU(), DeQuantStub()), image(3))
    assert calls(result) == [vocab.QUANT_STUB, vocab.RELU, vocab.DEQUANT_STUB]


def test_stubs_of_others_are_known_by_name() -> None:
    stub = type("QuantStub", (nn.Module,), {"forward": lambda self, x: x})
    stub.__module__ = "torch.ao.quantization.stubs"
    other = type("QuantStub", (nn.Module,), {"forward": lambda self, x: x})
    result = canonical(nn.Sequential(stub(), other(), nn.ReLU()), image(3))
    assert calls(result) == [vocab.QUANT_STUB, vocab.RELU]


def test_assertions_are_guards() -> None:
    def asserts(m: object, x: Tensor) -> Tensor:
        torch._assert(x.shape[1] == 4, "four channels")
        return x + 1

    result = canonical(asserts, image(*X))
    found = only(result, vocab.GUARD)
    assert found == {"expected": True, "what": "four channels", "asserted": True}


BEFORE = """\
%input_1 : f32[2,3] = input('input')
%_0      : f32[2,3] = QuantStub[@0](%input_1)
%_1      : f32[2,3] = ReLU[@1](%_0)
%_2      : f32[2,3] = DeQuantStub[@2](%_1)
return %_2
"""

AFTER = """\
%input_1 : f32[2,3] = input('input')
%_0      : f32[2,3] = quant_stub(%input_1)
%_1      : f32[2,3] = relu(%_0)
%_2      : f32[2,3] = dequant_stub(%_1)
return %_2
"""

LEFT_OUT = """\
%input_1 : f32[2,3] = input('input')
%_0      : f32[2,3] = QuantStub[@0](%input_1)
%_1      : f32[2,3] = relu(%_0)
%_2      : f32[2,3] = DeQuantStub[@2](%_1)
return %_2
"""


def test_before_and_after() -> None:
    model = nn.Sequential(QuantStub(), nn.ReLU(), DeQuantStub())
    check_family("markers", model, image(2, 3), BEFORE, AFTER, LEFT_OUT)
