"""Measures of the field for choosing between models, each as its paper defines it. Pure numpy.

With two models, a weak one and a strong one (RouteLLM; Ong et al. 2024, arXiv 2406.18665): `pgr`,
`call_curve`, `apgr`, `cpt`. With any number of models and prices (RouterBench; Hu et al. 2024, arXiv
2403.12031): `aiq` and `cost_save`. Qualities are mean scores in [0, 1]; costs may have any one unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_ROUNDING = 1e-9  # by which a sum of floats may miss what it must reach


def pgr(quality: float, weak: float, strong: float) -> float:
    """Performance gap recovered: (quality - weak) / (strong - weak), of three mean qualities.

    0 is the weak model, 1 the strong one; choosing well per prompt may lie above 1, choosing badly below 0.
    Raises ValueError when the strong model is not the better one: there is no gap to recover.
    """
    if not strong > weak:
        raise ValueError(f"the strong model ({strong}) is not better than the weak one ({weak})")
    return (quality - weak) / (strong - weak)


class CallCurve(NamedTuple):
    """What is recovered at each share of strong calls, both (n + 1,) from none of n prompts to all."""

    shares: Floats
    recovered: Floats


def call_curve(preference: ArrayLike, weak: ArrayLike, strong: ArrayLike) -> CallCurve:
    """PGR when the prompts with the highest `preference` go to the strong model and the others to the weak.

    preference: (n,), for the strong model. weak, strong: (n,), what each model is worth on each prompt.

    Between equal preferences no order is right, so each counts as the mean of them: the result is what a
    random order among them gives on average, and does not depend on the order of the prompts.

    Raises ValueError for no prompts, lengths that differ, or where there is no gap.
    """
    wanted, low, high = (_row(values) for values in (preference, weak, strong))
    if not len(wanted) == len(low) == len(high):
        raise ValueError("preference, weak and strong must have one number for each prompt")
    if len(wanted) == 0:
        raise ValueError("there is no prompt")
    pgr(float(low.mean()), float(low.mean()), float(high.mean()))  # is there a gap
    _, tied = np.unique(-wanted, return_inverse=True)
    counts = np.bincount(tied)
    gains = np.bincount(tied, high - low) / counts
    won = np.cumsum(np.repeat(gains, counts)) / (high - low).sum()
    return CallCurve(np.linspace(0.0, 1.0, len(wanted) + 1), np.concatenate([[0.0], won]))


def apgr(curve: CallCurve) -> float:
    """Average performance gap recovered: the integral of PGR over the share of strong calls, from 0 to 1.

    Exact for the n + 1 points of the curve (trapezoids), where RouteLLM averages ten shares. Random is 0.5.
    """
    return float(np.trapezoid(curve.recovered, curve.shares))


def cpt(curve: CallCurve, target: float) -> float:
    """Call-performance threshold: the least share of strong calls at which PGR reaches `target`.

    CPT(50 %) is `cpt(curve, 0.5)`. Raises ValueError for a target above 1, which sending all calls misses.
    """
    if not target <= 1.0:
        raise ValueError(f"a target is at most 1, not {target}")
    return float(curve.shares[np.argmax(curve.recovered >= target - _ROUNDING)])


def hull(costs: ArrayLike, qualities: ArrayLike) -> tuple[Floats, Floats]:
    """The non-decreasing convex hull of points: what can be had for each cost by mixing them at random.

    costs, qualities: (n,). Returns costs that increase and qualities that increase, with slopes that
    decrease: from the best point of the lowest cost to the cheapest of the highest quality. Raises ValueError
    for none.
    """
    xs, ys = _row(costs), _row(qualities)
    if len(xs) == 0 or len(xs) != len(ys):
        raise ValueError("there must be a point, and of each its cost and quality")
    kept: list[tuple[float, float]] = []
    for place in np.lexsort((-ys, xs)):
        point = float(xs[place]), float(ys[place])
        if kept and point[1] <= kept[-1][1]:
            continue
        while len(kept) > 1 and _slope(kept[-1], point) >= _slope(kept[-2], kept[-1]):
            kept.pop()
        kept.append(point)
    corners = np.array(kept)
    return corners[:, 0], corners[:, 1]


def _slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])


def aiq(costs: ArrayLike, qualities: ArrayLike, low: float, high: float) -> float:
    """Average improvement in quality: mean height of the `hull` of points over costs from `low` to `high`.

    costs, qualities: (n,), of each setting of a router. low, high: the range, such as that of the costs of
    the single models; routers are comparable over the same range only.

    Above its last point the hull goes on level, for nobody has to spend more. Below its first one nothing can
    be had, and the height is 0. Raises ValueError unless low < high.
    """
    if not low < high:
        raise ValueError(f"the range of costs must have a width, not {low} to {high}")
    xs, ys = hull(costs, qualities)
    start = min(max(low, float(xs[0])), high)
    inner = xs[(xs > start) & (xs < high)]
    at = np.concatenate([[start], inner, [high]])
    return float(np.trapezoid(np.interp(at, xs, ys), at)) / (high - low) if start < high else 0.0


def cost_save(
    costs: ArrayLike, qualities: ArrayLike, single_costs: ArrayLike, single_qualities: ArrayLike
) -> float:
    """The largest saving at no less than the quality of the best single model, as a share of its cost.

    costs, qualities: (n,), of each setting of a router. single_costs, single_qualities: (models,), of always
    taking one model; of equally good ones the cheapest is the best. 0 where no setting is as good and
    cheaper: the best single model itself remains. Raises ValueError where there is none, or where it costs
    nothing.
    """
    xs, ys, single, good = (_row(values) for values in (costs, qualities, single_costs, single_qualities))
    if len(single) == 0 or len(single) != len(good) or len(xs) != len(ys):
        raise ValueError("there must be a single model, and of each point its cost and quality")
    best = np.lexsort((single, -good))[0]
    if not single[best] > 0.0:
        raise ValueError("the best single model costs nothing: there is nothing to save")
    enough = xs[ys >= good[best] - _ROUNDING]
    return max(0.0, 1.0 - float(enough.min()) / float(single[best])) if len(enough) else 0.0


def _row(values: ArrayLike | Sequence[float]) -> Floats:
    row = np.asarray(values, np.float64)
    if row.ndim != 1 or not np.isfinite(row).all():
        raise ValueError("must be one row of finite numbers")
    return row
