"""qfx.tune: models in wrappers, data where only weights are quantized, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qfx
from qfx.runtime import ranks
from qfx.tuning.record import Record, TrialOutcome
from qfx.tuning.sensitivity import PlaceNoise
from tests.tuning.nets import LABELS, Planted, X, bits_of, net

BATCHES = [torch.randn(64, 16, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def test_a_wrapped_model_is_the_one_in_it() -> None:
    best = qfx.tune(nn.DataParallel(net()), X, None, Planted({}), backend="reference")
    assert bits_of(best) == dict.fromkeys(LABELS, 4)
    assert best.tuning is not None
    assert best.tuning.best.size == best.report.size_bytes[1]


def test_data_are_used_where_only_weights_are_quantized() -> None:
    chosen = []

    def evaluate(module: nn.Module) -> float:
        if isinstance(module, qfx.QuantizedModel):
            chosen.append(any("gptq" in site.findings for site in module.report.sites))
        return 0.0 if chosen else 1.0

    best = qfx.tune(net(), X, BATCHES, evaluate, backend="reference", method="weight_only")
    assert best.tuning is not None
    assert [t.effort == "high" for t in best.tuning] == chosen
    assert any(chosen)


def test_a_rank_of_a_process_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    with pytest.raises(qfx.ConfigError, match="process group"):
        qfx.tune(net(), X, BATCHES, Planted({}))


def test_a_state_that_is_no_path() -> None:
    with pytest.raises(qfx.ConfigError, match="state is int"):
        qfx.tune(net(), X, BATCHES, Planted({}), state=3)  # type: ignore[arg-type]


GOOD = TrialOutcome(1.0, 8, 2.0, 0.5)


@pytest.mark.parametrize(
    ("was", "made"),
    [
        ('"size":8', '"size":null'),
        ('"seconds":0.5', '"seconds":"inf"'),
        ('"milliseconds":2.0', '"milliseconds":-1'),
        ('"observer":"minmax"', '"observer":"nonsense"'),
        ('"plan":"other"', '"plan":"one"'),
    ],
)
def test_a_state_that_says_what_no_search_finds(tmp_path: Path, was: str, made: str) -> None:
    path = tmp_path / "search.json"
    record = Record(path, "a model", outcomes={"one": GOOD, "other": GOOD})
    record.measured["first"] = PlaceNoise(0.1, None, "minmax")
    record.write()
    assert Record.open(path, "a model").outcomes == record.outcomes
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, made))
    with pytest.raises(qfx.FormatError):
        Record.open(path, "a model")
