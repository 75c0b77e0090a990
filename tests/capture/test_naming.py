"""Attributes of a model that are called like those of a graph module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.naming import reserved

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
NAMES = ("history", "settings", "meta", "report", "backend", "reference", "graph", "code",
         "_graph", "recompile", "print_readable")  # fmt: skip


class Model(nn.Module):
    """Holds a module, parameter or buffer under each of ``names``."""

    def __init__(self, names: Iterable[str], make: Callable[[], nn.Module | Tensor]) -> None:
        super().__init__()
        self.names = tuple(names)
        for name in self.names:
            held = make()
            if isinstance(held, Tensor) and not isinstance(held, nn.Parameter):
                self.register_buffer(name, held)
            else:
                setattr(self, name, held)
        self.out = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        held = [getattr(self, name) for name in self.names]
        return [self.out(h(x) if isinstance(h, nn.Module) else x * h) for h in held]


MAKERS: dict[str, Callable[[], nn.Module | Tensor]] = {
    "Linear": lambda: nn.Linear(4, 4),
    "Parameter": lambda: nn.Parameter(torch.rand(4) + 1),
    "Tensor": lambda: torch.rand(4) + 1,
}


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("kind", MAKERS)
def test_attributes_called_like_ours(kind: str) -> None:
    torch.manual_seed(0)
    model = Model(NAMES, MAKERS[kind]).eval()
    for backend in sorted({"x86", "fbgemm", "reference"} & set(qfx.backends.available())):
        qmodel = qfx.quantize(model, X, backend=backend)
        for same in (qmodel, copy.deepcopy(qmodel), qmodel.reference):
            for name, ours, theirs in zip(NAMES, same(X), model(X), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1, msg=name)
        assert len(qmodel.history) > 2
        assert qmodel.backend == backend
    if kind == "Linear":
        paths = [site.module_path for site in qmodel.report.sites]
        assert [path for path in paths if path != "out"] == list(NAMES)
        mapping = qfx.get_default_qconfig_mapping("reference")
        for name in NAMES:
            mapping.set_module_name(name, None)
        sites = qfx.quantize(model, X, backend="reference", qconfig=mapping).report.sites
        assert {site.decision for site in sites if site.module_path != "out"} == {"float"}
        assert {site.decision for site in sites if site.module_path == "out"} == {"quantized"}


def test_state_keeps_its_order_and_nearly_its_names() -> None:
    prepared = qfx.prepare(Model(["graph"], MAKERS["Linear"]).eval(), X, backend="reference")
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
