"""Observers: what they remember, merging, state, refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qfx.errors import CalibrationError, ConfigError
from qfx.quant.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    Observer,
    PercentileObserver,
    observer_class,
    observers,
    register_observer,
)
from qfx.quant.qconfig import QConfig, QConfigMapping
from qfx.quant.qparams import QParams
from qfx.quant.spec import QuantSpec

SPECS = {
    "minmax": QuantSpec(torch.uint8, observer="minmax"),
    "moving_average_minmax": QuantSpec(torch.uint8, observer="moving_average_minmax"),
    "lsq": QuantSpec(torch.uint8, observer="lsq"),
    "histogram": QuantSpec(torch.uint8, observer="histogram"),
    "mse": QuantSpec(torch.int8, symmetric=True, observer="mse"),
    "percentile": QuantSpec(torch.uint8, observer=PercentileObserver.with_args(percentile=90)),
    "entropy": QuantSpec(torch.uint8, observer="entropy"),
    "per_channel_minmax": QuantSpec(torch.int8, symmetric=True, per_channel=True, axis=1),
    "moving_average_per_channel_minmax": QuantSpec(
        torch.int8, per_channel=True, axis=1, observer="moving_average_per_channel_minmax"
    ),
    "lsq_per_channel": QuantSpec(
        torch.int8, symmetric=True, per_channel=True, axis=1, observer="lsq_per_channel"
    ),
    "per_channel_mse": QuantSpec(
        torch.int8, symmetric=True, per_channel=True, axis=1, observer="per_channel_mse"
    ),
    "fixed": QuantSpec(
        torch.uint8, observer=FixedQParamsObserver.with_args(scale=1 / 256, zero_point=0)
    ),
    "placeholder": QuantSpec(torch.uint8, dynamic=True),
}
DATA_DRIVEN = [name for name in SPECS if name not in ("fixed", "placeholder")]
AVERAGES = [name for name in DATA_DRIVEN if "average" in name or name == "per_channel_mse"]
EXACT = [name for name in DATA_DRIVEN if name not in AVERAGES]
BYTES_OF_A_HISTOGRAM = 2 * 2048 * 8

batches = st.lists(
    st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=6, max_size=6).map(
        lambda v: torch.tensor(v).reshape(2, 3)
    ),
    min_size=1,
    max_size=4,
)


def fed(name: str, data: list[Tensor]) -> Observer:
    observer = SPECS[name].make_observer()
    for x in data:
        observer(x)
    return observer


def state(observer: Observer) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in observer.state_dict().items()}


def test_every_registered_observer_is_tested_here() -> None:
    builtin = {n for n, cls in observers().items() if cls.__module__.startswith("qfx.")}
    assert set(SPECS) == builtin


@pytest.mark.parametrize("name", SPECS)
def test_no_observer_of_a_tensor_holds_more_than_a_histogram(name: str) -> None:
    held = sum(b.nbytes for b in fed(name, [torch.randn(2, 3)]).buffers())
    assert held <= BYTES_OF_A_HISTOGRAM + 64


@pytest.mark.parametrize("name", SPECS)
def test_hands_its_input_through(name: str) -> None:
    x = torch.randn(2, 3)
    assert fed(name, [])(x) is x


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=15, deadline=None)
@given(first=batches, second=batches)
def test_merge_equals_observing_both(name: str, first: list[Tensor], second: list[Tensor]) -> None:
    merged = fed(name, first)
    merged.merge(fed(name, second))
    assert state(merged) == state(fed(name, first + second)) == state(fed(name, second + first))
    assert merged.qparams() == fed(name, first + second).qparams()


@pytest.mark.parametrize("name", SPECS)
def test_merging_one_that_saw_nothing_changes_nothing(name: str) -> None:
    observer = fed(name, [torch.randn(2, 3)])
    before = state(observer)
    observer.merge(fed(name, []))
    assert state(observer) == before


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_merging_into_one_that_saw_nothing_copies(name: str) -> None:
    full, empty = fed(name, [torch.randn(2, 3), torch.randn(2, 3)]), fed(name, [])
    empty.merge(full)
    assert state(empty) == state(full)


def test_merge_of_averages_weighs_by_batches() -> None:
    merged = fed("moving_average_minmax", [torch.tensor([0.0, 1.0])])
    other = fed("moving_average_minmax", [torch.tensor([0.0, 4.0])] * 2)
    merged.merge(other)
    low, high = merged.range()
    assert (float(low), float(high)) == (0.0, 3.0)


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_of_as_many_batches_merge_by_halves(name: str) -> None:
    first, second = torch.randn(2, 3), 5 * torch.randn(2, 3)
    merged, one, two = fed(name, [first]), fed(name, [first]), fed(name, [second])
    merged.merge(two)
    assert int(merged.batches) == 2
    for mean, a, b in zip(merged.range(), one.range(), two.range(), strict=True):
        torch.testing.assert_close(mean, (a + b) / 2)


def test_merge_refuses_another_kind() -> None:
    with pytest.raises(ConfigError, match="merge observers of one kind"):
        fed("minmax", []).merge(fed("histogram", []))
    narrow = QuantSpec(torch.uint8, quant_max=127).make_observer()
    with pytest.raises(ConfigError, match="merge observers of one kind"):
        fed("minmax", []).merge(narrow)


@pytest.mark.parametrize("name", SPECS)
def test_state_dict_and_copies_keep_everything(name: str) -> None:
    observer = fed(name, [torch.randn(2, 3), torch.randn(2, 3) * 9])
    observer.enabled = False
    loaded = fed(name, [])
    loaded.load_state_dict(observer.state_dict())
    copied = copy.deepcopy(observer)
    for other in (loaded, copied):
        assert state(other) == state(observer)
        if name != "placeholder":
            assert other.qparams() == observer.qparams()
        assert not other.enabled
    copied.enabled = True
    copied(torch.full((2, 3), 1e3))
    assert not observer.enabled


def test_state_loads_inside_a_module() -> None:
    make = lambda: nn.Sequential(fed("per_channel_minmax", []), fed("histogram", []))  # noqa: E731
    used, fresh = make(), make()
    used(torch.randn(2, 3))
    assert fresh.load_state_dict(used.state_dict()).missing_keys == []
    assert fresh[0].qparams() == used[0].qparams()


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_disabled_or_reset(name: str) -> None:
    observer = fed(name, [])
    observer.enabled = False
    observer(torch.randn(2, 3))
    assert not observer.seen
    observer.enabled = True
    observer(torch.randn(2, 3))
    assert observer.seen
    observer.reset()
    assert state(observer) == state(fed(name, []))


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_no_data_is_an_error(name: str) -> None:
    observer = fed(name, [torch.zeros(0, 3)])
    assert not observer.seen
    with pytest.raises(CalibrationError, match="seen no data"):
        observer.qparams()


@pytest.mark.parametrize("name", DATA_DRIVEN)
@pytest.mark.parametrize(
    ("bad", "message"),
    [(float("nan"), "1 NaN and 0 infinite"), (float("-inf"), "0 NaN and 1 infinite")],
)
def test_values_that_are_not_finite(name: str, bad: float, message: str) -> None:
    observer = fed(name, [torch.randn(2, 3)])
    before = state(observer)
    x = torch.randn(2, 3)
    x[0, 1] = bad
    with pytest.raises(CalibrationError, match=message):
        observer(x)
    assert observer.failed
    assert state(observer) == before
    observer(torch.randn(2, 3))
    assert not observer.failed


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_integers_have_no_range(dtype: torch.dtype) -> None:
    with pytest.raises(CalibrationError, match="only floating-point"):
        fed("minmax", [torch.ones(2, 3).to(dtype)])


@pytest.mark.parametrize("name", DATA_DRIVEN)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3).to(dtype)
    assert fed(name, [x]).qparams() == fed(name, [x.float()]).qparams()


def test_gradients_are_not_recorded() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    observer = fed("per_channel_minmax", [x])
    assert not any(b.requires_grad for b in observer.buffers())


def test_moving_average() -> None:
    observer = QuantSpec(
        torch.uint8, observer=MovingAverageMinMaxObserver.with_args(averaging_constant=0.5)
    ).make_observer()
    observer(torch.tensor([-1.0, 2.0]))
    observer(torch.tensor([-3.0, 4.0]))
    assert [float(v) for v in observer.range()] == [-2.0, 3.0]


@pytest.mark.parametrize("name", [name for name in SPECS if "per_channel" in name])
def test_per_channel_counts_may_not_change(name: str) -> None:
    observer = fed(name, [torch.randn(2, 3)])
    before = state(observer)
    with pytest.raises(ConfigError, match="axis of fixed size"):
        observer(torch.randn(2, 4))
    with pytest.raises(ConfigError, match="axis of fixed size"):
        observer.merge(fed(name, [torch.randn(2, 4)]))
    assert state(observer) == before


def test_a_placeholder_needs_no_data_and_has_no_qparams() -> None:
    half = QuantSpec(torch.float16)
    for observer in (fed("placeholder", []), half.make_observer()):
        x = torch.tensor([float("nan")])
        assert observer(x) is x
        assert observer.seen
        with pytest.raises(ConfigError, match="no qparams to ask for"):
            observer.qparams()
        with pytest.raises(ConfigError, match="no qparams to ask for"):
            observer.range()


def test_fixed_needs_no_data() -> None:
    assert fed("fixed", []).qparams() == QParams(1 / 256, 0, torch.uint8, 0, 255)
    given = QParams(2 / 256, 128, torch.uint8, 0, 255)
    observer = FixedQParamsObserver(QuantSpec(torch.uint8), given)
    assert observer.qparams() == given
    assert [float(v) for v in observer.range()] == [-1.0, 127 / 128]
    with pytest.raises(ConfigError, match="can't merge fixed"):
        observer.merge(FixedQParamsObserver(QuantSpec(torch.uint8), SPECS_FIXED))


SPECS_FIXED = QParams(1 / 256, 0, torch.uint8, 0, 255)


def test_options() -> None:
    with pytest.raises(ConfigError, match="has no option speed; it has averaging_constant"):
        MovingAverageMinMaxObserver.with_args(speed=1)
    assert MinMaxObserver.with_args() is MinMaxObserver
    two_steps = FixedQParamsObserver.with_args(scale=0.5).with_args(zero_point=3)
    assert two_steps is FixedQParamsObserver.with_args(zero_point=3, scale=0.5)
    assert two_steps.__name__ == "FixedQParamsObserver(scale=0.5, zero_point=3)"


def test_registering_a_class_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from qfx.quant.observers import registry

    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))

    @register_observer("own")
    class Own(MinMaxObserver):
        pass

    spec = QuantSpec(torch.uint8, observer="own")
    assert observer_class("own") is Own
    assert spec == QuantSpec.from_dict(spec.to_dict())
    with pytest.raises(ConfigError, match="is taken by"):
        register_observer("own")(HistogramObserver)


class Named(MovingAverageMinMaxObserver.with_args(averaging_constant=0.5)):  # type: ignore[misc]
    """A class of its own, with options."""


@pytest.mark.parametrize(
    "made", [MinMaxObserver, MovingAverageMinMaxObserver.with_args(averaging_constant=0.5), Named]
)
def test_pickled_with_their_options(made: type[Observer]) -> None:
    assert pickle.loads(pickle.dumps(made)) is made
    spec = QuantSpec(torch.uint8, observer=made)
    assert pickle.loads(pickle.dumps(spec)) == spec
    observer = spec.make_observer()
    observer(torch.tensor([-1.0, 3.0]))
    assert pickle.loads(pickle.dumps(observer)).qparams() == observer.qparams()
    mapping = QConfigMapping().set_object_type(nn.Linear, QConfig(spec, None))
    assert pickle.loads(pickle.dumps(mapping)).rules == mapping.rules
