"""Observers: what watches values during calibration and chooses their quantization parameters.

=================================== ======================================================
"minmax"                            range of everything seen
"moving_average_minmax"             exponential average of the ranges of batches (QAT)
"histogram", "mse"                  the clip range of least squared quantization error
"percentile"                        the range without the outermost values
"entropy"                           the clip range of least Kullback-Leibler divergence
"per_channel_minmax"                one range per channel, or per group of a channel
"moving_average_per_channel_minmax" exponential averages of these (QAT)
"per_channel_mse"                   of each channel or group, the range of least squared error
"lsq", "lsq_per_channel"            scales learned in training (QAT); without it as minmax
"fixed"                             qparams known beforehand
"placeholder"                       none: qparams are measured at run time, or there are none
=================================== ======================================================

A class of your own: subclass :class:`Observer` and give it to ``QuantSpec(observer=...)``; decorate
it with :func:`register_observer` to call it by name and to save configurations that use it.
"""

from qfx.quant.observers.base import Observer
from qfx.quant.observers.entropy import EntropyObserver
from qfx.quant.observers.fixed import FixedQParamsObserver
from qfx.quant.observers.histogram import HistogramObserver
from qfx.quant.observers.learned import LearnedPerChannelScaleObserver, LearnedScaleObserver
from qfx.quant.observers.minmax import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
)
from qfx.quant.observers.per_channel import (
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from qfx.quant.observers.per_channel_mse import PerChannelMSEObserver
from qfx.quant.observers.percentile import PercentileObserver
from qfx.quant.observers.placeholder import PlaceholderObserver
from qfx.quant.observers.registry import observer_class, observers, register_observer

__all__ = [
    "EntropyObserver",
    "FixedQParamsObserver",
    "HistogramObserver",
    "LearnedPerChannelScaleObserver",
    "LearnedScaleObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "Observer",
    "PerChannelMSEObserver",
    "PerChannelMinMaxObserver",
    "PercentileObserver",
    "PlaceholderObserver",
    "observer_class",
    "observers",
    "register_observer",
]
