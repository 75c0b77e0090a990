"""Options of passes are what their annotations say, wherever they come from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

import pytest
import torch

import qfx
from qfx.framework.pass_base import as_pass


class Side(Enum):
    LEFT = "left"
    RIGHT = "right"


class Options(qfx.Pass):
    name = "options"
    flag: bool = False
    count: int = 1
    ratio: float = 0.5
    label: str | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[str, int] = ("a", 1)
    side: Side = Side.LEFT
    mode: Literal["fast", "slow"] = "fast"
    dtype: torch.dtype = torch.int8
    table: dict[str, int] | None = None


@pytest.mark.parametrize(
    "text",
    [
        "options{flag=true, count=2, ratio=1, label='x', sizes=(1, 2), side=RIGHT, mode='slow'}",
        "options{dtype=torch.uint8, table={'a': 1}, pair=('b', 2), label='y'}",
    ],
)
def test_round_trip(text: str) -> None:
    step = qfx.parse_pass(text, lambda name: Options)
    assert qfx.parse_pass(str(step), lambda name: Options) == step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flag": 1}, "the option flag is bool, not 1"),
        ({"count": True}, "the option count is int, not True"),
        ({"count": "3"}, "the option count is int, not '3'"),
        ({"ratio": "x"}, "the option ratio is float, not 'x'"),
        ({"sizes": (1, "2")}, "the option sizes is tuple.int, ..... not"),
        ({"sizes": [1, 2]}, r"the option sizes is tuple.int, ...., not .1, 2.; write .1, 2."),
        ({"sizes": 3}, r"the option sizes is tuple.int, ...., not 3; write .3,."),
        (
            {"size": 3},
            "got an unexpected keyword argument .size.; its options are: flag, count",
        ),
        ({"pair": ("a",)}, "the option pair is tuple"),
        ({"side": "LEFT"}, "the option side is Side, not 'LEFT'"),
        ({"mode": "warp"}, "the option mode is typing.Literal"),
        ({"table": {"a": None}}, "the option table is"),
    ],
)
def test_other_types_are_refused_where_the_pass_is_made(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(qfx.ConfigError, match=f"pass options: {message}"):
        Options(**options)


def test_text_is_checked_too() -> None:
    with pytest.raises(qfx.ConfigError, match=r"pass options: the option count is int, not 1\.5"):
        qfx.parse_pass("options{count=1.5}", lambda name: Options)


def test_decorated_classes_are_checked_where_they_are_used() -> None:
    @dataclass(frozen=True)
    class Decorated(qfx.Pass):
        name = "decorated"
        count: int = 1

    with pytest.raises(qfx.ConfigError, match="pass decorated: the option count is int"):
        as_pass(Decorated("x"))
