"""What nodes yield, told without values."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.graph.fold_rules import normed
from qfx.graph.inference import Inference, UnknownValue
from qfx.graph.meta import TensorInfo
from tests.rewrite.graphs import GraphBuilder


def info(node: fx.Node, gm: fx.GraphModule) -> meta.Value:
    return Inference(gm).value(node)


def test_equal_literals_of_other_types_are_told_apart() -> None:
    b = GraphBuilder()
    x = b.input()
    meta.set_value(x, meta.TensorInfo((3,), torch.int64))
    whole, real, flag = (b.mul(x, factor) for factor in (1, 1.0, True))
    inference = Inference(b.done(whole, real, flag))
    dtypes = [inference.value(node).dtype for node in (whole, real, flag)]
    assert dtypes == [torch.int64, torch.float32, torch.int64]


def test_in_place_calls_leave_the_operand_as_it_is() -> None:
    b = GraphBuilder()
    x = b.input()
    first, second = b.method("unsqueeze_", x, 0), b.method("unsqueeze_", x, 1)
    inference = Inference(b.done(first, second))
    assert inference.value(first) == meta.TensorInfo((1, 1, 4), torch.float32)
    assert inference.value(second) == meta.TensorInfo((1, 1, 4), torch.float32)


def test_modules_keep_their_state_and_run_no_hooks() -> None:
    def hook(*_: object) -> None:
        raise AssertionError("the hook ran")

    norm = nn.BatchNorm1d(4).train()
    norm.register_forward_hook(hook)
    b = GraphBuilder()
    node = b.module("norm", norm, b.input())
    meta.set_value(node.args[0], meta.TensorInfo((3, 4), torch.float32))
    gm = b.done(node)
    before = torch.get_rng_state()
    assert info(node, gm) == meta.TensorInfo((3, 4), torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert int(norm.num_batches_tracked) == 0
    assert norm.running_mean.device.type == "cpu"


def test_what_reads_something_unknown_is_unknown() -> None:
    b = GraphBuilder()
    x = b.input()
    meta.set_value(x, None)
    node = b.relu(x)
    with pytest.raises(UnknownValue):
        info(node, b.done(node))


def test_a_refusal_is_of_zeros_of_the_same_shapes() -> None:
    b = GraphBuilder()
    x = b.input()
    by_value, unfit = b.call(lambda t: t if t.sum() > 0 else -t, x), b.call(torch.matmul, x, x)
    inference = Inference(b.done(by_value, unfit))
    for node in (by_value, unfit):
        with pytest.raises(RuntimeError):
            inference.value(node)
    assert inference.refusal(by_value) is None
    assert "shapes cannot be multiplied" in str(inference.refusal(unfit))


def test_computed_slices() -> None:
    b = GraphBuilder()
    x = b.input()
    columns = b.size(x, dim=1)
    meta.set_value(columns, None)
    half = b.call(vocab.SCALARS[operator.floordiv], columns, 2)
    meta.set_value(half, None)
    node = b.getitem(x, (slice(None), slice(None, half)))
    assert info(node, b.done(node)) == meta.TensorInfo((1, 2), torch.float32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (1, 3), (4, 2), (4, 3, 5, 5)])
def test_batch_norms_of_modules_are_told_as_they_run(
    shape: tuple[int, ...], training: bool
) -> None:
    norm = nn.BatchNorm1d(3).train(training)
    told = normed(norm, TensorInfo(shape, torch.float32))
    try:
        expected: TensorInfo | None = meta.describe(norm(torch.ones(shape)))
    except (ValueError, RuntimeError):
        expected = None
    assert told == expected
    assert normed(nn.LayerNorm(3), TensorInfo(shape, torch.float32)) is None


def test_a_device_is_not_that_of_the_tensors_that_stand_in() -> None:
    b = GraphBuilder()
    x = b.input()
    meta.set_value(x, meta.TensorInfo((3,), torch.float32))
    device = b.call(vocab.DEVICE, x)
    kind = b.call(getattr, device, "type")
    is_cpu = b.call(vocab.SCALARS[operator.eq], kind, "cpu")
    for node in (device, kind, is_cpu):
        meta.set_value(node, None)
    guard = b.call(vocab.GUARD, is_cpu, expected=True, what="its device")
    with pytest.raises(UnknownValue):
        Inference(b.done(guard)).value(guard)
