"""Gradients of rounding: passed straight through, and of a scale that is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qfx.semantics.rounding import real_values, unclamped


class StraightThrough(torch.autograd.Function):
    """Rounds to codes and back; the gradient passes where nothing was clamped."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        scale: Tensor | float,
        zero_point: Tensor | int,
        low: int,
        high: int,
    ) -> Tensor:
        steps = unclamped(input, scale, zero_point, low, high)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((steps >= low) & (steps <= high))
        return real_values(steps.clamp_(low, high), scale, zero_point, input.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


class LearnedStep(torch.autograd.Function):
    """The same, with a gradient for the scale."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        low: int,
        high: int,
        gradient_scale: float,
    ) -> Tensor:
        ctx.save_for_backward(input, scale, zero_point)
        ctx.bounds, ctx.gradient_scale = (low, high), gradient_scale
        steps = unclamped(input, scale, zero_point, low, high)
        return real_values(steps.clamp_(low, high), scale, zero_point, input.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, scale, zero_point = ctx.saved_tensors
        (gradient,), (low, high) = gradients, ctx.bounds
        steps = unclamped(input, scale, zero_point, low, high)
        inside = (steps >= low) & (steps <= high)
        of_input = gradient * inside if ctx.needs_input_grad[0] else None
        error = steps.clamp_(low, high).sub_(zero_point)
        error = error.sub_(torch.where(inside, input / scale, 0.0)).mul_(gradient)
        dims = [d for d in range(error.dim()) if scale.dim() == 0 or scale.shape[d] == 1]
        of_scale = error.sum(dims, keepdim=scale.dim() > 0) * ctx.gradient_scale
        return of_input, of_scale.reshape(scale.shape).to(scale.dtype), None, None, None, None
