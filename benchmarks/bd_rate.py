"""Bjontegaard's delta rate: how many more bytes one format takes than another for the same quality, on average.

Source: Bjontegaard 2001 (ITU-T VCEG-M33), with piecewise cubic Hermite interpolation (PCHIP) of log rate over quality
in place of his one polynomial, as in JVET-H0030.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Array: TypeAlias = NDArray[np.float64]
Curve: TypeAlias = list[tuple[float, float]]
"""Points of (rate, metric), in any unit of rate."""


class Difference(NamedTuple):
    """The difference of two curves.

    percent: difference of rate in per cent of the anchor's, negative is better; None if there is none.
    reason: why there is none.   overlap: lowest and highest value of the metric that both curves reach.
    """

    percent: float | None
    reason: str | None = None
    overlap: tuple[float, float] | None = None


def interpolate(x: Array, y: Array, at: float) -> float:
    """Return the value of a monotone cubic through points at one place in their range.   x, y: (N,), x rising."""
    return float(PchipInterpolator(x, y)(at))


def _mean(x: Array, y: Array, low: float, high: float) -> float:
    """Return the mean of the monotone cubic through points over low..high."""
    return float(PchipInterpolator(x, y).integrate(low, high)) / (high - low)


def _log_rates(curve: Curve, sign: int) -> tuple[Array, Array]:
    """Return quality, rising, and log rate.  Points that cost more than another one and are no better are left out."""
    best: Curve = []
    for rate, metric in sorted(curve):
        if not best or sign * metric > best[-1][1]:
            best.append((rate, sign * metric))
    rates, qualities = np.array(best, dtype=np.float64).reshape(-1, 2).T
    return qualities, np.log(rates)


def bd_rate(anchor: Curve, tested: Curve, *, higher_is_better: bool) -> Difference:
    """Return the mean difference of rate, in per cent of the anchor's, over the qualities that both curves reach."""
    sign = 1 if higher_is_better else -1
    (x0, y0), (x1, y1) = _log_rates(anchor, sign), _log_rates(tested, sign)
    for name, x in (("the anchor", x0), ("the format", x1)):
        if len(x) < 2:
            return Difference(None, f"{name} has fewer than two points at which more bytes bring more quality")
    low, high = float(max(x0[0], x1[0])), float(min(x0[-1], x1[-1]))
    if low >= high:
        better = "below" if x1[-1] <= x0[0] else "above"
        return Difference(None, f"the curves do not overlap: all of the format's quality is {better} the anchor's")
    percent = 100 * math.expm1(_mean(x1, y1, low, high) - _mean(x0, y0, low, high))
    first, last = sorted((sign * low, sign * high))
    return Difference(percent, overlap=(first, last))
