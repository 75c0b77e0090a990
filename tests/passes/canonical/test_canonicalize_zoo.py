"""Whole networks: they capture, all of them is canonical, and the numbers are the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from qfx import vocab
from qfx.testing.checking import Result, run
from qfx.vocab import OpDef
from qfx_passes.canonical.canonicalize import Canonicalize
from tools.networks import classifier, image_size, import_torchvision, randomise

MODELS = {
    "squeezenet1_1": 96,
    "shufflenet_v2_x0_5": 96,
    "mobilenet_v3_small": 96,
    "densenet": 64,
    "googlenet": 96,
    "swin": 160,
}
"""Each with another image size than the one it is captured at."""


def densenet() -> nn.Module:
    """Three blocks of two layers each, and the transitions between them."""
    models = import_torchvision().models
    return models.DenseNet(8, (2, 2, 2), 16, num_classes=10)


def swin() -> nn.Module:
    """Plain and shifted windows before and after a merge of patches."""
    models = import_torchvision().models
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [7, 7], num_classes=10)


FEWER: dict[str, Callable[[], nn.Module]] = {"densenet": densenet, "swin": swin}
"""What repeats a block many times, with each kind of block and few of them."""


def network(name: str) -> nn.Module:
    if name not in FEWER:
        return classifier(name)
    torch.manual_seed(0)
    model = FEWER[name]()
    randomise(model)
    return model.eval()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def as_written(result: Result) -> set[str]:
    """What is not in the vocabulary."""
    kinds = ("call_function", "call_method", "call_module")
    nodes = [n for n in result.graph_module.graph.nodes if n.op in kinds]
    others = [n.target for n in nodes if not isinstance(n.target, OpDef)]
    return {t if isinstance(t, str) else t.__name__ for t in others}


def largest_error(result: Result, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((result.graph_module(x) - model(x)).abs().max())


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_of_torchvision(name: str) -> None:
    model, size = network(name), image_size(name)
    result = run(Canonicalize(), model, torch.randn(2, 3, size, size))
    assert as_written(result) <= {"arange", "ge", "ne", "to"}, "the mask of shifted windows"
    assert largest_error(result, model, torch.randn(3, 3, size, size)) == 0
    other = MODELS[name]
    assert largest_error(result, model, torch.randn(1, 3, other, other)) == 0
    guards = [n for n in result.graph_module.graph.nodes if n.target is vocab.GUARD]
    assert not guards


def test_a_vision_transformer_is_taken_apart() -> None:
    torch.manual_seed(0)
    transformer = import_torchvision().models.vision_transformer.VisionTransformer
    model = transformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight)
    result = run(Canonicalize(), model, torch.randn(2, 3, 32, 32))
    assert not as_written(result)
    linear = [n for n in result.graph_module.graph.nodes if n.target is vocab.LINEAR]
    assert len(linear) == 2 * 4 + 1
    assert largest_error(result, model, torch.randn(3, 3, 32, 32)) < 1e-5
