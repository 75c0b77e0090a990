"""Attributes of a model that are called like those of a graph module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.graph.naming import reserved

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
NAMES = ("history", "settings", "meta", "report", "backend", "reference", "graph", "code",
         "_graph", "recompile", "print_readable")  # fmt: skip


class Model(nn.Module):
    def __init__(self, name: str, held: nn.Module | Tensor) -> None:
        super().__init__()
        self.name = name
        if isinstance(held, Tensor) and not isinstance(held, nn.Parameter):
            self.register_buffer(name, held)
        else:
            setattr(self, name, held)
        self.out = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        held = getattr(self, self.name)
        return self.out(held(x) if isinstance(held, nn.Module) else x * held)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [nn.Linear, nn.Parameter, torch.Tensor], ids=lambda k: k.__name__)
def test_attributes_called_like_ours(name: str, kind: type) -> None:
    torch.manual_seed(0)
    held = nn.Linear(4, 4) if kind is nn.Linear else kind(torch.rand(4) + 1)
    model = Model(name, held).eval()
    for backend in sorted({"x86", "fbgemm", "reference"} & set(qfx.backends.available())):
        qmodel = qfx.quantize(model, X, backend=backend)
        for same in (qmodel, copy.deepcopy(qmodel), qmodel.reference):
            torch.testing.assert_close(same(X), model(X), rtol=0.1, atol=0.1)
        assert len(qmodel.history) > 2
        assert qmodel.backend == backend
    if kind is nn.Linear:
        assert qmodel.report.sites[0].module_path == name
        mapping = qfx.get_default_qconfig_mapping("reference").set_module_name(name, None)
        sites = qfx.quantize(model, X, backend="reference", qconfig=mapping).report.sites
        assert [site.decision for site in sites] == ["float", "quantized"]


def test_state_keeps_its_order_and_nearly_its_names() -> None:
    prepared = qfx.prepare(Model("graph", nn.Linear(4, 4)).eval(), X, backend="reference")
    names = [name for name, _ in prepared.named_parameters()]
    assert names == ["graph_.weight", "graph_.bias", "out.weight", "out.bias"]


def test_every_attribute_of_ours_is_reserved() -> None:
    prepared = qfx.prepare(nn.Linear(4, 4).eval(), X, backend="reference")
    prepared(X)
    qmodel = qfx.convert(prepared)
    common = {*dir(nn.Module()), *dir(object)}
    trained = qfx.prepare(nn.Linear(4, 4).eval(), X, backend="reference", method="qat")
    for made in (prepared, qmodel, trained):
        named = {*made._parameters, *made._buffers, *made._modules}
        ours = {n for n in (*vars(made), *dir(type(made))) if not n.startswith("__")}
        assert ours - common - named <= reserved()


def test_a_parameter_called_torch() -> None:
    class Hiding(nn.Module):
        def forward(self, torch: Tensor) -> Tensor:
            return torch + 1

    with pytest.raises(qfx.CaptureError, match="rename the parameter"):
        qfx.quantize(Hiding().eval(), X)
