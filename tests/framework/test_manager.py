"""Tests."""

import copy

import pytest
import torch
from torch import fx, nn

from qfx import vocab
from qfx.capture.capture import capture
from qfx.custom_passes import run_passes
from qfx.errors import (
    ConfigError,
)
from qfx.framework.instruments import Dump, Instrument, Timing
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_base import PatternPass
from qfx.framework.pipeline import CALIBRATE
from qfx.framework.registry import get_pass
from qfx.history.history import History
from qfx.rewrite import Any, Match, Module, Op, Rewriter, rewrite
from tests.framework.passes import ConvRelu, FuseConvRelu, X, do


@rewrite(Op("relu", Module(nn.Conv2d, Any("x"), bind="conv")))
def written_relu(match: Match, rw: Rewriter) -> fx.Node:
    return rw.call(torch.relu, match["conv"])


class AsWritten(PatternPass):
    name = "as-written"
    patterns = (written_relu,)


# -- run_passes ------------------------------------------------------------------------------------
def test_canonical_patterns_fire_and_the_model_stays() -> None:
    model = ConvRelu().eval()
    state = copy.deepcopy(model.state_dict())
    gm, history = run_passes(model, [FuseConvRelu()], X)
    assert [s.name for s in history] == ["capture", "canonicalize", "my-fuse"]
    assert history["my-fuse"].fired == {"my-fuse/conv_relu": 1}
    assert "conv2d+relu" in history[-1].snapshot.to_text()
    assert torch.equal(gm(X), model(X))
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert type(model) is ConvRelu


def test_passes_over_the_model_as_written_come_before_canonicalization() -> None:
    _, history = run_passes(ConvRelu(), [AsWritten, FuseConvRelu], X)
    assert [s.name for s in history] == ["capture", "as-written", "canonicalize", "my-fuse"]
    assert history["as-written"].fired == {"as-written/written_relu": 1}
    assert history["my-fuse"].fired == {"my-fuse/conv_relu": 1}


def test_nothing_is_canonicalized_for_passes_as_written_alone() -> None:
    _, history = run_passes(ConvRelu(), [AsWritten()], X)
    assert [s.name for s in history] == ["capture", "as-written"]


def test_pass_without_levels_sees_the_canonical_graph() -> None:
    seen = []
    look = do(lambda graph, ctx: seen.extend(n.target for n in graph.nodes if vocab.is_op(n)))
    run_passes(ConvRelu(), [look], X)
    assert vocab.CONV2D in seen


def test_stage_that_changes_nothing_is_recorded_and_shared() -> None:
    _, history = run_passes(ConvRelu(), [do(lambda graph, ctx: None)], X)
    assert history[-1].snapshot is history[-2].snapshot
    assert history[-1].events == ()


def test_code_is_generated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = capture(ConvRelu(), (X,))
    calls = []
    monkeypatch.setattr(fx.GraphModule, "recompile", lambda self: calls.append(self))
    run_pipeline(gm, [AsWritten(), do(lambda g, c: None)])
    assert calls == [gm]


def test_settings_reach_passes() -> None:
    class Settings:
        pass

    class Derived(Settings):
        pass

    given = Derived()
    found = []
    run_passes(ConvRelu(), [do(lambda g, c: found.append(c.get(Settings)))], X, settings=[given])
    assert found == [given]


def test_missing_settings_are_named() -> None:
    class Settings:
        pass

    with pytest.raises(ConfigError, match="pass do needs Settings settings, and none were given"):
        run_passes(ConvRelu(), [do(lambda g, c: c.get(Settings) and None)], X)


def test_marker_needs_splitting() -> None:
    with pytest.raises(ConfigError, match=r"the marker `calibrate`.*split"):
        run_pipeline(capture(ConvRelu(), (X,)), [CALIBRATE])


# -- instruments -----------------------------------------------------------------------------------
def test_instruments_are_told_in_order() -> None:
    told = []

    class Listener(Instrument):
        def on_start(self, ctx, stage) -> None:
            told.append(("start", stage.name))

        def before_pass(self, step, ctx) -> None:
            told.append(("before", step.name))

        def after_pass(self, step, ctx, stage) -> None:
            told.append(("after", stage.name))

    timing = Timing()
    run_passes(ConvRelu(), [AsWritten()], X, instruments=[Listener(), timing])
    assert told == [("start", "capture"), ("before", "as-written"), ("after", "as-written")]
    assert timing.seconds["as-written"] > 0
    assert str(timing).startswith("as-written ")


def test_dump_writes_each_stage(tmp_path) -> None:
    _, history = run_passes(ConvRelu(), [FuseConvRelu()], X, instruments=[Dump(tmp_path / "ir")])
    names = sorted(p.name for p in (tmp_path / "ir").iterdir())
    assert names == ["00-capture.txt", "01-canonicalize.txt", "02-my-fuse.txt"]
    assert history[2].snapshot.to_text() in (tmp_path / "ir" / "02-my-fuse.txt").read_text()


def test_history_goes_on_where_it_stopped() -> None:
    gm = capture(ConvRelu(), (X,))
    history = History()
    run_pipeline(gm, [AsWritten()], None, history)
    run_pipeline(gm, [AsWritten()], None, history)
    assert [s.title for s in history] == ["0 capture", "1 as-written", "2 as-written"]


def test_a_stage_keeps_why_its_rules_did_not_apply() -> None:
    class ReadTwice(ConvRelu):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y.relu() + y

    _, history = run_passes(ReadTwice(), [FuseConvRelu, FuseConvRelu], X)
    for stage in history[-2:]:  # each its own
        (miss,) = stage.near_misses
        assert (miss.rule, miss.node) == ("my-fuse/conv_relu", "relu")
        assert miss.reason == "conv: expected 1 user, has 2"
        assert miss.source.rpartition(":")[0].endswith("test_manager.py")
    _, history = run_passes(ReadTwice(), [FuseConvRelu, get_pass("canonicalize")], X)
    assert "and the pass canonicalize may make it canonical" in str(history[1].near_misses[0])
