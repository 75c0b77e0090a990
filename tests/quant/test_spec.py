"""QuantSpec and QConfig: every contradiction is an error when made, and says what to do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from qfx.errors import ConfigError
from qfx.quant.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    Observer,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
)
from qfx.quant.spec import QConfig, QuantSpec


def test_what_is_left_open_is_settled() -> None:
    spec = QuantSpec(torch.int8, per_channel=True)
    assert (spec.quant_min, spec.quant_max) == (-128, 127)
    assert spec.observer_class is PerChannelMinMaxObserver
    assert QuantSpec(torch.uint8).observer_class is MinMaxObserver
    assert spec.channel_axis == 0
    assert QuantSpec(torch.uint8).channel_axis is None


def test_equal_and_hashable_however_written() -> None:
    plain = QuantSpec(torch.uint8, observer=MinMaxObserver, quant_min=0, quant_max=255)
    assert plain == QuantSpec(torch.uint8, observer="minmax") == QuantSpec(torch.uint8)
    assert len({plain, QuantSpec(torch.uint8)}) == 1
    assert plain != QuantSpec(torch.uint8, quant_max=127)
    slow = MovingAverageMinMaxObserver.with_args(averaging_constant=0.001)
    again = MovingAverageMinMaxObserver.with_args(averaging_constant=0.001)
    assert QuantSpec(torch.uint8, observer=slow) == QuantSpec(torch.uint8, observer=again)


def test_text_shows_what_differs_from_the_defaults() -> None:
    spec = QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127, quant_max=127)
    assert repr(spec) == "QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127)"
    assert repr(QuantSpec(torch.uint8, observer="histogram")) == (
        "QuantSpec(torch.uint8, observer='histogram')"
    )


def test_symmetric_unsigned_centres_on_the_middle_code() -> None:
    spec = QuantSpec(torch.uint8, symmetric=True)
    observer = spec.make_observer()
    observer(torch.tensor([-1.0, 0.5]))
    assert observer.qparams().zero_point == 128


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "uint8"}, "must be a torch.dtype"),
        ({"dtype": torch.quint8}, "use torch.uint8"),
        ({"dtype": torch.qint8}, "use torch.int8"),
        ({"dtype": torch.float32}, "choose torch.uint8"),
        ({"dtype": torch.bfloat16}, "choose torch.uint8"),
        ({"dtype": torch.bool}, "choose torch.uint8"),
        ({"dtype": torch.uint8, "quant_min": -1}, "choose 0 <= quant_min"),
        ({"dtype": torch.int8, "quant_max": 128}, "choose -128 <= quant_min"),
        ({"dtype": torch.int8, "quant_min": 5, "quant_max": 5}, "no range"),
        ({"dtype": torch.int8, "symmetric": True, "quant_min": 0}, "bounds around 0"),
        ({"dtype": torch.int8, "axis": 0}, "set per_channel=True"),
        ({"dtype": torch.int8, "group_size": 32}, "set per_channel=True"),
        ({"dtype": torch.int8, "per_channel": True, "group_size": 0}, "at least 1"),
        ({"dtype": torch.uint8, "dynamic": True, "per_channel": True}, "set per_channel=False"),
        ({"dtype": torch.uint8, "dynamic": True, "observer": "minmax"}, "leave observer out"),
        ({"dtype": torch.int8, "per_channel": True, "observer": "minmax"}, "per_channel_minmax"),
        ({"dtype": torch.int8, "observer": "per_channel_minmax"}, "set per_channel=True"),
        ({"dtype": torch.uint8, "observer": "histgram"}, "did you mean 'histogram'"),
        ({"dtype": torch.uint8, "observer": int}, "subclass of"),
        ({"dtype": torch.uint8, "observer": "fixed"}, "with_args"),
        ({"dtype": torch.float16, "symmetric": True}, "leave it out"),
        ({"dtype": torch.float16, "quant_max": 3}, "leave it out"),
        ({"dtype": torch.uint8, "symmetric": 1}, "must be True or False"),
        ({"dtype": torch.uint8, "power_of_two": 2}, "must be True or False"),
        ({"dtype": torch.float16, "power_of_two": True}, "leave it out"),
        ({"dtype": torch.uint8, "quant_max": 127.0}, "must be an integer"),
        ({"dtype": torch.uint8, "per_channel": True, "offset": 1}, "True, False or None"),
        ({"dtype": torch.uint8, "offset": True}, "set per_channel=True"),
        (
            {"dtype": torch.uint8, "per_channel": True, "symmetric": True, "offset": True},
            "symmetric=False",
        ),
    ],
)
def test_contradictions(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantSpec(**fields)  # type: ignore[arg-type]


def test_fixed_qparams_out_of_bounds() -> None:
    observer = FixedQParamsObserver.with_args(scale=1 / 256, zero_point=200)
    with pytest.raises(ConfigError, match="outside the bounds"):
        QuantSpec(torch.uint8, observer=observer, quant_max=127)


def test_a_fixed_scale_that_is_no_power_of_two() -> None:
    observer = FixedQParamsObserver.with_args(scale=0.3, zero_point=0)
    with pytest.raises(ConfigError, match=r"choose 0\.5, or power_of_two=False"):
        QuantSpec(torch.uint8, observer=observer, power_of_two=True)


def test_float16_has_no_bounds() -> None:
    with pytest.raises(ConfigError, match="no bounds"):
        _ = QuantSpec(torch.float16).bounds


@pytest.mark.parametrize(
    "spec", [QuantSpec(torch.uint8, dynamic=True), QuantSpec(torch.float16)], ids=str
)
def test_what_is_not_observed_has_a_placeholder(spec: QuantSpec) -> None:
    assert spec.observer_class is PlaceholderObserver
    assert replace(spec, observer="placeholder") == replace(spec, observer=None) == spec
    with pytest.raises(ConfigError, match="leave observer out"):
        replace(spec, observer="histogram")
    with pytest.raises(ConfigError, match="these codes need a scale"):
        QuantSpec(torch.uint8, observer="placeholder")


@pytest.mark.parametrize(
    ("observer", "message"),
    [
        (PercentileObserver.with_args(percentile=50), "choose 50 < percentile <= 100"),
        (PercentileObserver.with_args(percentile="all"), "choose 50 < percentile <= 100"),
        (HistogramObserver.with_args(bins=4), "choose an integer from 16"),
        (HistogramObserver.with_args(bins=100.0), "choose an integer from 16"),
        (PercentileObserver.with_args(percentile=100.1), "choose 50 < percentile <= 100"),
        (MovingAverageMinMaxObserver.with_args(averaging_constant=0), "choose 0 < averaging"),
    ],
)
def test_options_that_mean_nothing(observer: type[Observer], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantSpec(torch.uint8, observer=observer)


@pytest.mark.parametrize(
    ("activation", "weight", "message"),
    [
        (None, QuantSpec(torch.int8, dynamic=True), "belongs to the activation"),
        (QuantSpec(torch.float16), None, "set dynamic=True"),
        (
            QuantSpec(torch.uint8),
            QuantSpec(torch.float16),
            "make both torch.float16 or both integer",
        ),
        (torch.uint8, None, "must be a QuantSpec or None"),
    ],
)
def test_qconfig_contradictions(
    activation: QuantSpec | None, weight: QuantSpec | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        QConfig(activation, weight)


def test_halves_are_dynamic_or_weight_only() -> None:
    half = QuantSpec(torch.float16)
    assert QConfig(weight=half).activation is None
    assert QConfig(QuantSpec(torch.float16, dynamic=True), half).weight == half


@pytest.mark.parametrize(
    "spec",
    [
        QuantSpec(torch.uint8),
        QuantSpec(torch.int8, symmetric=True, per_channel=True, axis=1, group_size=4),
        QuantSpec(torch.uint8, dynamic=True, quant_max=127),
        QuantSpec(torch.float16),
        QuantSpec(torch.int16, symmetric=True, power_of_two=True),
        QuantSpec(torch.uint8, observer=HistogramObserver.with_args(bins=4096)),
        QuantSpec(torch.uint8, observer=PercentileObserver.with_args(percentile=99.9)),
        QuantSpec(torch.int8, symmetric=True, per_channel=True, observer="per_channel_mse"),
        QuantSpec(torch.uint8, per_channel=True, offset=True),
    ],
)
def test_survives_json(spec: QuantSpec) -> None:
    config = QConfig(weight=None if spec.dynamic else spec)
    assert QuantSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert QConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"dtype": "uint8", "colour": 1},
        {"dtype": "nonsense"},
        {"dtype": "load"},
        {"dtype": "uint8", "observer": {"name": "minmax"}},
        {"dtype": "uint8", "observer": 3},
    ],
)
def test_refuses_other_json(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        QuantSpec.from_dict(data)  # type: ignore[arg-type]


def test_an_unregistered_observer_works_but_is_not_written() -> None:
    class Own(MinMaxObserver):
        pass

    spec = QuantSpec(torch.uint8, observer=Own)
    assert type(spec.make_observer()) is Own
    with pytest.raises(ConfigError, match="register_observer"):
        spec.to_dict()
