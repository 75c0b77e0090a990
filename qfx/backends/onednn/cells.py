"""The cells of recurrent layers on x86, as few calls a step as possible.

A cell reads what :mod:`qfx.backends.onednn.recurrent` has added up at the gates of a step, and
overwrites it; :mod:`qfx.semantics.recurrent` says what it computes. Those of an LSTM lie as i, f,
o, g.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

State: TypeAlias = "Sequence[Tensor]"


class Cell:
    """Steps through the gates of one layer.

    Attributes:
        h: hidden state, (directions, batch, hidden), or None at first if it is zero.
        hidden: all hidden states, (length, directions, batch, hidden).
    """

    gates_per_unit = 1

    def __init__(self, gates: Tensor, hx: State | None, bias: Tensor) -> None:
        self.size = gates.shape[-1] // self.gates_per_unit
        self.h = None if hx is None else hx[0]
        self.hidden = torch.empty_like(gates[..., : self.size])  # its dims in the same order
        self.rows = self.hidden.unbind(0)

    def step(self, t: int) -> None:
        raise NotImplementedError

    def last(self) -> tuple[Tensor, ...]:
        """The final states."""
        assert self.h is not None
        return (self.h,)


class _Lstm(Cell):
    gates_per_unit = 4

    def __init__(self, gates: Tensor, hx: State | None, bias: Tensor) -> None:
        super().__init__(gates, hx, bias)
        size = self.size
        self.sigmoids = gates[..., : 3 * size].unbind(0)
        self.tanhs = gates[..., 3 * size :].unbind(0)
        self.i, self.f, self.o = (gates[..., k * size : (k + 1) * size].unbind(0) for k in range(3))
        self.c = torch.zeros_like(self.rows[0]) if hx is None else hx[1].clone()

    def step(self, t: int) -> None:
        self.sigmoids[t].sigmoid_()
        self.c.mul_(self.f[t]).addcmul_(self.i[t], self.tanhs[t].tanh_())
        self.h = torch.mul(self.o[t], self.c.tanh(), out=self.rows[t])

    def last(self) -> tuple[Tensor, ...]:
        return (*super().last(), self.c)


class _Gru(Cell):
    gates_per_unit = 3

    def __init__(self, gates: Tensor, hx: State | None, bias: Tensor) -> None:
        super().__init__(gates, hx, bias)
        size = self.size
        new = gates[..., 2 * size :]
        self.of_input, self.new = new.clone().unbind(0), new.unbind(0)
        new.copy_(bias)
        self.sigmoids = gates[..., : 2 * size].unbind(0)
        self.r, self.z = gates[..., :size].unbind(0), gates[..., size : 2 * size].unbind(0)

    def step(self, t: int) -> None:
        self.sigmoids[t].sigmoid_()
        new = torch.addcmul(self.of_input[t], self.r[t], self.new[t]).tanh_()
        before = torch.zeros_like(new) if self.h is None else self.h
        self.h = torch.lerp(new, before, self.z[t], out=self.rows[t])


class _Tanh(Cell):
    def __init__(self, gates: Tensor, hx: State | None, bias: Tensor) -> None:
        super().__init__(gates, hx, bias)
        self.gates = gates.unbind(0)

    def step(self, t: int) -> None:
        self.h = torch.tanh(self.gates[t], out=self.rows[t])


class _Relu(_Tanh):
    def step(self, t: int) -> None:
        self.h = torch.clamp(self.gates[t], min=0, out=self.rows[t])


CELLS: dict[str, type[Cell]] = {"lstm": _Lstm, "gru": _Gru, "tanh": _Tanh, "relu": _Relu}
"""By the kinds of :mod:`qfx.backends.onednn.recurrent`."""
