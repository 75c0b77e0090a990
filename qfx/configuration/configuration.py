"""What the user asked for, resolved for each operation of a capture.

One rule decides an operation; a fused node is decided by the first operation that it holds (the
convolution of conv+bn+relu), as users of PyTorch know it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx, nn

from qfx.backends.base import Backend
from qfx.configuration.defaults import get_default_qconfig_mapping
from qfx.errors import ConfigError, warn
from qfx.graph import meta
from qfx.quant.object_names import with_twins
from qfx.quant.qconfig import Precedence, QConfigMapping, Resolution, module_types
from qfx.quant.qconfig_rules import ancestors
from qfx.quant.spec import QConfig


@dataclass(frozen=True)
class ResolvedQConfig:
    """What is asked of one operation.

    Attributes:
        qconfig: how to quantize it; None leaves it float.
        reason: why it stays float, a code of :data:`qfx.quant.reasons.REASONS`.
        rule: the rule that decided, as text.
        specific: whether that rule names the operation rather than everything.
        by_type: whether it names the type of the operation.
    """

    qconfig: QConfig | None
    reason: str = "qconfig-none"
    rule: str = "no rule applies"
    specific: bool = False
    by_type: bool = False


class Configuration:
    """The user's rules over one captured graph.

    Attributes:
        unmatched: what to warn of: the rules that match no operation of this graph.

    Args:
        captured: the graph as captured.
        model: the user's model, for ``qconfig`` attributes and module types.
        qconfig: what the user gave; None for the backend's default.
        types: restrict quantization to these module types and their functional twins.
        quiet: warn of nothing, for one of several graphs of the model.
    """

    def __init__(
        self,
        captured: fx.GraphModule,
        model: nn.Module,
        qconfig: QConfig | QConfigMapping | None,
        backend: Backend,
        method: str,
        types: Iterable[type[nn.Module]] | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        self._warnings: dict[str, None] = {}
        self._global = _global_name(qconfig)
        mapping = _mapping(qconfig, backend, method).with_attributes_of(
            model, self.note if quiet else self.warn
        )
        origins = [o for node in captured.graph.nodes for o in meta.origins(node)]
        resolved = mapping.resolve_all(origins, module_types(model))
        self._by_node = resolved.by_node
        self._type_names = {o.node: o.type_name for o in origins}
        self._types = None if types is None else with_twins(types)
        self.unmatched = tuple(
            f"{rule.name} matches no operation{_inside(rule.module, origins, model)}"
            for rule in resolved.unmatched
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was asked for and had no effect, or another; see :meth:`warn`, :meth:`note`."""
        return tuple(self._warnings)

    def warn_unmatched(self) -> None:
        """Warn of the rules that match nothing."""
        for message in self.unmatched:
            self.warn(message)

    def warn(self, message: str) -> None:
        """Warn of something that was asked for and has no effect."""
        if message not in self._warnings:
            self._warnings[message] = None
            warn(message)

    def note(self, message: str) -> None:
        """Say in the report, and there only, what an open choice came to."""
        self._warnings[message] = None

    def resolve(self, node: fx.Node) -> ResolvedQConfig:
        """What is asked of ``node``."""
        origin = next((o for o in meta.origins(node) if o.node in self._by_node), None)
        if origin is None:
            return ResolvedQConfig(None)
        if self._types is not None and self._type_names[origin.node] not in self._types:
            return ResolvedQConfig(None, "not-in-types")
        return _choice(self._by_node[origin.node], self._global)


def _inside(path: str, origins: Iterable[meta.Origin], model: nn.Module) -> str:
    """Which module to name instead, where ``path`` is a part of one that is captured whole."""
    types = module_types(model)
    if path not in types:
        return ""
    whole = {o.module_path: o.type_name for o in origins if o.type_name == types.get(o.module_path)}
    for outer in ancestors(path.rpartition(".")[0]):
        if outer in whole:
            kind = whole[outer].rpartition(".")[2]
            return (
                f": {path!r} is a part of {outer!r} ({kind}), which rules take as one; name "
                f"{outer!r} instead"
            )
    return ""


def _mapping(
    qconfig: QConfig | QConfigMapping | None, backend: Backend, method: str
) -> QConfigMapping:
    if qconfig is None:
        return get_default_qconfig_mapping(backend, method)
    if isinstance(qconfig, QConfig):
        return QConfigMapping().set_global(qconfig)
    if isinstance(qconfig, QConfigMapping):
        return qconfig
    kind = type(qconfig)
    of_torch = kind.__module__.startswith("torch.ao.")
    name = f"{kind.__module__}.{kind.__name__}" if of_torch else kind.__name__
    likes = "; qfx.get_default_qconfig_mapping(backend) makes the like" if of_torch else ""
    raise ConfigError(f"qconfig is {name}; give a qfx.QConfig, a qfx.QConfigMapping or None{likes}")


def _global_name(qconfig: QConfig | QConfigMapping | None) -> str:
    """What the user knows the rule for everything as; "" for its own name."""
    if qconfig is None:
        return "the default of the backend"
    return "the QConfig given as qconfig=" if isinstance(qconfig, QConfig) else ""


def _choice(resolution: Resolution, global_name: str) -> ResolvedQConfig:
    rule, qconfig = resolution.rule, resolution.qconfig
    if qconfig == QConfig():  # neither side: another way to say None
        qconfig = None
    if rule is None:
        return ResolvedQConfig(qconfig)
    if rule.kind is Precedence.GLOBAL:
        return ResolvedQConfig(qconfig, rule=global_name or rule.name)
    by_type = rule.kind in (Precedence.ORDER, Precedence.OBJECT_TYPE)
    return ResolvedQConfig(qconfig, rule=rule.name, specific=True, by_type=by_type)
