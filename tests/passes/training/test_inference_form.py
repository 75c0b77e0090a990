"""inference-form: the graph that is meant, back from the one that was trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.vocab import DROPOUT, is_op
from tests.cases.flow import seeded
from tests.passes.stages import Net, Normed, X, change, text


def trained(model: nn.Module) -> qfx.PreparedModel:
    found = qfx.prepare(model.train(), X, method="qat", backend="reference")
    found(X)
    return found


def test_the_graph_that_is_meant_is_back() -> None:
    prepared = trained(seeded(Net))
    converted = qfx.convert(prepared).history
    assert text(converted, "inference-form") == text(prepared.history, "start-from")
    assert text(converted, "inference-form") != text(prepared.history, "training-form")


class Dropping(nn.Module):
    """Dropouts: one that values pass, and one that a kernel computes along."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(6, 6), nn.Linear(6, 6), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(self.last(self.drop(torch.relu(self.first(x)))) + x)
        return y


def drops(graph: fx.Graph) -> bool:
    post = [str(node.kwargs.get("post", ())) for node in graph.nodes]
    return any(is_op(n, DROPOUT) for n in graph.nodes) or any("dropout" in each for each in post)


def test_dropouts_are_gone() -> None:
    prepared = trained(seeded(Dropping))
    meant = prepared.settings.trained
    assert meant is not None
    assert drops(meant.graph)
    assert not drops(qfx.convert(prepared).reference.graph)


def test_weights_that_hold_no_numbers_are_named() -> None:
    prepared = trained(seeded(Net))
    with torch.no_grad():
        prepared.get_parameter("fc.weight").fill_(torch.nan)
    with pytest.raises(qfx.QfxError, match=r"fc\.weight"):
        qfx.convert(prepared)


AFTER = """\
- %bn_factor : f32[4] = NormFactor[@bn_factor](@bn.running_var, @bn.weight)
- %conv_bn_2_relu_2 : f32[4,3,3,3] = scale_channels(@conv.weight, %bn_factor)
- %conv_weight_fake_quant : f32[4,3,3,3] = FAKE_QUANT(%conv_bn_2_relu_2)
- %conv_bn_2_relu_3 : f32[2,4,4,4] = conv2d(%fake_quant_1, %conv_weight_fake_quant)
- %conv_bn_2_relu_4 : f32[2,4,4,4] = unscale_channels(%conv_bn_2_relu_3, %bn_factor)
- %bn_2 : f32[2,4,4,4] = BatchNorm2d[@bn](%conv_bn_2_relu_4)
- %conv_bn_2_relu : f32[2,4,4,4] = relu(%bn_2)
+ %conv_bn : f32[4,3,3,3] = fold_weight(@conv.weight, @bn.running_var, @bn.weight, eps=1e-05)
+ %conv_bn_1 : f32[4] = fold_bias(BN, eps=1e-05)
+ %conv_bn_2_relu : f32[2,4,4,4] = conv2d+relu(%fake_quant_1, %conv_bn, %conv_bn_1)
"""


def test_folds_of_batch_norms_are_back() -> None:
    shown = change(qfx.convert(trained(seeded(Normed))).history, "inference-form")
    shown = shown.replace("WeightFakeQuantize[@conv.weight_fake_quant]", "FAKE_QUANT")
    folded = "@bn.running_mean, @bn.running_var, @bn.weight, @bn.bias"
    assert shown.replace(folded, "BN") == AFTER
