"""Plain-text tables, and how sites and amounts are written in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> str:
    """Format rows under a header.

    Args:
        header: names of the columns.
        rows: cells, as many a row as there are columns.
        right: names of the columns whose cells go to the right, as numbers do.
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    aligns = [">" if name in right else "<" for name in header]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(f"{c:{a}{w}}" for c, a, w in zip(line, aligns, widths, strict=True)).rstrip()
        for line in lines
    )


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
