"""qfx.tune: the smallest model that is good enough, whatever happens on the way."""

from __future__ import annotations

import copy
import math
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import qfx
from tests.support.digits import digits
from tests.tuning.nets import LABELS, Planted, X, bits_of, net

BATCHES = [X, -X]


def _tune(evaluate: Planted, **options: object) -> qfx.QuantizedModel:
    return qfx.tune(net(), X, BATCHES, evaluate, backend="reference", **options)  # type: ignore[arg-type]


def test_narrows_what_costs_nothing(tmp_path: Path) -> None:
    planted = Planted({("second", 4): 0.5})
    best = _tune(planted)
    assert bits_of(best) == {"first": 4, "second": 8, "last": 4}
    tuning = best.tuning
    assert tuning is not None
    assert tuning.met
    assert tuning.best.score == 1.0
    assert tuning.stopped == "finished"
    assert set(tuning.best.int4) == {"first", "linear"}
    assert min(t.size or 0 for t in tuning if t.meets) == best.report.size_bytes[1]
    assert tuning.pareto[0].size == min(t.size or 0 for t in tuning)
    shown = tuning.to_svg(tmp_path / "search.svg").read_text()
    assert ElementTree.fromstring(shown).tag.endswith("svg")
    assert shown.count("<circle") == len(tuning) + 1
    assert planted.calls == len(tuning) + 1  # none twice, and the float model


def test_all_in_4_bits_where_that_is_good() -> None:
    best = _tune(Planted({}))
    assert bits_of(best) == dict.fromkeys(LABELS, 4)
    assert len(best.tuning or ()) == 2


def test_leaves_float_what_8_bits_cost() -> None:
    costs = {(layer, bits): 0.5 for layer in ("second", "last") for bits in (8, 4)}
    best = _tune(Planted(costs))
    assert bits_of(best) == {"first": 4, "second": 32, "last": 32}
    assert best.tuning is not None
    assert best.tuning.met


def test_returns_the_highest_score_where_nothing_is_good() -> None:
    costs = {(layer, bits): 0.5 for layer in LABELS for bits in (8, 4)}
    best = _tune(Planted(costs))
    tuning = best.tuning
    assert tuning is not None
    assert not tuning.met
    assert tuning.best.score == max(t.score for t in tuning if t.score is not None) == 0.5
    assert "not met" in str(tuning)


def test_min_score_needs_no_float_score() -> None:
    def broken_at_first(call: int) -> None:
        if call == 1:
            raise RuntimeError("no float here")

    best = _tune(Planted({("first", 4): 0.3}, broken_at_first), min_score=0.6)
    assert bits_of(best) == dict.fromkeys(LABELS, 4)
    with pytest.raises(qfx.ConfigError, match="min_score") as caught:
        _tune(Planted({}, broken_at_first))
    assert "no float here" in str(caught.value)


def test_trials_that_fail_lose_nothing() -> None:
    class Flaky(Planted):
        def __call__(self, module: nn.Module) -> float:
            score = super().__call__(module)
            if self.calls == 3:
                raise RuntimeError("out of luck")
            return math.nan if self.calls == 4 else score

    best = _tune(Flaky({("second", 4): 0.5}))
    tuning = best.tuning
    assert tuning is not None
    assert tuning.met
    failed = [t.why_not for t in tuning if t.score is None]
    assert failed == ["RuntimeError: out of luck", "evaluate returned NaN"]
    assert "out of luck" in str(tuning)


def test_nothing_could_be_scored() -> None:
    def broken(call: int) -> None:
        if call > 1:
            raise RuntimeError("never again")

    with pytest.warns(qfx.QfxWarning, match="never again"):
        best = _tune(Planted({}, broken), budget=2)
    assert isinstance(best, qfx.QuantizedModel)
    assert best.tuning is not None
    assert not best.tuning.met


@pytest.mark.parametrize(
    "call", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_goes_on_after_an_interrupt(tmp_path: Path, call: int) -> None:
    def interrupted(number: int) -> None:
        if number == call:
            raise KeyboardInterrupt

    costs, state = {("second", 4): 0.5}, tmp_path / "search.json"
    first = Planted(costs, interrupted)
    if call == 2:  # there is no best yet
        with pytest.raises(KeyboardInterrupt):
            _tune(first, state=state)
    else:
        stopped = _tune(first, state=state)
        assert stopped.tuning is not None
        assert stopped.tuning.stopped == "interrupted"
        assert stopped.tuning.best.score == 1.0
    second = Planted(costs)
    best = _tune(second, state=state)
    whole = Planted(costs)
    wanted = _tune(whole)
    assert bits_of(best) == bits_of(wanted)
    assert first.calls - 1 + second.calls == whole.calls
    again = Planted(costs)
    assert torch.equal(_tune(again, state=state)(X), best(X))
    assert again.calls == 0
    assert not list(tmp_path.glob(".*"))


def test_budget_counts_trials_of_earlier_runs(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    planted = Planted({("second", 4): 0.5})
    first = _tune(planted, budget=2, state=state)
    assert first.tuning is not None
    assert first.tuning.stopped == "budget"
    assert planted.calls == 3
    _tune(planted, budget=3, state=state)
    assert planted.calls == 4


def test_budget_of_seconds_makes_one_trial_at_least() -> None:
    best = _tune(Planted({}), budget=timedelta(microseconds=1))
    assert len(best.tuning or ()) == 1


@pytest.mark.slow
def test_size_limit_goes_below_the_goal() -> None:
    costs = {(layer, 4): 0.25 for layer in LABELS}
    free = _tune(Planted(costs))
    limit = free.report.size_bytes[1] - 400
    best = _tune(Planted(costs), max_bytes=limit)
    assert best.report.size_bytes[1] <= limit
    tuning = best.tuning
    assert tuning is not None
    assert not tuning.met
    fitting = [t.score for t in tuning if t.size is not None and t.size <= limit]
    assert tuning.best.score == max(s for s in fitting if s is not None)


def test_state_of_another_model(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    _tune(Planted({}), state=state, budget=1)
    with pytest.raises(qfx.ConfigError, match="another model"):
        qfx.tune(net(1), X, BATCHES, Planted({}), backend="reference", state=state)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format":"other"}', '{"format":"qfx-tuning","version":99}']
)
def test_damaged_state(tmp_path: Path, text: str) -> None:
    state = tmp_path / "search.json"
    state.write_text(text)
    with pytest.raises(qfx.FormatError):
        _tune(Planted({}), state=state, budget=1)
    assert state.read_text() == text


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 0}, {"budget": True}, {"budget": "60"}, {"max_drop": -1}, {"max_drop": math.nan},
        {"min_score": "high"}, {"max_bytes": 0}, {"method": "qat"},
    ],
)  # fmt: skip
def test_bad_arguments(options: dict[str, object]) -> None:
    planted = Planted({})
    with pytest.raises(qfx.ConfigError):
        _tune(planted, **options)
    assert planted.calls == 0


def test_evaluate_that_returns_no_number() -> None:
    with pytest.raises(qfx.ConfigError, match="NoneType"):
        qfx.tune(net(), X, BATCHES, lambda m: None, backend="reference")  # type: ignore[arg-type, return-value]
    with pytest.raises(qfx.ConfigError, match="function"):
        qfx.tune(net(), X, BATCHES, 0.5, backend="reference")  # type: ignore[arg-type]


def test_the_model_is_untouched_and_data_may_be_an_iterator() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    best = qfx.tune(model, X, iter(BATCHES), Planted({("first", 4): 1}), backend="reference")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert copy.deepcopy(best).tuning is best.tuning


@pytest.mark.parametrize("method", [pytest.param("dynamic", marks=pytest.mark.slow), "weight_only"])
def test_other_methods(method: str) -> None:
    best = _tune(Planted({("second", 4): 0.5}), method=method)
    assert bits_of(best)["second"] == 8
    assert best.tuning is not None
    assert best.tuning.met


def test_digits() -> None:
    images, labels = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    trained = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        trained.zero_grad()
        nn.functional.cross_entropy(model(images[:1200]), labels[:1200]).backward()  # type: ignore[no-untyped-call]
        trained.step()
    model.eval()

    @torch.no_grad()
    def accuracy(module: nn.Module) -> float:
        return float((module(images[1200:]).argmax(1) == labels[1200:]).float().mean())

    best = qfx.tune(model, images[:8], [images[:64]], accuracy, max_drop=0.01)
    tuning = best.tuning
    assert tuning is not None
    assert tuning.met
    assert accuracy(best) == tuning.best.score
    assert tuning.best.score >= accuracy(model) - 0.01
    int8 = tuning[0].size
    assert tuning.best.size is not None
    assert int8 is not None
    assert tuning.best.size < int8


class Branching(nn.Module):
    """Decides by data which of its layers it calls, so that it is captured in regions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.second(x) if float(x.detach().sum()) > -1e9 else x


def test_a_model_in_regions() -> None:
    def score(module: nn.Module) -> float:
        module(X)
        return 1.0

    best = qfx.tune(Branching().eval(), X, BATCHES, score, backend="reference")
    tuning = best.tuning
    assert isinstance(best, Branching)
    assert tuning is not None
    assert tuning.met
    assert set(tuning.best.int4) == {"first:linear", "second:linear"}
    assert best.report.size_bytes[1] == tuning.best.size
