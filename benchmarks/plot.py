"""Pictures of what other benchmarks measured, from the files that their ``--json`` wrote.

    python -m benchmarks.plot latency latency.json --out docs/latency.svg
    python -m benchmarks.plot trained trained.json --out docs/trained.svg

``latency``: how many times as fast as PyTorch in float each engine ran each model, by medians.
``trained``: the SQNR of each quantizer's outputs on each model, the mean over seeds. Several files
are drawn as one; where two have a figure the last one's counts. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engines import ENGINES
from benchmarks.trained.quantizers import QUANTIZERS

Bars = dict[str, dict[str, float]]  # title of what was compared -> model -> figure

_COLORS = ("#1b6ca8", "#e07b39", "#5a9367", "#8a5a9e", "#8c8c8c", "#c2a83e")


def speeds(results: Mapping[str, Any]) -> Bars:
    """Of a file of ``benchmarks.latency``: float's median over each engine's."""
    bars: Bars = {}
    for model, engines in results.items():
        base = engines.get("eager", {}).get("median_seconds")  # "machine" has none
        if base is None:
            continue
        for name, found in engines.items():
            if name != "eager" and "median_seconds" in found:
                title = ENGINES[name].title
                bars.setdefault(title, {})[model] = base / found["median_seconds"]
    return bars


def ratios(results: Mapping[str, Any]) -> Bars:
    """Of a file of ``benchmarks.trained``: SQNR in dB, the mean over seeds."""
    bars: Bars = {}
    for model, quantizers in results.items():
        for name, seeds in quantizers.items():
            mean = sum(each["sqnr"] for each in seeds) / len(seeds)
            bars.setdefault(QUANTIZERS[name].title, {})[model] = mean
    return bars


class Picture(NamedTuple):
    """How one benchmark's file is read, and what its axis says."""

    read: Callable[[Mapping[str, Any]], Bars]
    axis: str


PICTURES = {
    "latency": Picture(speeds, "times as fast as PyTorch in float"),
    "trained": Picture(ratios, "SQNR of the outputs against the float model, dB"),
}


def draw(bars: Bars, axis: str, path: Path) -> None:
    """A group of bars for each model, one for each thing compared, with its figure at the end."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "qfx"  # the same picture of the same figures
    from matplotlib import pyplot

    models = list(dict.fromkeys(model for found in bars.values() for model in found))
    thickness = 0.8 / len(bars)
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + len(models) * (0.15 + 0.17 * len(bars))))
    for index, (title, found) in enumerate(bars.items()):
        rows = [models.index(model) + (index + 0.5) * thickness - 0.4 for model in found]
        drawn = axes.barh(
            rows, list(found.values()), thickness, label=title, color=_COLORS[index % len(_COLORS)]
        )
        axes.bar_label(drawn, fmt="%.1f", padding=2, fontsize=7)
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.01)
    figure.legend(loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=list(PICTURES))
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    picture = PICTURES[options.kind]
    draw(picture.read(_together(options.files)), picture.axis, options.out)


def _together(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        for model, figures in json.loads(file.read_text()).items():
            found.setdefault(model, {}).update(figures)
    return found


if __name__ == "__main__":
    main()
