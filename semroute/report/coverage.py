"""Coverage against precision: what another `min_confidence` would give up, and what it would gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from semroute.report.layout import evenly

if TYPE_CHECKING:
    from semroute.decision import Decision
    from semroute.evaluate import Case

_POINTS = 240  # of the curve that are kept: no screen shows more


class Point(NamedTuple):
    """What comes of one `min_confidence`.

    coverage: share of the cases in scope that a route serves.
    precision: share of the cases, in scope or not, served by a route that are served by the right one.
    """

    min_confidence: float
    coverage: float
    precision: float


class Curve(NamedTuple):
    """points: from the highest `min_confidence` to the lowest, exact.

    chosen: coverage and precision of the decisions as they are; None where no route served.
    """

    points: tuple[Point, ...]
    chosen: tuple[float, float] | None


def curve(judged: Sequence[tuple[Case, Decision]]) -> Curve | None:
    """Sweep one `min_confidence` for all routes over the decisions; None without a case in scope.

    At confidence t, what has at least t is served by its best route. Decisions by a rule are made whatever
    t is; other decisions without scores are never served by a route.
    """
    labels = [case.route for case, _ in judged]
    in_scope = sum(label is not None for label in labels)
    if not in_scope:
        return None
    best = [next(iter(decision.scores), decision.route) for _, decision in judged]
    confidence = np.array(
        [d.confidence if d.scores else (-1.0 if d.route is None else np.inf) for _, d in judged]
    )
    right = np.array(
        [label is not None and label == route for label, route in zip(labels, best, strict=True)]
    )
    scope = np.array([label is not None for label in labels])
    order = np.argsort(-confidence, kind="stable")
    order = order[confidence[order] >= 0.0]
    served, good, covered = np.arange(1, len(order) + 1), np.cumsum(right[order]), np.cumsum(scope[order])
    # Equal confidences are served together: only the last of them is a point.
    last = np.flatnonzero(np.diff(confidence[order], append=-1.0))
    last = last[np.isfinite(confidence[order][last])]
    kept = last[evenly(len(last), _POINTS)] if len(last) else last
    points = [
        Point(float(confidence[order][n]), float(covered[n]) / in_scope, float(good[n]) / float(served[n]))
        for n in kept
    ]
    return Curve(tuple(points), _chosen(judged, in_scope))


def _chosen(judged: Sequence[tuple[Case, Decision]], in_scope: int) -> tuple[float, float] | None:
    served = [(case.route, decision.route) for case, decision in judged if decision.route is not None]
    if not served:
        return None
    covered = sum(label is not None for label, _ in served)
    return covered / in_scope, sum(label == route for label, route in served) / len(served)
