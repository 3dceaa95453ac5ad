"""What is fitted at build, from the vectors of the utterances alone. The router only reads the result.

The seam for everything learnt: `fit` makes a `Fitted`, which is stored in the artifact as plain numbers;
`freshness.FIT_VERSION` goes into the fingerprint, so that an index fitted in another way counts as stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.encoders.base import Vectors

_KEPT_SHARE = 0.95
"""Share of the utterances that must find a neighbour within the fitted distance when they are left out."""

_PRIOR_COUNT = 100
"""Few utterances say little about their own spread: the prior weighs as much as this many of them."""

_SAMPLE = 2_000
"""At most this many utterances are left out in turn: beyond it the quantile no longer moves."""

_FEWEST_NEGATIVES = 10
"""From this many default heldout prompts on, the distance is fitted against them."""

_DISTANCE_WITHOUT_EVIDENCE = 0.5
"""For an index in which no utterance has another to be compared with."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The numbers fitted at build.

    max_distance: cosine distance in [0, 2] to the nearest utterance above which the default serves.
    min_confidence: in [0, 1]; below it the default serves.
    on: what they were fitted on, for people.
    """

    max_distance: float
    min_confidence: float
    on: str


def fit(vectors: Vectors, routes: NDArray[np.int64], negatives: Vectors) -> Fitted:
    """Fit the distance limit.

    vectors: (n, dim) unit rows, the indexed utterances.
    routes: (n,) the route of each.
    negatives: (m, dim) unit rows, prompts that must land on the default; m may be 0.

    Each utterance is left out in turn and asked for its nearest neighbour. Without enough negatives the limit
    is the distance within which 95 % of them find one, drawn towards half way between near and far where
    utterances are few. With negatives it is the cut with the highest balanced accuracy between the two.
    """
    if len(vectors) < 2:
        return Fitted(_DISTANCE_WITHOUT_EVIDENCE, 0.0, "nothing: fewer than two utterances")
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), _SAMPLE)).round().astype(np.int64))
    nearest, nearest_elsewhere = _left_out(vectors, routes, rows)
    if len(negatives) >= _FEWEST_NEGATIVES:
        cut = _best_cut(nearest, _nearest(negatives, vectors))
        on = f"{len(rows)} utterances left out in turn, and {len(negatives)} default heldout prompts"
    else:
        cut = _spread_cut(nearest, nearest_elsewhere)
        on = f"{len(rows)} utterances left out in turn"
    return Fitted(max_distance=float(np.clip(1.0 - cut, 0.0, 2.0)), min_confidence=0.0, on=on)


def _left_out(
    vectors: Vectors, routes: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each of `rows`: similarity to the nearest other utterance, and to the nearest of another route.

    The second is -1 where there is no other route.
    """
    nearest = np.empty(len(rows), np.float32)
    elsewhere = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 256):
        chunk = rows[start : start + 256]
        similarities = vectors[chunk] @ vectors.T
        similarities[np.arange(len(chunk)), chunk] = -1.0
        nearest[start : start + 256] = similarities.max(axis=1)
        similarities[routes[chunk][:, None] == routes[None, :]] = -1.0
        elsewhere[start : start + 256] = similarities.max(axis=1)
    return nearest, elsewhere


def _nearest(queries: Vectors, vectors: Vectors) -> NDArray[np.float32]:
    chunks = [(queries[start : start + 256] @ vectors.T).max(axis=1) for start in range(0, len(queries), 256)]
    return np.concatenate(chunks)


def _spread_cut(nearest: NDArray[np.float32], elsewhere: NDArray[np.float32]) -> float:
    """The similarity that 95 % of the utterances reach, shrunk towards the middle between near and far."""
    reached = float(np.quantile(nearest, 1.0 - _KEPT_SHARE))
    far = max(0.0, float(np.median(elsewhere)))
    middle = (float(np.median(nearest)) + far) / 2.0
    return (len(nearest) * reached + _PRIOR_COUNT * middle) / (len(nearest) + _PRIOR_COUNT)


def _best_cut(inside: NDArray[np.float32], outside: NDArray[np.float32]) -> float:
    """The similarity that best tells `inside` from `outside`: highest balanced accuracy, by exact sweep.

    Of several equal cuts the middle one of the longest run is taken: the one furthest from both sides.
    """
    values = np.unique(np.concatenate([inside, outside])).astype(np.float64)
    cuts = (values[1:] + values[:-1]) / 2.0 if len(values) > 1 else values
    kept = 1.0 - np.searchsorted(np.sort(inside), cuts) / len(inside)
    refused = np.searchsorted(np.sort(outside), cuts) / len(outside)
    balanced = kept + refused
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(runs, key=lambda run: cuts[run[-1]] - cuts[run[0]])
    return float((cuts[longest[0]] + cuts[longest[-1]]) / 2.0)
