"""What the tests of every row of a backend's table ask of a quantized model."""

from __future__ import annotations

import qfx
from qfx import vocab


def assert_told(qmodel: qfx.QuantizedModel) -> None:
    """Each operation is quantized, or the report says why not."""
    for site in qmodel.report.sites:
        assert site.decision == "quantized" or (site.reason and site.message), site


def largest_step(qmodel: qfx.QuantizedModel) -> float:
    """The largest scale of an activation."""
    nodes = qmodel.reference.graph.nodes
    return max(float(n.args[1]) for n in nodes if vocab.is_op(n, vocab.QUANTIZE))


def unclipped(spec: qfx.QuantSpec | None) -> qfx.QuantSpec:
    """``spec`` with the range of what it sees: kernels saturate elsewhere than the reference."""
    assert spec is not None
    low, high = spec.bounds
    return qfx.QuantSpec(spec.dtype, observer="minmax", quant_min=low, quant_max=high)
