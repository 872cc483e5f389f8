"""Bjontegaard's delta rate: how many more bytes one format takes than another for the same quality, on average.

Bjontegaard 2001 (ITU-T VCEG-M33), with piecewise cubic Hermite interpolation of log rate over quality in place of
his one polynomial, as has become usual (JVET-H0030).  Slopes: Fritsch and Butland 1984, as in MATLAB's and SciPy's
pchip, which never overshoots.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Curve = list[tuple[float, float]]
"""Points of (rate, metric); any unit of rate."""


class Difference(NamedTuple):
    """percent: of rate against the anchor, negative is better; None for the `reason`.   overlap: of the metric."""

    percent: float | None
    reason: str | None = None
    overlap: tuple[float, float] | None = None


def _slopes(x: Array, y: Array) -> Array:
    """Derivatives at the knots, (N,), that keep the interpolant monotone wherever y is.   x: (N,), rising."""
    steps = np.diff(x)
    secants = np.diff(y) / steps
    if len(secants) == 1:
        return np.repeat(secants, 2)

    def end(step: float, following: float, secant: float, secant_after: float) -> float:
        slope = ((2 * step + following) * secant - step * secant_after) / (step + following)
        if slope * secant <= 0:
            return 0.0
        return 3 * secant if secant * secant_after < 0 and abs(slope) > 3 * abs(secant) else slope

    slopes = np.zeros_like(x)
    for k in range(1, len(x) - 1):
        before, after = secants[k - 1], secants[k]
        if before * after > 0:
            w1, w2 = 2 * steps[k] + steps[k - 1], steps[k] + 2 * steps[k - 1]
            slopes[k] = (w1 + w2) / (w1 / before + w2 / after)
    slopes[0] = end(steps[0], steps[1], secants[0], secants[1])
    slopes[-1] = end(steps[-1], steps[-2], secants[-1], secants[-2])
    return slopes


def interpolate(x: Array, y: Array, at: Array) -> Array:
    """Values at `at`, within x's range, of the monotone cubic through the points.   x: (N,), rising; N >= 2."""
    slopes = _slopes(x, y)
    k = np.clip(np.searchsorted(x, at, "right") - 1, 0, len(x) - 2)
    step = x[k + 1] - x[k]
    t = (at - x[k]) / step
    from_left = (1 + 2 * t) * (1 - t) ** 2 * y[k] + t * (1 - t) ** 2 * step * slopes[k]
    from_right = t**2 * (3 - 2 * t) * y[k + 1] - t**2 * (1 - t) * step * slopes[k + 1]
    return np.asarray(from_left + from_right)


def _mean(x: Array, y: Array, low: float, high: float) -> float:
    """Mean of the interpolant over low..high.  Simpson's rule between knots is exact for cubics."""
    edges = np.array([low, *x[(x > low) & (x < high)], high])
    middles = (edges[:-1] + edges[1:]) / 2
    at_edges, at_middles = interpolate(x, y, edges), interpolate(x, y, middles)
    areas = np.diff(edges) * (at_edges[:-1] + 4 * at_middles + at_edges[1:]) / 6
    return float(areas.sum() / (high - low))


def _log_rates(curve: Curve, sign: int) -> tuple[Array, Array]:
    """Quality, rising, and log rate.  A point that costs more than another and is no better is left out."""
    best: Curve = []
    for rate, metric in sorted(curve):
        if not best or sign * metric > best[-1][1]:
            best.append((rate, sign * metric))
    rates, qualities = np.array(best, dtype=np.float64).reshape(-1, 2).T
    return qualities, np.log(rates)


def bd_rate(anchor: Curve, tested: Curve, *, higher_is_better: bool) -> Difference:
    """Mean difference of rate, in per cent of the anchor's, over the qualities that both curves reach."""
    sign = 1 if higher_is_better else -1
    (x0, y0), (x1, y1) = _log_rates(anchor, sign), _log_rates(tested, sign)
    for name, x in (("the anchor", x0), ("the format", x1)):
        if len(x) < 2:
            return Difference(None, f"{name} has fewer than two points at which more bytes bring more quality")
    low, high = max(x0[0], x1[0]), min(x0[-1], x1[-1])
    if low >= high:
        better = "below" if x1[-1] <= x0[0] else "above"
        return Difference(None, f"the curves do not overlap: all of the format's quality is {better} the anchor's")
    percent = 100 * math.expm1(_mean(x1, y1, low, high) - _mean(x0, y0, low, high))
    first, last = sorted((sign * float(low), sign * float(high)))
    return Difference(percent, overlap=(first, last))
