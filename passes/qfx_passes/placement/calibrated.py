"""What calibration, or training, has left to say: observers that saw nothing, or only zeros."""

from __future__ import annotations

from torch import fx

from qfx.configuration.configuration import Configuration
from qfx.errors import CalibrationError
from qfx.graph import meta
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.observers import Observer
from qfx.quant.qparams import QParams
from qfx.quant.recorders import observer_of


def check_calibrated(graph: fx.Graph) -> None:
    """Raise if an observer has seen no data, naming each."""
    unseen = [
        f"  {meta.where(node)}"
        for node in graph.nodes
        if (observer := observer_of(node)) is not None and not observer.seen
    ]
    if unseen:
        raise CalibrationError(
            f"{len(unseen)} observer(s) have seen no data:\n"
            + "\n".join(unseen)
            + "\nRun qfx.calibrate(prepared, data) with inputs that reach them, or leave them "
            "float. (A loop of your own, of calibration or of training, records until "
            "prepared.eval(), and again after prepared.train().)"
        )


def calibrated_qparams(node: fx.Node, observer: Observer | FakeQuantize) -> QParams:
    """What the observer that ``node`` calls makes of what it saw; errors name the node."""
    try:
        return observer.qparams()
    except CalibrationError as error:
        told = CalibrationError(f"{meta.where(node)}: {error}")
        told.node = node.name
        raise told from error


def warn_of_zeros(graph: fx.Graph, configuration: Configuration) -> None:
    """Say where a range is empty: there is a scale, but it fits nothing that may come later."""
    places = [
        meta.where(node)
        for node in graph.nodes
        if (observer := observer_of(node)) is not None and observer.lacks_range
    ]
    if places:
        configuration.warn(
            f"nothing but zeros was seen at {', '.join(places)}: zeros stay zeros there, and what "
            "else comes when the model runs is rounded to whole numbers. If something will, give "
            "data that shows it, or leave what reads it float"
        )


def note_late_ranges(graph: fx.Graph, configuration: Configuration) -> None:
    """Say where training found a range only after a while."""
    places = [
        f"{meta.where(node)}, {count} batch{'es' if count > 1 else ''}"
        for node in graph.nodes
        if isinstance(found := observer_of(node), FakeQuantize)
        and (count := int(found.rangeless))
        and not found.lacks_range
    ]
    if places:
        configuration.note(
            f"in training, nothing but zeros was seen at first at {'; '.join(places)}. The first "
            "values that were not zero gave the range there"
        )
