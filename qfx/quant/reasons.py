"""Why an operation stays float: every reason code, with what it means and what to do about it.

One table; decisions are made from it, and the documentation prints it.
"""

from __future__ import annotations

from qfx.framework.registry import is_builtin
from qfx.quant.annotation import Decision

REASONS: dict[str, tuple[str, str]] = {
    "unknown-op": (
        "{op} is none of the operations that qfx knows",
        "write it with operations of docs/ops.md, or leave it float",
    ),
    "unknown-form": (
        "{op} is known, but not in this form: {note}",
        "write it with constants and plain arguments, or leave it float",
    ),
    "opaque-function": (
        "{op} is compiled by TorchScript, and not looked into",
        "nothing to do if float is fine; else call the Python function that it was made from",
    ),
    "sparse": (
        "{op} reads a sparse tensor, and kernels of integers take dense ones",
        "make it dense first, as in x.to_dense(), if it has few zeros",
    ),
    "complex": (
        "{op} reads complex numbers, and kernels of integers take real ones",
        "nothing to do: what reads and hands out real numbers is quantized",
    ),
    "makes-numbers": (
        "{op} makes a tensor of numbers and sizes, and reads no activations",
        "nothing to do: what reads it is quantized",
    ),
    "grouped-product": (
        "{op} multiplies groups of rows, each with a matrix of its own (experts in one tensor); "
        "data decides which rows, and no kernel does that in integers",
        "nothing to do if float is fine; experts that are layers of their own, as in "
        "nn.ModuleList, are quantized",
    ),
    "random": (
        "{op} draws random numbers, anew in every call",
        "nothing to do: what follows is quantized",
    ),
    "opaque-module": (
        "{op} is a module that is not looked into{note}",
        "{remedy}",
    ),
    "outside-regions": (
        "{op} is in no region: {why}",
        "nothing to do if float is fine; else give example inputs that call it, or write what is "
        "around it so that it can be captured",
    ),
    "outside-stubs": (
        "it lies outside the region between QuantStub and DeQuantStub",
        "move the stubs, or remove them to quantize the whole model",
    ),
    "qconfig-none": (
        "the configuration leaves it float ({rule})",
        "change that rule of the QConfigMapping",
    ),
    "not-in-types": (
        "its type, or that of the layer it is fused with, is not among the types asked for",
        "add that type to types=",
    ),
    "no-kernel": ("backend {backend} has no integer kernel for {op}", "{remedy}"),
    "not-static": (
        "{op} reads no activations; only its weight can be quantized",
        "give it a configuration of its own: set_object_type(..., "
        "qfx.get_default_qconfig(backend, 'weight_only'))",
    ),
    "not-dynamic": (
        "dynamic quantization is for layers with weights; backend {backend} has no kernel for {op}",
        "{remedy}",
    ),
    "not-weight-only": (
        "backend {backend} keeps no weight of {op} in integers",
        "{remedy}",
    ),
    "no-weight": ("only weights are quantized, and {op} has none", "nothing to do"),
    "unsupported": ("{detail}", "{remedy}"),
    "kernel-failed-probe": (
        "the kernel of {op} gave wrong results on this machine ({detail})",
        "nothing to do: the float form is correct",
    ),
    "kernel-failed-check": (
        "the kernel of {op} gave other results than its reference form on the example inputs "
        "({detail})",
        "nothing to do: the float form is correct",
    ),
    "not-float32": (
        "it computes in {detail}; integer kernels take float32 in and out",
        "convert the model with model.float()",
    ),
    "overwritten": (
        "what it reads may be overwritten in place by {detail}",
        "write that operation out of place",
    ),
    "filled": (
        "{detail} fills what it reads with numbers too large for any scale",
        "nothing to do if float is fine; else fill with a number near the values",
    ),
    "weight-not-constant": (
        "its {name} is computed by the graph, not a parameter or buffer",
        "make the {name} a parameter, or use matmul and an addition",
    ),
    "float-inputs": (
        "it only goes along with integers, and its inputs are float here",
        "nothing to do: it would not pay",
    ),
    "float-is-free": (
        "its neighbours hand out float directly, so integers would only cost accuracy",
        "nothing to do: it would not pay",
    ),
    "config-unfit": ("{detail} ({rule})", "change the specs of that rule, or the backend"),
    "undecided": (
        "a pass made it anew after annotate, which decides what is quantized",
        "put that pass before annotate in the pipeline",
    ),
    "slow-kernel": ("{detail}", "{remedy}"),
    "unfit-kernel": (
        "its weight is kept in {kept} and made float in front of {op}: {detail}",
        "nothing to do if size is what counts; for speed, give it a shape or a spec that a kernel "
        "takes, or try method='dynamic'",
    ),
    "removed": ("{detail}", "{remedy}"),
}


IN_INTEGERS = (
    "nothing to do if size is what counts; for speed, qfx.get_default_qconfig(backend, 'dynamic') "
    "computes in integers"
)
"""What to do about "slow-kernel" where only weights are kept in integers."""


def elsewhere(backends: tuple[str, ...]) -> str:
    """What to do about an operation that has a kernel on ``backends`` only."""
    there = f"there is one for {' and '.join(backends)}" if backends else "nor has any other here"
    return f"nothing to do if float is fine; {there}"


def refusal(reason: str, **details: str) -> Decision:
    """The decision to leave an operation float for ``reason``, a key of :data:`REASONS`."""
    message, remedy = REASONS[reason]
    details.setdefault("remedy", "nothing to do if float is fine; another backend may have one")
    return Decision(False, reason, message.format(**details), remedy.format(**details))


def removal(maker: str | None) -> Decision:
    """The decision about what "pass/rule" removed; None where it was folded into a constant."""
    name = (maker or "").partition("/")[0]
    if name and not is_builtin(name):
        detail, remedy = f"{maker} removed it", f"see history.diff({name!r}) if it should be there"
    else:
        by = f" by {name}" if name else ""
        why = "it does nothing in eval mode, is constant, or nobody reads it"
        detail, remedy = f"it is dropped{by}: {why}", ""
    return refusal("removed", detail=detail, remedy=remedy)
