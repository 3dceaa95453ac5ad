"""Where utterances and prompts stand on the map: vectors in, two dimensions out.

The map is a t-SNE (van der Maaten and Hinton 2008, in the approximation of van der Maaten 2014) of at most
`FITTED` utterances. Whatever else is shown stands at the mean of its nearest utterances, weighted as the
vote weighs them. Near means alike; the axes mean nothing, and neither do distances between far clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from semroute.vote import TEMPERATURE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.encoders.base import Vectors

    Points = NDArray[np.float64]
    Rows = NDArray[np.int64]

FITTED = 1_000
"""More would take t-SNE too long: its time grows with the points, and this many show every cluster."""

_FEWEST = 12  # points below which t-SNE has nothing to arrange
_COMPONENTS = 50  # of the vectors that t-SNE sees, as its authors advise
_PERPLEXITY = 15.0
_STEPS = 400
_ANGLE = 0.7  # of the Barnes-Hut approximation: coarse, but nobody measures on the map
_PLACED_BY = 5  # nearest utterances
_BLOCK = 1_024
_ALIKE = 1e-6  # of the variance of the vectors: below, they are all the same


def evenly(count: int, most: int) -> Rows:
    """At most `most` of the rows 0 to count - 1, spread evenly, in order."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64))[:count]


class Layout(NamedTuple):
    """What everything else is placed by: at most `FITTED` vectors (n, dim), and their places (n, 2)."""

    vectors: Vectors
    places: Points

    def place(self, vectors: Vectors) -> Points:
        """Where `vectors`, shape (m, dim), unit rows, stand: each among its nearest; shape (m, 2).

        There must be at least one to place them by.
        """
        found = np.empty((len(vectors), 2))
        by = min(_PLACED_BY, len(self.places))
        for start in range(0, len(vectors), _BLOCK):
            block = slice(start, start + _BLOCK)
            similarities = vectors[block] @ self.vectors.T
            nearest = np.argpartition(-similarities, by - 1, axis=1)[:, :by]
            cosines = np.take_along_axis(similarities, nearest, axis=1).astype(np.float64)
            weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / TEMPERATURE)
            weights /= weights.sum(axis=1, keepdims=True)
            found[block] = np.einsum("nk,nkd->nd", weights, self.places[nearest])
        return found


def layout(vectors: Vectors) -> tuple[Layout, Points]:
    """The layout of `vectors`, shape (n, dim), unit rows, and the place of each, shape (n, 2).

    Places are in [-1, 1] x [-1, 1]. The same vectors give the same places on the same machine.
    """
    rows = evenly(len(vectors), FITTED)
    fitted = vectors[rows]
    found = Layout(fitted, _scaled(_embedded(fitted)) if len(fitted) else np.zeros((0, 2)))
    if len(rows) == len(vectors):
        return found, found.places
    places = found.place(vectors)
    places[rows] = found.places
    return found, places


def positions(vectors: Vectors) -> Points:
    """The places of `layout` alone."""
    return layout(vectors)[1]


def between(places: Points, similarities: Sequence[float]) -> tuple[float, float]:
    """Where a prompt stands whose neighbours, nearest first, stand at `places` (k, 2), k at least 1."""
    cosines = np.array(similarities)
    weights = np.exp((cosines - cosines.max()) / TEMPERATURE)
    x, y = weights @ places / weights.sum()
    return float(x), float(y)


def _embedded(vectors: Vectors) -> Points:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    if (centred**2).sum(axis=1).mean() < _ALIKE:
        return np.zeros((len(vectors), 2))
    if len(vectors) < _FEWEST:
        return _principal(centred, 2)
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    arranger = TSNE(
        init="pca",
        perplexity=min(_PERPLEXITY, (len(vectors) - 1) / 4),
        max_iter=_STEPS,
        angle=_ANGLE,
        random_state=0,
    )
    with threadpool_limits(1):  # sums over several threads come out in a different order each time
        arranged = arranger.fit_transform(_principal(centred, _COMPONENTS).astype(np.float32))
    return np.asarray(arranged, np.float64)


def _principal(centred: Points, components: int) -> Points:
    """The rows of `centred` on their principal axes, shape (n, 2 to components)."""
    _, axes = np.linalg.eigh(centred.T @ centred)
    kept = axes[:, ::-1][:, :components]
    # An axis has no direction of its own; without one, the map would be mirrored at random.
    kept = kept * np.where(kept[np.abs(kept).argmax(axis=0), range(kept.shape[1])] < 0.0, -1.0, 1.0)
    projected = centred @ kept
    padded: Points = np.pad(projected, ((0, 0), (0, max(0, 2 - projected.shape[1]))))
    return padded


def _scaled(places: Points) -> Points:
    middle = (places.max(axis=0) + places.min(axis=0)) / 2.0
    reach = np.abs(places - middle).max(axis=0)
    scaled: Points = (places - middle) / np.where(reach > 0.0, reach, 1.0)
    return scaled
