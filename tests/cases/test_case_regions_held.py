"""What code around regions does to them, and they to it: right, or not a region, or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.errors import ConfigError
from qfx.numerics.measures import sqnr


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def positive() -> Tensor:
    return torch.randn(4, 8) + 1


def negative() -> Tensor:
    return torch.randn(4, 8) - 1


class Part(nn.Module):
    """A layer, and what its forward does besides."""

    def __init__(self, forward: Callable[[Part, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__()
        self.layer, self.computes = block(), forward
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.computes(self, x)

    def reset(self) -> None:
        self.total.zero_()
        self.label = "reset"


class Around(nn.Module):
    """A part, and code that uses it and decides by data."""

    def __init__(self, part: nn.Module, use: Callable[[Around, Tensor], Tensor]) -> None:
        super().__init__()
        self.part, self.last, self.use = part, block(), use

    def forward(self, x: Tensor) -> Tensor:
        y = self.use(self, x)
        return self.last(y) if x.mean() > 0 else y


def keeps_skips(part: Part, x: Tensor) -> Tensor:
    y = part.layer(x)
    part.skips = [y]
    return y.relu()


def reads_skips(model: Around, x: Tensor) -> Tensor:
    y = model.part(x)
    skip = model.part.skips[0]
    return y + skip if x.mean() > 0 else y - skip


def counts(part: Part, x: Tensor) -> Tensor:
    part.calls += 1
    return part.layer(x) * part.calls


def scales(part: Part, x: Tensor) -> Tensor:
    return part.layer(x) * part.scale


def sets_scale(model: Around, x: Tensor) -> Tensor:
    model.part.scale = 0.25 if x.mean() > 0 else 4.0
    return model.part(x)


CASES: dict[str, Callable[[], Around]] = {
    "forward sets what is read outside": lambda: Around(Part(keeps_skips, skips=[]), reads_skips),
    "forward counts": lambda: Around(Part(counts, calls=0), lambda m, x: m.part(x)),
    "code around sets": lambda: Around(Part(scales, scale=1.0), sets_scale),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("has_run", [False, True])
def test_state_in_python_splits_a_region(name: str, has_run: bool) -> None:
    torch.manual_seed(0)
    model, x = CASES[name]().eval(), positive()
    if has_run:
        with torch.no_grad():
            model(x)
    prepared = qfx.prepare(model, x)
    assert list(prepared.regions) == ["part.layer", "last"]
    twin = copy.deepcopy(model)
    for inputs in (x, negative(), positive()):
        assert sqnr(twin(inputs), prepared(inputs)) > 100


def test_a_part_of_a_region_is_never_taken_for_absent() -> None:
    def asks(model: Around, x: Tensor) -> Tensor:
        y = model.part(x)
        return y if x.mean() > 0 else (y * 100 if hasattr(model.part, "weight") else y)

    model, x = Around(nn.Linear(8, 8), asks).eval(), negative()
    assert sqnr(model(x), qfx.quantize(model, positive(), method="dynamic")(x)) > 25


def test_what_no_graph_takes_the_model_takes_or_refuses_as_before() -> None:
    def falls_back(model: Around, x: Tensor) -> Tensor:
        try:
            return model.part(x if x.mean() > 0 else x[None, None])
        except ValueError:
            return torch.zeros(8)

    def by_rank(part: Part, x: Tensor) -> Tensor:
        return part.layer(x) if x.dim() == 2 else part.layer(x)[0]

    def by_rank_only(part: Part, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError("rows only")
        return part.layer(x)

    for part in (by_rank, by_rank_only):
        model, x = Around(Part(part), falls_back).eval(), negative()
        found, expected = qfx.quantize(model, positive(), method="dynamic")(x), model(x)
        assert torch.equal(found, expected) or sqnr(expected, found) > 25


@pytest.mark.parametrize("name", ["regions", "report", "history"])
def test_names_that_are_taken(name: str) -> None:
    model = Around(block(), lambda m, x: m.part(x)).eval()
    setattr(model, name, None)
    with pytest.raises(ConfigError, match=f"the model has {name} of its own"):
        qfx.quantize(model, positive())


def test_the_users_buffers_and_attributes_stay() -> None:
    def moves(part: Part, x: Tensor) -> Tensor:
        part.total.add_(x.mean(0))
        return part.layer(x) + part.total

    def resets(model: Around, x: Tensor) -> Tensor:
        model.part.reset()
        return model.part(x)

    model = Around(Part(moves, total=None), resets)
    del model.part.total
    model.part.register_buffer("total", torch.full((8,), 7.0))
    model.part.label = "mine"
    model.part.seen = []
    quantized = qfx.quantize(model.eval(), positive())
    assert torch.equal(model.part.total, torch.full((8,), 7.0))
    assert model.part.label == "mine"
    assert quantized.part.seen is not model.part.seen
    assert copy.deepcopy(quantized).part.seen is not quantized.part.seen


def test_weights_that_regions_share_stay_one_in_training() -> None:
    model = Around(nn.Linear(8, 8), lambda m, x: m.part(x))
    model.last = nn.Linear(8, 8)
    model.last.weight = model.part.weight
    prepared = qfx.prepare(model.train(), positive(), method="qat")
    assert list(prepared.regions) == ["part", "last"]
    assert len(list(prepared.parameters())) == len(list(model.parameters())) == 3
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
    prepared(positive()).pow(2).sum().backward()
    optimizer.step()
    assert torch.equal(prepared.part.weight, prepared.last.weight)
    assert not torch.equal(prepared.part.weight, model.part.weight)


def test_coverage_counts_layers_outside_of_regions_by_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 56)).eval()
    quantized = qfx.quantize(model, positive(), regions=("0",))
    assert quantized.report.coverage == pytest.approx(8 / 64)
    (left,) = [site for site in quantized.report.sites if site.decision == "float"]
    assert left.message == "Linear is in no region: regions= names others"
    with pytest.raises(qfx.CoverageError):
        qfx.quantize(model, positive(), regions=("0",), min_coverage=0.5)


@pytest.mark.parametrize("whole", [False, True])
def test_random_numbers_are_drawn_as_before(whole: bool) -> None:
    def draws(model: Around, x: Tensor) -> Tensor:
        return model.part(x) + torch.rand(8)

    model: nn.Module = Around(block(), draws).eval()
    if whole:
        model = nn.Sequential(block(), nn.Dropout(), Part(lambda p, x: p.layer(x) + torch.rand(8)))
    state = torch.get_rng_state()
    qfx.quantize(model.eval(), torch.ones(4, 8), regions="whole" if whole else ("part", "last"))
    assert torch.equal(torch.get_rng_state(), state)


def test_forward_may_run_in_inference_mode() -> None:
    class Infers(Around):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    model = Infers(block(), lambda m, x: m.part(x)).eval()
    assert list(qfx.quantize(model, positive()).regions) == ["part", "last"]


def test_coverage_counts_what_is_computed_between_regions_and_all_calls() -> None:
    def attends(model: Around, x: Tensor) -> Tensor:
        y = model.part(model.part(x))
        return torch.softmax(y @ y.T, -1) @ y

    model = Around(nn.Linear(8, 8), attends)
    model.last = nn.Linear(8, 8)
    quantized = qfx.quantize(model.eval(), positive())
    layers, products = 3 * 4 * 8 * 8, 2 * 4 * 4 * 8
    assert quantized.report.coverage == pytest.approx(layers / (layers + products))
    between = next(s for s in quantized.report.sites if s.node == "between regions")
    assert (between.macs, between.reason) == (products, "outside-regions")
    with pytest.raises(qfx.CoverageError):
        qfx.quantize(model, positive(), min_coverage=0.9)


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_region_that_returns_what_it_was_given_returns_that_tensor(method: str) -> None:
    def adds(part: Part, x: Tensor) -> Tensor:
        x += part.layer(x)
        return x

    def doubles(model: Around, x: Tensor) -> Tensor:
        before = x.clone()
        model.part(before).mul_(2)
        return before

    torch.manual_seed(0)
    model, x = Around(Part(adds), doubles).eval(), positive()
    quantized = qfx.quantize(model, x, method=method)
    assert list(quantized.regions) == ["part", "last"]
    with torch.no_grad():
        assert sqnr(model(x), quantized(x)) > 25


def test_calibration_leaves_no_state_in_what_is_around_regions() -> None:
    def remembers(model: Around, x: Tensor) -> Tensor:
        y = model.part(x)
        model.total.add_(y.detach().mean(0))
        model.seen.append(len(model.seen))
        return y + model.total * len(model.seen)

    model = Around(block(), remembers)
    model.register_buffer("total", torch.zeros(8))
    model.seen = []
    data = [positive(), positive()]
    prepared = qfx.prepare(model.eval(), positive())
    made = [qfx.convert(qfx.calibrate(prepared, data))]
    made.append(qfx.quantize(model, positive(), calibration_data=data))
    for quantized in made:
        assert not quantized.total.any()
        assert quantized.seen == []


def test_what_is_written_to_under_another_name_is_no_region() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = block()
            self.register_buffer("total", torch.zeros(8))

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x) + y + self.total, self.total

    class Adds(Written):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor]:
            x.add_(1)
            return (self.layer(x) + y,)

    class AddsToEach(Written):
        def forward(self, *given: Tensor) -> tuple[Tensor]:
            given[0].add_(1)
            return (self.layer(given[0]) + given[1],)

    def writes_to_a_buffer(model: Around, x: Tensor) -> Tensor:
        model.part(x, x)[1].add_(1)
        return model.part(x, x)[0]

    def gives_one_tensor_twice(model: Around, x: Tensor) -> Tensor:
        twice = x.clone()
        return model.part(twice, twice)[0]

    torch.manual_seed(0)
    x = positive()
    models = [Around(Written(), writes_to_a_buffer)]
    models += [Around(part, gives_one_tensor_twice) for part in (Adds(), AddsToEach())]
    for model in models:
        for method in ("static", "dynamic"):
            quantized = qfx.quantize(model.eval(), x, method=method)
            assert list(quantized.regions) == ["part.layer", "last"]
            with torch.no_grad():
                assert sqnr(copy.deepcopy(model)(x), quantized(x)) > 25
