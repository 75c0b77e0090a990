"""QConfigMapping: precedence, prefixes, order, what matched nothing, JSON."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qfx import vocab
from qfx.errors import ConfigError, QfxWarning
from qfx.graph.meta import Origin
from qfx.graph.source import qualified_name, type_name
from qfx.quant.object_names import ObjectKey, with_twins
from qfx.quant.qconfig import QConfig, QConfigMapping, QuantSpec, module_types

LINEAR, CONV = type_name(nn.Linear), type_name(nn.Conv2d)


def config(bits: int) -> QConfig:
    """Distinct configurations that are told apart by their bits."""
    return QConfig(QuantSpec(torch.uint8, quant_max=2**bits - 1))


A, B, C, D, E = (config(bits) for bits in (8, 7, 6, 5, 4))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.conv = nn.Conv2d(2, 2, 1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.block2 = Block()


ORIGINS = [
    Origin("block_fc", "block.fc", "", LINEAR),
    Origin("add", "block", "", "torch.add"),
    Origin("add_1", "block", "", "torch.add"),
    Origin("block2_fc", "block2.fc", "", LINEAR),
    Origin("block2_conv", "block2.conv", "", CONV),
    Origin("relu", "", "", "Tensor.relu"),
]


def decided(mapping: QConfigMapping) -> dict[str, QConfig | None]:
    resolved = mapping.resolve_all(ORIGINS, module_types(Model()))
    return {name: resolution.qconfig for name, resolution in resolved.by_node.items()}


def unmatched(mapping: QConfigMapping) -> list[str]:
    return [r.name for r in mapping.resolve_all(ORIGINS, module_types(Model())).unmatched]


def test_without_rules_everything_stays_float() -> None:
    assert set(decided(QConfigMapping()).values()) == {None}


def test_precedence() -> None:
    mapping = QConfigMapping().set_global(A)
    assert decided(mapping)["block_fc"] == A
    mapping.set_object_type(nn.Linear, B)
    assert decided(mapping)["block_fc"] == B
    mapping.set_module_name_regex(r"block\.", C)
    assert decided(mapping)["block_fc"] == C
    mapping.set_module_name("block", D)
    assert decided(mapping)["block_fc"] == D
    mapping.set_module_name_object_type_order("block", nn.Linear, 0, E)
    assert decided(mapping)["block_fc"] == E
    assert decided(mapping)["block2_fc"] == B


def test_none_leaves_float_and_is_a_decision() -> None:
    mapping = QConfigMapping().set_global(A).set_module_name("block.fc", None)
    resolution = mapping.resolve("block.fc", LINEAR)
    assert resolution.qconfig is None
    assert resolution.rule is not None
    assert resolution.rule.name == "set_module_name('block.fc')"
    assert resolution.specific
    assert not mapping.resolve("x", LINEAR).specific


def test_nearest_named_module_decides() -> None:
    mapping = QConfigMapping().set_module_name("block", A).set_module_name("block.fc", B)
    found = decided(mapping)
    assert (found["block_fc"], found["add"], found["block2_fc"]) == (B, A, None)


def test_a_name_is_no_text_prefix() -> None:
    mapping = QConfigMapping().set_global(A).set_module_name("block", None)
    assert decided(mapping)["block2_conv"] == A


def test_the_root_is_the_module_without_name() -> None:
    assert set(decided(QConfigMapping().set_module_name("", A)).values()) == {A}


def test_first_regular_expression_wins_and_matches_from_the_start() -> None:
    mapping = QConfigMapping().set_module_name_regex(r".*fc", A)
    mapping.set_module_name_regex("block", B).set_module_name_regex("lock", C)
    found = decided(mapping)
    assert (found["block_fc"], found["block2_conv"], found["relu"]) == (A, B, None)
    assert unmatched(mapping) == ["set_module_name_regex('lock')"]


def test_order_counts_occurrences_directly_in_the_module() -> None:
    mapping = QConfigMapping().set_global(A)
    mapping.set_module_name_object_type_order("block", torch.add, 1, None)
    found = decided(mapping)
    assert (found["add"], found["add_1"]) == (A, None)


def test_order_in_the_parent_of_a_leaf_module() -> None:
    mapping = QConfigMapping().set_module_name_object_type_order("block2", nn.Conv2d, 0, A)
    assert decided(mapping)["block2_conv"] == A
    wrong = QConfigMapping().set_module_name_object_type_order("block2.conv", nn.Conv2d, 0, A)
    assert decided(wrong)["block2_conv"] is None
    assert len(unmatched(wrong)) == 1


def test_type_covers_what_is_inside_modules_of_that_type() -> None:
    mapping = QConfigMapping().set_global(A).set_object_type(Block, None)
    found = decided(mapping)
    assert (found["block_fc"], found["add"], found["relu"]) == (None, None, A)
    mapping.set_object_type(nn.Linear, B)
    assert decided(mapping)["block_fc"] == B


def test_types_fit_exactly_and_operations_fit_every_spelling() -> None:
    exact = QConfigMapping().set_object_type(nn.Linear, A)
    assert exact.resolve("", qualified_name(F.linear)).qconfig is None
    every = QConfigMapping().set_object_type(vocab.LINEAR, A)
    assert every.resolve("", qualified_name(F.linear)).qconfig == A
    assert every.resolve("fc", LINEAR).qconfig == A
    both = every.set_object_type(nn.Linear, B)
    assert both.resolve("fc", LINEAR).qconfig == B


@pytest.mark.parametrize("spelling", ["relu", "Tensor.relu", torch.Tensor.relu, vocab.RELU])
def test_methods(spelling: object) -> None:
    assert decided(QConfigMapping().set_object_type(spelling, A))["relu"] == A


def test_rules_that_match_nothing() -> None:
    mapping = QConfigMapping().set_global(A).set_module_name("head", None)
    mapping.set_object_type(nn.LSTM, A).set_module_name("block", B)
    mapping.set_module_name_object_type_order("block", torch.add, 2, None)
    assert unmatched(mapping) == [
        "set_module_name_object_type_order('block', torch.add, 2)",
        "set_module_name('head')",
        f"set_object_type({type_name(nn.LSTM)})",
    ]


def test_an_overruled_rule_did_match() -> None:
    mapping = QConfigMapping().set_object_type(nn.Conv2d, A).set_module_name("block2", B)
    assert unmatched(mapping) == []


def test_setting_again_replaces() -> None:
    mapping = QConfigMapping().set_module_name("block", A).set_module_name("block", B)
    assert decided(mapping)["add"] == B
    assert len(mapping.rules) == 1


def test_attributes_of_modules() -> None:
    model = Model()
    model.block.qconfig = A
    model.block2.fc.qconfig = None
    mapping = QConfigMapping().set_global(B)
    extended = mapping.with_attributes_of(model)
    found = decided(extended)
    assert (found["block_fc"], found["add"]) == (A, A)
    assert (found["block2_fc"], found["block2_conv"]) == (None, B)
    explicit = mapping.copy().set_object_type(nn.Linear, C).with_attributes_of(model)
    assert decided(explicit)["block2_fc"] == C
    assert decided(mapping)["block_fc"] == B


def test_attributes_of_classes() -> None:
    class Floating(Block):
        qconfig = None

    model = Model()
    model.block = Floating()
    found = decided(QConfigMapping().set_global(B).with_attributes_of(model))
    assert (found["block_fc"], found["block2_fc"]) == (None, B)
    model.block.qconfig = A
    assert decided(QConfigMapping().with_attributes_of(model))["block_fc"] == A


def test_foreign_attribute_is_ignored_aloud() -> None:
    model = Model()
    model.block.qconfig = object()
    with pytest.warns(QfxWarning, match="'block' has a qconfig attribute of type object"):
        mapping = QConfigMapping().with_attributes_of(model)
    assert mapping.rules == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.set_global(QuantSpec(torch.uint8)), "wrap it: QConfig"),
        (lambda m: m.set_module_name(3, None), "must be text"),
        (lambda m: m.set_module_name_regex("(", None), "no regular expression"),
        (lambda m: m.set_module_name_object_type_order("", torch.add, -1, None), "from 0"),
        (lambda m: m.set_object_type(int, None), "is no operation"),
        (lambda m: m.set_object_type(3, None), "is no operation"),
        (lambda m: m.set_object_type("vocab.nonsense", None), "no operation 'vocab.nonsense'"),
    ],
)
def test_refuses(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(QConfigMapping())  # type: ignore[operator]


def test_survives_json() -> None:
    mapping = (
        QConfigMapping()
        .set_global(A)
        .set_object_type(nn.Linear, None)
        .set_object_type(vocab.ADD, B)
        .set_object_type(torch.add, C)
        .set_module_name_regex("block", D)
        .set_module_name("block.fc", E)
        .set_module_name_object_type_order("block", torch.add, 1, None)
    )
    restored = QConfigMapping.from_dict(json.loads(json.dumps(mapping.to_dict())))
    assert restored == mapping
    assert decided(restored) == decided(mapping)
    assert mapping != QConfigMapping()


@pytest.mark.parametrize("data", [{}, {"rules": 3}, {"rules": [3]}, {"rules": [{"kind": "x"}]}])
def test_refuses_other_json(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        QConfigMapping.from_dict(data)  # type: ignore[arg-type]


def test_text_reads_as_the_calls() -> None:
    mapping = QConfigMapping().set_global(QConfig()).set_module_name("fc", None)
    assert repr(mapping) == (
        "QConfigMapping()\n"
        "    .set_module_name('fc', None)\n"
        "    .set_global(QConfig(activation=None, weight=None))"
    )


def test_twins() -> None:
    assert with_twins({nn.Linear}) == {LINEAR, qualified_name(F.linear)}
    relu6 = with_twins({nn.ReLU6})
    assert qualified_name(F.relu6) in relu6
    assert qualified_name(torch.clamp) not in relu6
    assert {"Tensor.relu", "Tensor.relu_", "torch.relu"} <= with_twins({nn.ReLU})
    assert qualified_name(F.batch_norm) in with_twins({nn.BatchNorm2d})
    assert with_twins({nn.LSTM}) == {type_name(nn.LSTM)}
    with pytest.raises(ConfigError, match="takes module types"):
        with_twins([F.linear])  # type: ignore[list-item]


def test_keys_of_every_operation_cover_its_spellings() -> None:
    for op in vocab.ops():
        key = ObjectKey.of(op)
        for spelling in (*op.modules, *op.functions, *op.methods):
            assert ObjectKey.of(spelling).names <= key.names
        assert ObjectKey.of(key.text) == key
