"""The helpers themselves: a check that can't fail checks nothing."""

from types import SimpleNamespace

from tests.support import sweeps


# -- sweeps ----------------------------------------------------------------------------------------
def test_a_sweep_takes_every_value_once_and_leaves_the_rest() -> None:
    grid = [
        (size, backend, flag) for size in range(5) for backend in "abc" for flag in (True, False)
    ]
    cases = [
        SimpleNamespace(callspec=SimpleNamespace(params=dict(zip("sbf", case, strict=True))))
        for case in grid
    ]
    kept = [tuple(case.callspec.params.values()) for case in sweeps.each_choice(cases)]
    assert len(kept) == 5  # as many as the longest parameter has values
    assert [set(values) for values in zip(*kept, strict=True)] == [
        set(values) for values in zip(*grid, strict=True)
    ]
