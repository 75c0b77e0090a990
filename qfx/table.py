"""Plain-text tables, and how sites and amounts are written in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> str:
    """Format rows under a header.

    Args:
        header: names of the columns.
        rows: cells, as many a row as there are columns.
        right: names of the columns whose cells go to the right, as numbers do.
    """
    widths = _widths((header, *rows))
    to_right = [name in right for name in header]
    return columns([header, ["-" * width for width in widths], *rows], to_right)


def columns(rows: Sequence[Sequence[str]], to_right: Sequence[bool] = ()) -> str:
    """Format rows in aligned columns.

    Args:
        rows: cells, as many in each row.
        to_right: of each column, whether its cells go to the right; none when empty.
    """
    return "\n".join("  ".join(line).rstrip() for line in _padded(rows, to_right))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a Markdown table, aligned too; the first column is text, others numbers."""
    to_right = [place > 0 for place in range(len(header))]
    marks = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(_widths((header, *rows)), to_right, strict=True)
    ]
    lines = _padded([header, marks, *rows], to_right)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _padded(rows: Sequence[Sequence[str]], to_right: Sequence[bool]) -> Iterator[list[str]]:
    widths = _widths(rows)
    aligns = [">" if right else "<" for right in to_right] or ["<"] * len(widths)
    for row in rows:
        yield [f"{c:{a}{w}}" for c, a, w in zip(row, aligns, widths, strict=True)]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def amount(count: int) -> str:
    """A count in three digits: 118M, 5.4M, 9.2k, 64."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 99.5 else f"{value:.1f}{unit}"
    return str(count)


def byte_count(count: int) -> str:
    """A number of bytes: 2.62 MB, 14.1 kB."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
