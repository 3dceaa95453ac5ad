"""How far a figure would move had other prompts of the same kind been asked: intervals by bootstrap.

Cases are drawn again with replacement, as many as there were, and the figure is taken of each of `RESAMPLES`
such draws; the interval goes from their 2.5th to their 97.5th percentile (Efron and Tibshirani 1993, "An
Introduction to the Bootstrap", chapter 13). Cases that count alike are drawn together as one cell of a
multinomial, so the time depends on how many kinds of cases there are, not on how many cases. The seed is
fixed.

A share of 0 or 1 has an interval without width: the bootstrap knows no error that it has not seen. With `n`
cases and no error, an error rate of 3/n is still within reach (the rule of three).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)
_CELLS_AT_ONCE = 2_000_000  # drawn together: 16 MB
_STEPS = 256  # confidences nearer than a step are drawn together, at their mean


def of_labels(expected: Ints, found: Ints, best: Ints) -> dict[str, tuple[float, float]]:
    """Intervals of the measures of routes, by their names in `Evaluation`; those that exist.

    expected, found, best: (cases,), the label, the route that served and the best-scoring one as numbers, 0
        being the default.
    """
    if not len(expected):
        return {}
    rows = np.column_stack([expected, found, best == expected])
    cells, counts = np.unique(rows, axis=0, return_counts=True)
    label, served, hit = cells[:, 0], cells[:, 1], cells[:, 2] == 1
    right, scope, taken = label == served, label > 0, served > 0
    shares = {
        "accuracy": (right, np.ones_like(right)),
        "top1": (scope & hit, scope),
        "right_of_served": (scope & right, scope & taken),
        "coverage": (scope & taken, scope),
        "refused_in_scope": (scope & ~taken, scope),
        "refused_out_of_scope": (~scope & ~taken, ~scope),
    }

    def measured(draws: Ints) -> dict[str, Floats]:
        found = {name: _ratio(draws, *masks) for name, masks in shares.items()}
        return {**found, "macro_f1": _macro_f1(draws, label, served)}

    drawn = _drawn(counts, measured)
    # A share is in the mean of the draws what it is in the cases; this, being no share, is less.
    drawn["macro_f1"] = _moved_to(float(_macro_f1(counts[None], label, served)[0]), drawn["macro_f1"])
    return {name: pair for name, values in drawn.items() if (pair := _interval(values)) is not None}


def of_calibration(
    bins: Ints, confidence: Floats, right: NDArray[np.bool_]
) -> dict[str, tuple[float, float]]:
    """The interval of the expected calibration error; empty without decisions.

    bins, confidence, right: (decisions,), the bin of each, what was said, and whether it held.

    Drawing again adds error of its own, by which the draws are moved down.
    """
    if not len(bins):
        return {}
    rows = np.column_stack([bins, right, np.round(confidence * _STEPS).astype(np.int64)])
    cells, inverse, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    gaps = np.bincount(inverse.reshape(-1), right - confidence) / counts
    # `unique` sorts by bin first, so each bin is a run of cells.
    starts = np.flatnonzero(np.diff(cells[:, 0], prepend=-1))

    def error(draws: Ints) -> dict[str, Floats]:
        return {"error": np.abs(np.add.reduceat(draws * gaps, starts, axis=1)).sum(1) / len(bins)}

    seen = float(error(counts[None, :])["error"][0])
    low, high = np.percentile(_moved_to(seen, _drawn(counts, error)["error"]), _PERCENTILES)
    return {"calibration_error": (float(low), float(high))}


def of_share(part: int, whole: int) -> tuple[float, float]:
    """The interval of the share `part` of `whole`, which is not 0."""
    values = _generator().binomial(whole, part / whole, RESAMPLES) / whole
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def _drawn(counts: Ints, measured: Callable[[Ints], dict[str, Floats]]) -> dict[str, Floats]:
    """What is `measured` of the resamples of cells with these counts: (RESAMPLES,) each."""
    generator, total = _generator(), int(counts.sum())
    size = max(1, min(RESAMPLES, _CELLS_AT_ONCE // len(counts)))
    parts = []
    for start in range(0, RESAMPLES, size):
        draws = generator.multinomial(total, counts / total, size=min(size, RESAMPLES - start))
        parts.append(measured(draws))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _moved_to(seen: float, values: Floats) -> Floats:
    """The draws of a figure in [0, 1], moved so that their mean is what was `seen`.

    Drawing with replacement leaves some cases out and takes others twice, and a figure that is no mean over
    the cases changes with that alone: it can leave the interval of its own draws.
    """
    present = ~np.isnan(values)
    if not present.any():
        return values
    moved: Floats = np.clip(values + (seen - values[present].mean()), 0.0, 1.0)
    return moved


def _ratio(draws: Ints, part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> Floats:
    """The share in each draw; NaN where there is nothing to take a share of."""
    counted, of = draws[:, part].sum(1), draws[:, whole].sum(1)
    shares: Floats = np.divide(counted, of, out=np.full(len(draws), np.nan), where=of > 0)
    return shares


def _macro_f1(draws: Ints, label: Ints, served: Ints) -> Floats:
    """Mean of 2 right / (cases + served) over the routes that have one of either, in each draw."""
    size = int(max(label.max(), served.max())) + 1
    right = _by_route(draws * (label == served), label, size)
    either = _by_route(draws, label, size) + _by_route(draws, served, size)
    f1 = np.divide(2 * right, either, out=np.zeros_like(right, np.float64), where=either > 0)
    routes = (either > 0).sum(1)
    means: Floats = np.divide(f1.sum(1), routes, out=np.full(len(draws), np.nan), where=routes > 0)
    return means


def _by_route(draws: Ints, route: Ints, size: int) -> Ints:
    """The draws of each route but the default added up: (draws, size - 1)."""
    order = np.argsort(route, kind="stable")
    present, starts = np.unique(route[order], return_index=True)
    sums = np.zeros((len(draws), size), np.int64)
    sums[:, present] = np.add.reduceat(draws[:, order], starts, axis=1)
    return sums[:, 1:]


def _interval(values: Floats) -> tuple[float, float] | None:
    """None where the figure exists in no draw."""
    present = values[~np.isnan(values)]
    if not len(present):
        return None
    low, high = np.percentile(present, _PERCENTILES)
    return float(low), float(high)
