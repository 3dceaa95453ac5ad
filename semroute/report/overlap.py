"""How far the utterances of one route lie among those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from semroute.report.layout import evenly
from semroute.vote import TEMPERATURE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.encoders.base import Vectors
    from semroute.index import RouteIndex

    Matrix = NDArray[np.float64]
    Rows = NDArray[np.int64]

_ASKED = 5_000  # utterances that are left out in turn; more would say the same, slower
_CHUNK = 512
_ORDERED_OPTIMALLY = 200  # routes; the best order of a tree takes time that grows with their cube


class Pair(NamedTuple):
    """Two routes (as indices) that share their neighbourhoods, and the two utterances nearest to each other.

    share: mean of what the vote on left-out utterances of each gives to the other, in [0, 1].
    rows: of the two utterances in the index, that of `first` first; similarity: their cosine.
    """

    first: int
    second: int
    share: float
    rows: tuple[int, int]
    similarity: float


class Overlap(NamedTuple):
    """shares[i, j]: mean share of the vote that route j gets on a left-out utterance of route i.

    shares: (routes, routes); a row sums to 1, or to 0 where a route has no utterance with a neighbour.
    pairs: the routes that share most, most first. asked: how many utterances were left out, in turn.
    """

    shares: Matrix
    pairs: tuple[Pair, ...]
    asked: int


def overlap(index: RouteIndex, vectors: Vectors, most_pairs: int) -> Overlap:
    """Leave out the utterances of `index` in turn and let the others vote; `vectors` are all of them."""
    count, k = len(index.config.routes), index.config.settings.vote.neighbors
    sums, pairs = np.zeros((count, count)), _Nearest()
    rows = evenly(len(vectors), _ASKED)
    for start in range(0, len(rows), _CHUNK):
        asked = rows[start : start + _CHUNK]
        for row, found in zip(asked.tolist(), index.search(vectors[asked], k + 1), strict=True):
            others = [] if found is None else [n for n, near in enumerate(found.rows) if near != row][:k]
            if found is None or not others:
                continue
            near = np.array(found.rows)[others]
            cosines = np.array(found.similarities)[others]
            weights = np.exp((cosines - cosines[0]) / TEMPERATURE)
            np.add.at(sums[index.routes[row]], index.routes[near], weights / weights.sum())
            pairs.add(row, near, cosines, index.routes)
    total = sums.sum(axis=1, keepdims=True)
    shares = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0.0)
    return Overlap(shares, pairs.most(shares, most_pairs), len(rows))


class _Nearest:
    """The two nearest utterances of each pair of routes seen so far."""

    def __init__(self) -> None:
        self._best: dict[tuple[int, int], tuple[float, int, int]] = {}

    def add(self, row: int, near: Rows, cosines: Matrix, routes: Rows) -> None:
        own = int(routes[row])
        for other, cosine in zip(near.tolist(), cosines.tolist(), strict=True):
            its = int(routes[other])
            if its == own:
                continue
            key = (own, its) if own < its else (its, own)
            if cosine > self._best.get(key, (-2.0, 0, 0))[0]:
                self._best[key] = (cosine, *((row, other) if own < its else (other, row)))

    def most(self, shares: Matrix, most: int) -> tuple[Pair, ...]:
        found = []
        for (first, second), (cosine, row, other) in self._best.items():
            share = float(shares[first, second] + shares[second, first]) / 2.0
            found.append(Pair(first, second, share, (row, other), cosine))
        found.sort(key=lambda pair: (-pair.share, pair.first, pair.second))
        return tuple(found[:most])


def in_order(vectors: Vectors, routes: Rows, count: int) -> list[int]:
    """All `count` routes so that like ones stand together, by average linkage of their centroids.

    vectors: (n, dim) unit rows; routes: (n,) the route of each. Routes without a vector come last.
    """
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, routes, vectors)
    lengths = np.linalg.norm(sums, axis=1)
    placed = np.flatnonzero(lengths > 0.0)
    rest = np.flatnonzero(lengths == 0.0).tolist()
    if len(placed) < 3:
        return [*placed.tolist(), *rest]
    from scipy.cluster.hierarchy import leaves_list, linkage

    centroids = sums[placed] / lengths[placed, None]
    tree = linkage(centroids, "average", optimal_ordering=len(placed) <= _ORDERED_OPTIMALLY)
    return [*placed[leaves_list(tree)].tolist(), *rest]
