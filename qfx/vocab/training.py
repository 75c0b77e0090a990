"""What training does to values and parameters, and undoes."""

from __future__ import annotations

from qfx.semantics import folding, markers, shapes
from qfx.vocab.definition import Kind, define

DROPOUT = define(markers.dropout, Kind.SHAPE, inert=True)
DETACH = define(markers.detach, Kind.SHAPE, inert=True)
FOLD_WEIGHT = define(folding.fold_weight, Kind.PARAMETER)
FOLD_BIAS = define(folding.fold_bias, Kind.PARAMETER)
PART = define(shapes.part, Kind.PARAMETER)
ARRANGE = define(shapes.arrange, Kind.PARAMETER)
SCALE_CHANNELS = define(folding.scale_channels, Kind.PARAMETER)
UNSCALE_CHANNELS = define(folding.unscale_channels, Kind.PARAMETER)
