"""Trying the forms: what ONNX Runtime makes of each, how far that is from the model, how fast.

    loss = SQNR(model, unrounded) - SQNR(file, unrounded)

compares with the model whose activations are not rounded at all, which is what the model stands
for. Deep models make much of little: a file that rounds a tenth as much as the model itself may
differ from it by as much as the model does from what it stands for, and be as near to that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.errors import FormatError
from qfx.export.onnx import model
from qfx.export.onnx.arguments import feeds
from qfx.export.onnx.check import compare, open_session, run
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.seen import defaults
from qfx.export.onnx.sizes import input_value
from qfx.graph.interpret import NamedInterpreter
from qfx.graph.meta import TensorInfo
from qfx.numerics.measures import error_of
from qfx.quant.reference_form import Measured, qparams_of
from qfx.runtime.quantized import QuantizedModel
from qfx.torch_private import pytree
from qfx.vocab import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

AGREES, NEXT_TO_NOTHING, AS_NEAR = 35.0, 3.0, 1.0
"""dB: from where on a form agrees with the model, what may be lost of that of the exact form, and
what against unrounded activations."""
FASTER = 0.97
"""What part of the time of another form is less."""
_SECONDS, _ROUNDS = 1.0, (3, 20)


@dataclass(frozen=True)
class FormTrial:
    """One form, as ONNX Runtime runs it.

    Attributes:
        form: its name.
        integer_kernels: how many operators of its optimized graph compute with integers.
        sqnr: against the reference graph, in dB.
        loss: how many dB further from the model with unrounded activations than the model itself.
        ms: the least time of a run, all forms in turns.
        refused: why ONNX Runtime does not load it, if it does not; the rest means nothing then.
    """

    form: str
    integer_kernels: int
    sqnr: float
    loss: float
    ms: float
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return f"  {self.form}: {self.refused}"
        return (
            f"  {self.form}: {self.integer_kernels} integer kernels, {self.sqnr:.1f} dB "
            f"({-self.loss:+.1f} dB against unrounded activations), {self.ms:.2f} ms"
        )


def best(trials: Sequence[FormTrial]) -> OnnxForm:
    """The form that rounds most of those that cost next to nothing and pay.

    The integer form pays where more of it runs in integers, the full integer form where it is
    faster, too: not all that engines do with integers is.
    """
    ran = [each for each in trials if not each.refused]
    if not ran:
        return OnnxForm.EXACT
    plain = chosen = ran[0]
    for each in ran[1:]:
        more = each.integer_kernels > chosen.integer_kernels
        pays = OnnxForm(each.form) is OnnxForm.INTEGER or each.ms < FASTER * chosen.ms
        if more and pays and _agrees(each, plain):
            chosen = each
    return OnnxForm(chosen.form)


def _agrees(rounded: FormTrial, plain: FormTrial) -> bool:
    near = rounded.sqnr >= min(AGREES, plain.sqnr - NEXT_TO_NOTHING)
    return near or rounded.loss <= AS_NEAR


def try_each(
    qmodel: QuantizedModel,
    forms: Mapping[OnnxForm, ir.Model],
    arguments: Mapping[str, object] | None,
) -> tuple[FormTrial, ...]:
    """Run each form on inputs by name, or on random ones."""
    reference = qmodel.reference
    given = example_arguments(reference) if arguments is None else arguments
    opened = {form: _session(written) for form, written in forms.items()}
    ran = {form: each for form, each in opened.items() if not isinstance(each, FormatError)}
    checks = [compare(qmodel, session, given, kernels) for session, kernels in ran.values()]
    tensors = feeds(reference, given)
    calls = [partial(run, session, tensors) for session, _ in ran.values()]
    unrounded, own = _against_unrounded(reference, given)
    losses = [own - _sqnr(unrounded, call()) for call in calls]
    rows = zip(ran, checks, losses, _least_ms(calls), strict=True)
    trials = {
        form: FormTrial(form.value, check.integer_kernels, check.sqnr, loss, ms)
        for form, check, loss, ms in rows
    }
    for form, refused in opened.items():
        if isinstance(refused, FormatError):
            trials[form] = FormTrial(form.value, 0, -math.inf, math.inf, math.inf, str(refused))
    return tuple(trials[form] for form in forms)


def _session(written: ir.Model) -> tuple[Any, dict[str, int]] | FormatError:
    """A session, and what its optimized graph has; or why ONNX Runtime opens none."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trial.onnx"
        model.save(written, path)
        try:
            return open_session(str(path))
        except FormatError as error:  # of its optimizers, which see another graph in each form
            return error


def _least_ms(calls: Sequence[Callable[[], object]]) -> list[float]:
    """The least time of each call, run in turns for about a second."""
    least, most = _ROUNDS
    times = [_round(calls)]
    rounds = min(max(int(_SECONDS / max(sum(times[0]), 1e-6)), least), most)
    times += [_round(calls) for _ in range(rounds)]
    return [1e3 * min(of_one) for of_one in zip(*times, strict=True)]


def _round(calls: Sequence[Callable[[], object]]) -> list[float]:
    def seconds() -> Iterator[float]:
        for call in calls:
            start = time.perf_counter()
            call()
            yield time.perf_counter() - start

    return list(seconds())


# -- against unrounded activations -----------------------------------------------------------------
class _Unrounded(NamedInterpreter):
    """Runs a reference graph without quantizing activations; weights are what codes stand for."""

    def run_node(self, n: fx.Node) -> Any:
        made = n.args[0] if is_op(n, vocab.DEQUANTIZE) else None
        reads_codes = isinstance(made, fx.Node) and is_op(made, vocab.QUANTIZE)
        if not reads_codes and not is_op(n, vocab.QUANTIZE):
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        return args[0]


def run_unrounded(reference: fx.GraphModule, arguments: Mapping[str, object]) -> Any:
    """What a reference graph yields for arguments by name, if it rounds no activations."""
    with torch.no_grad():
        return _Unrounded(reference, arguments).run()


def _against_unrounded(
    reference: fx.GraphModule, arguments: Mapping[str, object]
) -> tuple[list[Tensor], float]:
    """The outputs with unrounded activations, and how near to them the model's own are."""
    given = {**defaults(reference), **arguments}
    plain = run_unrounded(reference, given)
    with torch.no_grad():
        own = NamedInterpreter(reference, given).run()
    outputs = [leaf for leaf in pytree.tree_leaves(plain) if isinstance(leaf, Tensor)]
    mine = [leaf for leaf in pytree.tree_leaves(own) if isinstance(leaf, Tensor)]
    return outputs, _sqnr(outputs, mine)


def _sqnr(wanted: Sequence[Tensor], made: Sequence[Tensor]) -> float:
    """The SQNR of the worst output; far above what counts where they are equal."""
    pairs = zip(wanted, made, strict=True)
    found = min((error_of(w.float(), m.float()).sqnr for w, m in pairs), default=math.inf)
    return min(found, _EQUAL)


_EQUAL = 200.0


def example_arguments(reference: fx.GraphModule) -> dict[str, Any]:
    """Random inputs of the sizes of the examples; within their range, where they are quantized."""
    generator = torch.Generator().manual_seed(0)
    return {
        str(node.target).lstrip("*"): pytree.tree_map(
            lambda leaf, node=node: _made(node, leaf, generator),
            input_value(node),
            is_leaf=lambda leaf: isinstance(leaf, TensorInfo),
        )
        for node in reference.graph.find_nodes(op="placeholder")
    }


def _made(node: fx.Node, leaf: object, generator: torch.Generator) -> Any:
    if not isinstance(leaf, TensorInfo):
        return leaf
    if not leaf.dtype.is_floating_point:
        return torch.ones(leaf.shape, dtype=leaf.dtype)  # a token, a mask of all
    middle, deviation = _spread(node)
    return torch.randn(leaf.shape, generator=generator).mul_(deviation).add_(middle).to(leaf.dtype)


def _spread(node: fx.Node) -> tuple[float, float]:
    """Mean and deviation of numbers that fill the range of an input's codes."""
    module = node.graph.owning_module
    for user in node.users:
        if not is_op(user, vocab.QUANTIZE) or module is None:
            continue
        qparams = qparams_of(user, module)
        if isinstance(qparams, Measured) or isinstance(qparams.scale, Tensor):
            continue
        zero = int(qparams.zero_point)
        low, high = ((end - zero) * qparams.scale for end in (qparams.quant_min, qparams.quant_max))
        return (low + high) / 2, (high - low) / 6
    return 0.0, 1.0
