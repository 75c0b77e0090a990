"""What canonicalize leaves as it was written, and what it says of what it did."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.graph import meta
from qfx.testing.checking import run
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.cases.flow import seeded
from tests.passes.canonical.canonical_forms import Lambda, X, calls, canonical, image, notes
from tests.passes.stages import Net, change


def test_a_module_with_hooks_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, result: result * 2)
    result = canonical(model, image(2, 3))
    assert calls(result) == ["0", vocab.RELU]
    assert "hooks" in notes(result)[0]


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (nn.LSTM(3, 4, proj_size=2), image(5, 2, 3)),
        (nn.Embedding(5, 3, max_norm=1.0), torch.tensor([1, 4])),
        (nn.EmbeddingBag(5, 3, max_norm=1.0), torch.tensor([[1, 4]])),
    ],
)
def test_opaque_modules_stay(module: nn.Module, inputs: Tensor) -> None:
    model = Lambda(lambda m, x: m.layer(x), layer=module).eval()
    assert "layer" in calls(canonical(model, inputs))


def test_the_history_names_the_family_that_rewrote_a_call() -> None:
    def forward(m: object, x: Tensor) -> Tensor:
        x.abs()
        return torch.relu_(F.dropout(x * 2, 0.5, False).float()).view(x.shape[0], -1)

    result = canonical(forward, image(*X))
    rules = {event.rule for event in result.history["canonicalize"].events}
    families = ("rename-spellings", "dropouts", "casts", "sizes", "remove-unread")
    assert {f"canonicalize/{name}" for name in families} <= rules


def test_a_shared_module_is_read_twice() -> None:
    layer = nn.Linear(3, 3)
    result = canonical(lambda m, x: m.a(m.b(x)), image(2, 3), a=layer, b=layer)
    reads = [n.target for n in result.graph_module.graph.nodes if n.op == "get_attr"]
    assert reads == ["a.weight", "a.bias"] * 2


def test_names_and_origins_are_those_of_the_capture() -> None:
    result = canonical(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), image(1, 3, 5, 5))
    compute = [n for n in result.graph_module.graph.nodes if n.op == "call_function"]
    assert [n.name for n in compute] == ["_0", "_1"]
    assert [meta.origins(n)[0].node for n in compute] == ["_0", "_1"]
    assert [meta.module_path(n) for n in compute] == ["0", "1"]
    assert [meta.rule_of(n) for n in compute] == ["canonicalize/rename-spellings"] * 2


def test_trainable_keeps_what_training_changes() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)).eval()
    result = run(Canonicalize(trainable=True), model, image(*X))
    assert calls(result) == [vocab.CONV2D, vocab.BATCH_NORM, vocab.RELU, vocab.DROPOUT]
    assert str(Canonicalize(trainable=True)) == "canonicalize{trainable=true}"


def test_unknown_calls_stay_as_written() -> None:
    result = canonical(lambda m, x: torch.special.i1(x.mvlgamma(1)), image(*X))
    assert calls(result) == ["mvlgamma", torch.special.i1]
    assert not notes(result)


def test_dead_code_goes_and_guards_stay() -> None:
    def dead(m: object, x: Tensor) -> Tensor:
        x.sigmoid()
        if x.shape[0] > 1:
            return x + 1
        return x

    greater = vocab.SCALARS[operator.gt]
    assert calls(canonical(dead, image(*X))) == [vocab.SIZE, greater, vocab.GUARD, vocab.ADD]


def test_a_family_that_there_is_not_is_named_with_those_there_are() -> None:
    with pytest.raises(
        qfx.ConfigError, match="no family called 'attention'; it has: functionalize"
    ):
        Canonicalize(leave_out=("attention",))
    with pytest.raises(qfx.ConfigError, match=r"did you mean expand-attention\?"):
        qfx.pipelines.static().without("attention")
    with pytest.raises(qfx.ConfigError, match=r"parts of canonicalize \(functionalize"):
        qfx.pipelines.static().without("zzz")


def test_what_a_family_knew_is_float_without_it() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    pipeline = qfx.pipelines.static().without("expand-attention")
    made = qfx.quantize(model, image(2, 5, 8), pipeline=pipeline)
    (site,) = [s for s in made.report.sites if s.op == "MultiheadAttention"]
    assert (site.decision, site.reason) == ("float", "opaque-module")


AFTER = """\
- %conv : f32[2,4,4,4] = Conv2d[@conv](%x)
- %relu : f32[2,4,4,4] = torch.relu(%conv)
- %mean : f32[2,4] = .mean(%relu, (2, 3))
- %fc : f32[2,2] = Linear[@fc](%mean)
+ %conv : f32[2,4,4,4] = conv2d(%x, @conv.weight, @conv.bias)
+ %relu : f32[2,4,4,4] = relu(%conv)
+ %mean : f32[2,4] = mean(%relu, dim=(2, 3))
+ %fc : f32[2,2] = linear(%mean, @fc.weight, @fc.bias)
"""


def test_the_graph_before_and_after() -> None:
    assert change(canonical(seeded(Net), image(2, 3, 6, 6)).history, "canonicalize") == AFTER
