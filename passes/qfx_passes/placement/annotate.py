"""annotate: decide which values are quantized, with what spec and which shared group.

Nothing is inserted. Two sweeps over the graph, both linear:

*Backwards*, operations that ask for integers (:class:`~qfx.backends.base.Demand`) demand them of
their operands, and operations that pass values through hand a demand on to their own operands, so
that a chain of reshapes before a convolution moves integers; not where float is at hand and someone
else wants it, who would get it rounded. A residual that a kernel adds as a
post-op is demanded only where the kernel's result is wanted in integers by everyone.

*Forwards*, operations that merely follow run in integers when all their inputs are handed out in
integers anyway. So does the addition of a mask to attention scores, and softmax: what masks put in
(-inf) no scale can represent.

Values of one group (the input and the output of a pool, say) share their qparams; groups are kept
by union-find. A kernel that can requantize what it joins shares only with what is made for it
alone (see :mod:`qfx_passes.placement.settle_joins`).
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.backends.base import Backend, Demand, KernelRule, Output
from qfx.backends.fitting import (
    in_float,
    settled_weight,
)
from qfx.backends.saturation import HIGHEST_SAFE
from qfx.configuration.configuration import Configuration, ResolvedQConfig
from qfx.errors import BackendError, ConfigError
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.quant.annotation import Annotation, Decision, annotate
from qfx.quant.groups import Groups, is_fixed, rescaled
from qfx.quant.qparams import QParams
from qfx.quant.reasons import refusal
from qfx.quant.spec import QConfig, QuantSpec
from qfx.vocab import OpDef, is_op
from qfx_passes.operands import (
    asks_shape,
    float_operands,
    is_float_operation,
    post_names,
    post_operands,
)
from qfx_passes.placement.eligibility import Eligibility
from qfx_passes.placement.settle_joins import made_for

QUANTIZED = Decision(True)


class Annotate(Pass):
    """Write an :class:`~qfx.quant.annotation.Annotation` on every operation."""

    name = "annotate"

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        _Annotator(graph, ctx.get(Backend), ctx.get(Configuration)).run()


class _Annotator:
    def __init__(self, graph: fx.Graph, backend: Backend, configuration: Configuration) -> None:
        self.graph = graph
        self.backend = backend
        self.configuration = configuration
        self.eligibility = Eligibility(graph, backend, configuration)
        self.groups = Groups()
        self.values: dict[fx.Node, dict[QuantSpec, int]] = {}  # quantized values and their groups
        self.reads: dict[fx.Node, dict[fx.Node, int]] = {}  # integer operations and their operands
        self.outputs: dict[fx.Node, int] = {}  # results handed out in integers only
        self.measured: dict[fx.Node, dict[QuantSpec, int]] = {}
        # Operations that are not static, float in and out, and what they quantize when they run:
        self.at_run_time: dict[fx.Node, dict[fx.Node, int]] = {}
        self.rules: dict[fx.Node, tuple[KernelRule, ResolvedQConfig]] = {}
        self.refused: dict[fx.Node, Decision] = {}
        self.integer_only: set[fx.Node] = set()  # results of kernels that never hand out float

    def run(self) -> None:
        nodes = list(self.graph.nodes)
        for node in nodes:
            self._judge(node)
        for node in reversed(nodes):
            self._backward(node)
        for node in nodes:
            self._forward(node)
        for node in nodes:
            self._write(node)

    # -- eligibility --------------------------------------------------------------------------
    def _judge(self, node: fx.Node) -> None:
        if not is_float_operation(node):
            return
        judged = self.eligibility.judge(node)
        if isinstance(judged, Decision):
            self.refused[node] = judged
        else:
            self.rules[node] = judged
            if self._hands_out_integers(node, judged[0]):
                self.integer_only.add(node)

    def _hands_out_integers(self, node: fx.Node, rule: KernelRule) -> bool:
        """Whether the result of ``node`` can only be integers, if its kernel is used."""
        if rule.output is Output.SHARED:
            operands = list(float_operands(node, rule.operands))
            return bool(operands) and self.integer_only.issuperset(operands)
        return rule.output is not Output.EITHER and rule.demand is Demand.ASKS

    # -- sweeps -------------------------------------------------------------------------------
    def _backward(self, node: fx.Node) -> None:
        if node not in self.rules:
            return
        rule, choice = self.rules[node]
        assert choice.qconfig is not None
        if choice.qconfig.method != "static":
            self._quantize_at_run_time(node, rule, choice.qconfig)
        elif rule.demand is Demand.ASKS and not _masks_scores(node):
            self._ask(node, rule, choice)
        elif rule.demand is Demand.PULLS and self._is_pulled(node):
            self._share(node, next(iter(self.values[node])))

    def _quantize_at_run_time(self, node: fx.Node, rule: KernelRule, qconfig: QConfig) -> None:
        """Let a layer take and hand out float: nothing is asked of its neighbours."""
        spec = None if in_float(qconfig) else qconfig.activation
        operands = () if spec is None else float_operands(node, rule.operands)
        self.at_run_time[node] = {v: self._measured(v, spec) for v in operands if spec is not None}

    def _measured(self, value: fx.Node, spec: QuantSpec) -> int:
        """The number of a value that is measured: once, however many layers read it."""
        groups = self.measured.setdefault(value, {})
        if spec not in groups:
            groups[spec] = self.groups.new(spec)
        return groups[spec]

    def _is_pulled(self, node: fx.Node) -> bool:
        """Whether ``node`` is read in integers, and nobody would rather have it unrounded."""
        only = node in self.integer_only or self._wanted_as_integer(node)
        return node in self.values and only

    def _ask(self, node: fx.Node, rule: KernelRule, choice: ResolvedQConfig) -> None:
        assert choice.qconfig is not None
        spec = choice.qconfig.activation
        assert spec is not None
        self._check_fixed(node, rule, choice)
        all_integer = self._wanted_as_integer(node)
        if rule.output in (Output.INTEGER, Output.FIXED):
            self.outputs[node] = self._quantized(node, spec)
        fixed = self._fixed(node, rule)
        if fixed is not None and node in self.outputs:
            self.groups.fix(self.outputs[node], fixed)
        operands = list(float_operands(node, rule.operands))
        # A float result takes a float residual, unless that is quantized for others anyway:
        # then dequantizing it is cheaper than having its maker hand out both.
        whole = rule.output is Output.INTEGER or all_integer
        operands += [v for v in post_operands(node) if whole or self._is_asked_for(v)]
        self.reads[node] = {v: self._quantized(v, spec) for v in operands}

    def _fixed(self, node: fx.Node, rule: KernelRule) -> QParams | None:
        """The qparams that the last step of ``node`` (its own, or a post-op) fixes, if any."""
        post = post_names(node)
        last = self.backend.rule(vocab.lookup(post[-1])) if post else rule
        fixed = last.fixed if last is not None else None
        if fixed is None or not self.backend.saturates:
            return fixed
        return rescaled(fixed, fixed.dtype, (0, HIGHEST_SAFE))

    def _is_asked_for(self, value: fx.Node) -> bool:
        """Whether some operation asks for ``value`` in integers as its main operand."""
        askers = ((user, self.rules[user][0]) for user in value.users if user in self.rules)
        return any(
            rule.demand is Demand.ASKS and value in float_operands(user, rule.operands)
            for user, rule in askers
        )

    def _wanted_as_integer(self, node: fx.Node) -> bool:
        readers = [user for user in node.users if not asks_shape(user)]
        return bool(readers) and all(node in self.reads.get(user, ()) for user in readers)

    def _quantized(self, value: fx.Node, spec: QuantSpec) -> int:
        groups = self.values.setdefault(value, {})
        if spec not in groups:
            groups[spec] = self.groups.new(spec)
        return groups[spec]

    def _share(self, node: fx.Node, spec: QuantSpec) -> None:
        rule, _ = self.rules[node]
        operands = list(float_operands(node, rule.operands))
        if not operands:
            return
        group = self._quantized(node, spec)
        self.reads[node] = {v: self._quantized(v, spec) for v in operands}
        for value, number in self.reads[node].items():
            if not rule.requantizes or made_for(node, value, self.backend):
                self.groups.union(group, number)
        if len(self.reads[node]) > 1:
            self.groups.mix(group)
        self.outputs[node] = group

    def _forward(self, node: fx.Node) -> None:
        if node not in self.rules or node in self.reads or node in self.at_run_time:
            return
        rule, choice = self.rules[node]
        operands = list(float_operands(node, rule.operands))
        if not operands or any(v not in self.outputs for v in operands):
            return
        if rule.output is not Output.SHARED:
            self._ask(node, rule, choice)
            return
        specs = {self.groups.edge(self.outputs[v]).spec for v in operands}
        if len(specs) == 1:
            self._share(node, specs.pop())

    def _check_fixed(self, node: fx.Node, rule: KernelRule, choice: ResolvedQConfig) -> None:
        if rule.output is not Output.FIXED or not choice.specific:
            return
        assert choice.qconfig is not None
        assert choice.qconfig.activation is not None
        if is_fixed(choice.qconfig.activation):
            return
        raise ConfigError(
            f"{meta.where(node)}: the output of {rule.op.name} has fixed qparams, but "
            f"{choice.rule} asks for {choice.qconfig.activation}. Drop that rule, or set it to "
            "None to leave the operation float."
        )

    # -- result -------------------------------------------------------------------------------
    def _write(self, node: fx.Node) -> None:
        if not is_float_operation(node):
            return
        reads = self.reads.get(node, self.at_run_time.get(node))
        if reads is None:
            annotate(node, Annotation(self._why_float(node)))
            return
        rule, choice = self.rules[node]
        assert choice.qconfig is not None
        output = self.outputs.get(node)
        annotate(
            node,
            Annotation(
                QUANTIZED,
                {v.name: self.groups.edge(number) for v, number in reads.items()},
                None if output is None else self.groups.edge(output),
                self._weight_spec(node, rule, choice),
                rule=choice.rule,
            ),
        )

    def _weight_spec(
        self, node: fx.Node, rule: KernelRule, choice: ResolvedQConfig
    ) -> QuantSpec | None:
        if rule.weight is None:
            _check_needs_none(node, rule)
            return None
        assert choice.qconfig is not None
        assert choice.qconfig.weight is not None
        asked = choice.qconfig.weight
        spec = settled_weight(asked, rule.weight)
        default = self.backend.defaults.get(choice.qconfig.method)
        is_meant = choice.specific or default is None or asked != default.weight
        if is_meant and spec.per_channel != asked.per_channel:
            at = f"{meta.where(node)}: " if choice.specific else ""
            self.configuration.warn(
                f"{at}{rule.kernel} takes one weight scale per tensor, so per_channel of "
                f"{choice.rule} has no effect"
            )
        return spec

    def _why_float(self, node: fx.Node) -> Decision:
        if node in self.refused:
            return self.refused[node]
        rule, _ = self.rules[node]
        return refusal("float-is-free" if rule.demand is Demand.PULLS else "float-inputs")


def _check_needs_none(node: fx.Node, rule: KernelRule) -> None:
    """BackendError if ``rule`` would leave the weight of a layer float, and call it quantized."""
    if rule.emit is None and (rule.op.layer or "weights" in rule.op.signature.parameters):
        error = BackendError(
            f"{meta.where(node)}: the row {rule.kernel!r} of {rule.op.name} has no weight=, so the "
            "layer's weight would stay float: give weight=WeightRule(...)"
        )
        error.node = node.name
        raise error


def _masks_scores(node: fx.Node) -> bool:
    """Whether ``node`` adds a mask to attention scores: -inf, or -1e4, has no place in a scale."""
    targets = (user.target for user in node.users)
    return is_op(node, vocab.ADD) and any(isinstance(t, OpDef) and t.reads_scores for t in targets)
