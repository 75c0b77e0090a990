"""A picture of sizes against scores, as SVG: points, the front that no point beats, the goal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from qfx.table import byte_count

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 64


class Point(NamedTuple):
    """A model: fewer bytes and a higher score are better."""

    size: int
    score: float
    text: str
    meets: bool


def front(points: Sequence[Point]) -> list[int]:
    """The places of the points that no other beats in both, by size."""
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i].size, -points[i].score)):
        if not found or points[i].score > points[found[-1]].score:
            found.append(i)
    return found


def picture(points: Sequence[Point], goal: float, best: int | None) -> str:
    """The picture as text; ``best`` is the place of the point to mark."""
    shown = [i for i, p in enumerate(points) if math.isfinite(p.score)]
    scores = [points[i].score for i in shown] + ([goal] if math.isfinite(goal) else [])
    across = _Scale([points[i].size for i in shown], _MARGIN, _WIDTH - 16)
    up = _Scale(scores, _HEIGHT - _MARGIN, 16)
    line = [i for i in front(points) if i in shown]
    path = " ".join(f"{across(points[i].size):.1f},{up(points[i].score):.1f}" for i in line)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<polyline points="{path}" fill="none" stroke="#888"/>',
    ]
    if math.isfinite(goal):
        parts += [
            f'<line x1="{_MARGIN}" x2="{_WIDTH - 16}" y1="{up(goal):.1f}" y2="{up(goal):.1f}" '
            'stroke="#b00" stroke-dasharray="4"/>',
            f'<text x="{_WIDTH - 16}" y="{up(goal) - 4:.1f}" text-anchor="end" fill="#b00">'
            f"goal {goal:.6g}</text>",
        ]
    for i in shown:
        x, y = across(points[i].size), up(points[i].score)
        colour = "#0a0" if points[i].meets else "#36c"
        ring = ' stroke="black" stroke-width="2"' if i == best else ""
        title = escape(f"{points[i].text}\n{byte_count(points[i].size)}, {points[i].score:.6g}")
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"{ring}>'
            f"<title>{title}</title></circle>"
        )
    return "\n".join((*parts, *_axes(across, up), "</svg>", ""))


class _Scale:
    """Puts values between two ends of the picture."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high = (min(values), max(values)) if values else (0.0, 1.0)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self._start + (0.05 + 0.9 * share) * (self._end - self._start)


def _axes(across: _Scale, up: _Scale) -> list[str]:
    bottom, left = _HEIGHT - _MARGIN, _MARGIN
    return [
        f'<path d="M{left},16 V{bottom} H{_WIDTH - 16}" fill="none" stroke="black"/>',
        *(
            f'<text x="{across(size):.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{byte_count(round(size))}</text>"
            for size in dict.fromkeys((across.low, across.high))
        ),
        *(
            f'<text x="{left - 6}" y="{up(score) + 4:.1f}" text-anchor="end">{score:.4g}</text>'
            for score in dict.fromkeys((up.low, up.high))
        ),
        f'<text x="{_WIDTH / 2:.0f}" y="{bottom + 40}" text-anchor="middle">size</text>',
        f'<text x="14" y="{_HEIGHT / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {_HEIGHT / 2:.0f})">score</text>',
    ]
