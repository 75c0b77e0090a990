"""Passes over what passes left: names, origins and levels go on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x)) + 1


@pytest.fixture(scope="module")
def canonical() -> fx.GraphModule:
    return qfx.run_passes(Net(), [qfx.get_pass("canonicalize")], X)[0]


def text(history: qfx.History, stage: int) -> str:
    return history[stage].snapshot.to_text()


def test_names_paths_and_lines_stay(canonical: fx.GraphModule) -> None:
    _, history = qfx.run_passes(canonical, [qfx.get_pass("fuse-post-ops")], X)
    first = history[0].snapshot["fc"]
    assert first.target == "linear"
    assert first.module_path == "fc"
    assert first.source.startswith("test_continued.py:")
    assert "linear+relu" in text(history, -1)
    assert [o.node for o in history[-1].snapshot["fc_act"].origins] == ["fc", "act"]


def test_the_graph_that_was_given_stays_as_it_is(canonical: fx.GraphModule) -> None:
    before = canonical.code
    result, _ = qfx.run_passes(canonical, [qfx.get_pass("fuse-post-ops")], X)
    assert canonical.code == before
    assert result.get_parameter("fc.weight") is not canonical.get_parameter("fc.weight")
    torch.testing.assert_close(result(X), canonical(X))


def test_other_sizes_are_recorded(canonical: fx.GraphModule) -> None:
    _, history = qfx.run_passes(canonical, [], torch.randn(5, 8))
    assert "%add : f32[5,8]" in text(history, 0)


def test_inputs_that_do_not_fit(canonical: fx.GraphModule) -> None:
    with pytest.raises(qfx.ConfigError, match="the example inputs do not fit the graph: "):
        qfx.run_passes(canonical, [], torch.randn(2, 3))


def test_what_plain_fx_added_since_gets_origins(canonical: fx.GraphModule) -> None:
    copied, _ = qfx.run_passes(canonical, [], X)
    act = next(n for n in copied.graph.nodes if n.name == "act")
    with copied.graph.inserting_after(act):
        extra = copied.graph.call_function(torch.neg, (act,))
    act.replace_all_uses_with(extra, delete_user_cb=lambda user: user is not extra)
    copied.recompile()
    _, history = qfx.run_passes(copied, [], X)
    assert history[0].snapshot["neg"].type_text == "f32[2,8]"
    assert history[0].snapshot["neg"].module_path == "act"


def test_a_quantized_model_goes_on_from_its_kernels() -> None:
    @qfx.rewrite(qfx.Op(vocab.ADD, qfx.Any("x"), 1))
    def one_to_two(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
        return rw.call(vocab.ADD, match["x"], 2)

    class AddTwo(qfx.PatternPass):
        name = "add-two"
        keeps_values = False
        patterns = (one_to_two,)

    quantized = qfx.quantize(Net().eval(), X)
    result, history = qfx.run_passes(quantized, [AddTwo()], X)
    assert len(history[0].snapshot) == len(quantized.history[-1].snapshot)
    assert "fc" in {r.module_path for r in history[0].snapshot}
    torch.testing.assert_close(result(X), quantized(X) + 1)
    with pytest.raises(qfx.ConfigError, match="already at LOWERED before it; leave it out"):
        qfx.run_passes(quantized, [qfx.get_pass("canonicalize")], X)


def test_generating_its_code_is_no_step_of_a_model(recwarn: pytest.WarningsRecorder) -> None:
    gm, _ = qfx.run_passes(Net().eval(), [], X)
    qfx.prepare(gm, X, method="qat", backend="reference")
    assert not [str(w.message) for w in recwarn if "forward sets" in str(w.message)]
