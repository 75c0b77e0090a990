"""What forward asks of a tensor that is no number of its contents is as the example says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.capture import capture
from tests.cases.flow import randn, seeded, sqnr


def _match(x: Tensor) -> bool:
    match x.dtype:
        case torch.float32:
            return True
        case _:
            return False


def _later(x: Tensor) -> bool:
    dtype = x.dtype
    return dtype is torch.float32


def _raises(x: Tensor) -> bool:
    if not _is_float(x.dtype):
        raise TypeError("only float32")
    return True


def _is_float(dtype: torch.dtype) -> bool:
    return dtype is torch.float32


BY_DTYPE: dict[str, Callable[[Tensor], bool]] = {
    "is": lambda x: x.dtype is torch.float32,
    "is not": lambda x: x.dtype is not torch.float16,
    "reversed": lambda x: torch.float32 is x.dtype,
    "of two tensors": lambda x: (x * 2).dtype is x.dtype,
    "any": lambda x: any(x.dtype is d for d in (torch.float16, torch.float32)),
    "later": _later,
    "raises": _raises,
    "equal": lambda x: x.dtype == torch.float32,
    "in": lambda x: x.dtype in (torch.float32, torch.float16),
    "key": lambda x: {torch.float32: True, torch.float64: False}[x.dtype],
    "match": _match,
}
OTHERS: dict[str, Callable[[Tensor], bool]] = {
    "floating": lambda x: x.is_floating_point() and torch.is_floating_point(x),
    "complex": lambda x: not x.is_complex(),
    "itemsize": lambda x: x.element_size() == 4 and x.dtype.itemsize == 4,
    "device": lambda x: x.device.type == "cpu" and x.device == torch.device("cpu"),
    "cuda": lambda x: not x.is_cuda and x.is_cpu,
    "ndim": lambda x: x.ndim == 2 and x.dim() == 2,
    "requires_grad": lambda x: not x.requires_grad and x.grad is None,
    "layout": lambda x: x.layout is torch.strided and not x.is_sparse,
    "contiguous": lambda x: x.is_contiguous(),
    "type": lambda x: x.type() == "torch.FloatTensor",
}


class Asks(nn.Module):
    def __init__(self, ask: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.linear, self.ask = nn.Linear(4, 4), ask

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if self.ask(x) else x * 0


@pytest.mark.parametrize("name", [*BY_DTYPE, *OTHERS])
def test_the_model_goes_where_it_goes(name: str) -> None:
    model, x = seeded(Asks, {**BY_DTYPE, **OTHERS}[name]), randn(3, 4)
    graph_module = capture(model, (x,))
    torch.testing.assert_close(graph_module(x), model(x))
    assert graph_module(randn(5, 4)).shape == (5, 4)


@pytest.mark.parametrize("name", BY_DTYPE)
def test_another_dtype_is_refused_by_name(name: str) -> None:
    graph_module = capture(seeded(Asks, BY_DTYPE[name]), (randn(3, 4),))
    with pytest.raises(qfx.ConfigError, match="capture the model anew"):
        graph_module(randn(3, 4).double())


def test_a_model_that_compares_dtypes_is_quantized() -> None:
    model, x = seeded(Asks, BY_DTYPE["is"]), randn(8, 4)
    qmodel = qfx.quantize(model, x, backend="reference")
    assert qmodel.report.coverage == 1.0
    assert sqnr(model(x), qmodel(x)) > 25
