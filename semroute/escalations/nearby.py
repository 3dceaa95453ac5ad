"""Outcomes in memory, to be searched by vector: a few numbers of each, and its vector at 8 bits a number.

Nothing that was handed out is changed: `with_more` and `settled` make another `Nearby` beside the old one,
and share with it what both hold. New outcomes stand beside the index and are compared one by one; `settled`
merges whole blocks of them into it. What is found depends on the outcomes and their order alone, and not on
when they came or were merged, up to the rounding to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np

from semroute.escalations.trend import FEATURE_COUNT, likeness

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from semroute.escalations import Outcome

    Vectors = NDArray[np.float32]
    Rows = NDArray[np.int64]

NEIGHBORS = 64
"""Outcomes on like prompts that are looked at."""

BLOCK = 1_024
"""Outcomes are merged into the index by whole blocks."""

_FLAT_UP_TO = 4_096
_GROWS = 4  # times what its centres were trained on, before an index is trained anew
_LISTS_PER_ROOT = 3.0
_PROBED = 16
_TRAINED_ON = 32  # vectors a centre
_LARGEST = 262_144  # outcomes of a segment that joining makes
_CHUNK = 16_384
_NO_MAP = 0  # faiss.DirectMap.NoMap: an index with a map of its rows cannot be joined
_LEAST_ROOM, _ROOM = 64, 1.25

NUMBERS = np.dtype(
    [
        *(
            ("id", "S26"),
            ("model", "<i2"),
            ("by", "<i4"),
            ("route", "<i4"),
            ("score", "<f8"),
            ("time", "<f8"),
        ),
        *(("prompt", "<u8"), ("said", "<u8")),
    ]
)
"""`by`, `route`: numbers of names. `prompt`, `said`: hashes, of the prompt and of who spoke of it."""


class Like(NamedTuple):
    """Outcomes on like prompts, most alike first; each array (n,).

    rows: their places. similarities: cosine. weights: how much each says about the prompt, in (0, 1].
    """

    rows: Rows
    similarities: Vectors
    weights: Vectors


class Nearby:
    """Outcomes that can be searched by vector, in the order of the log."""

    def __init__(self, *, keep_features: bool) -> None:
        """None yet. keep_features: whether `features` will be asked for."""
        self._keep_features = keep_features
        self._numbers = _Column(NUMBERS)
        self._features = _Column(np.float32, FEATURE_COUNT)
        self._beside = _Column(np.float32)
        self._count = self._merged = 0
        self._dead: frozenset[int] = frozenset()
        self._segments: tuple[Any, ...] = ()
        self._trained: _Trained | None = None

    def __len__(self) -> int:
        """How many count."""
        return self._count - len(self._dead)

    @property
    def numbers(self) -> NDArray[np.void]:
        """The numbers of every outcome (n,), those that count no longer among them."""
        return self._numbers.upto(self._count)

    @property
    def alive(self) -> Rows:
        """The places of those that count."""
        rows = np.ones(self._count, np.bool_)
        rows[list(self._dead)] = False
        return np.flatnonzero(rows)

    @property
    def waiting(self) -> int:
        """How many stand beside the index."""
        return self._count - self._merged

    def without(self, dead: Collection[int]) -> Nearby:
        """Without the outcomes at these places, which count no longer."""
        less = self._copy()
        less._dead = self._dead.union(dead)
        return less

    def with_more(self, outcomes: Sequence[Outcome], numbers: NDArray[np.void]) -> Nearby:
        """With `outcomes` as well, whose `numbers` (n,) are given."""
        more = self._copy()
        more._numbers = self._numbers.extended(self._count, numbers)
        if self._keep_features:
            features = np.array([_padded(outcome.features) for outcome in outcomes], np.float32)
            more._features = self._features.extended(self._count, features)
        vectors = np.array([outcome.vector for outcome in outcomes], np.float32)
        more._beside = self._beside.extended(self.waiting, vectors)
        more._count = self._count + len(outcomes)
        return more

    def settled(self) -> Nearby:
        """With every whole block merged into the index."""
        found = self
        while found.waiting >= BLOCK:
            found = found._merge_block()
        return found

    def with_merged(self, settled: Nearby) -> Nearby:
        """With what is merged in `settled`, which was made of an earlier generation of this one.

        Where this one has merged more by itself meanwhile, it stays as it is.
        """
        if settled._merged <= self._merged:
            return self
        other = self._copy()
        rest = self._beside.upto(self.waiting)[settled._merged - self._merged :]
        other._merged, other._segments, other._trained = settled._merged, settled._segments, settled._trained
        other._beside = _Column(np.float32, self._beside.width).extended(0, rest)
        return other

    def search(self, vector: Vectors) -> Like:
        """The outcomes on like prompts, equal ones in the order of their ids."""
        rows, similarities = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        start = 0
        probed = self._trained.nearest_lists(vector[None]) if self._trained else ()
        for segment in self._segments:
            if probed:
                values, places = segment.search_preassigned(vector[None], NEIGHBORS, *probed)
            else:
                values, places = segment.search(vector[None], NEIGHBORS)
            hit = places[0] >= 0
            rows.append(places[0][hit] + start)
            similarities.append(values[0][hit])
            start += segment.ntotal
        if self.waiting:
            similarities.append(self._beside.upto(self.waiting) @ vector)
            rows.append(np.arange(self._merged, self._count))
        return self._like(np.concatenate(rows), np.concatenate(similarities))

    def features(self, rows: Rows) -> Vectors:
        """The features of `rows` (n, FEATURE_COUNT)."""
        return self._features.upto(self._count)[rows]

    def vectors(self, rows: Rows) -> Vectors:
        """The vectors of `rows` (n, dim), as far as they were kept; `rows` increase."""
        found = []
        start = 0
        for segment in self._segments:
            inside = rows[(rows >= start) & (rows < start + segment.ntotal)] - start
            if len(inside):
                found.append(segment.reconstruct_batch(inside))
            start += segment.ntotal
        beside = rows[rows >= start] - start
        if len(beside):
            found.append(self._beside.upto(self.waiting)[beside])
        return np.concatenate(found)

    def _copy(self) -> Nearby:
        other = object.__new__(Nearby)
        other.__dict__.update(self.__dict__)
        return other

    def _like(self, rows: Rows, similarities: Vectors) -> Like:
        similarities = np.round(similarities, 6)
        weights = likeness(similarities)
        kept = np.flatnonzero(weights > 0.0)
        if self._dead:
            kept = kept[[int(row) not in self._dead for row in rows[kept]]]
        if len(kept) > NEIGHBORS:
            # The last of them in full: who of several equal ones is kept is for the ids to say.
            least = np.partition(similarities[kept], -NEIGHBORS)[-NEIGHBORS]
            kept = kept[similarities[kept] >= least]
        ids = self._numbers.upto(self._count)["id"][rows[kept]]
        order = kept[np.lexsort((ids, -similarities[kept]))][:NEIGHBORS]
        return Like(rows[order], similarities[order], weights[order])

    def _merge_block(self) -> Nearby:
        """With the first block of those beside in the index."""
        other = self._copy()
        end = self._merged + BLOCK
        if end <= _FLAT_UP_TO:
            other._segments = (_flat(self.vectors(np.arange(end))),)
        elif self._trained is None or end > _GROWS * self._trained.count:
            lists = int(_LISTS_PER_ROOT * math.sqrt(end))
            sample = np.linspace(0, end - 1, min(end, lists * _TRAINED_ON)).astype(np.int64)
            other._trained = _Trained(self.vectors(sample), lists, end)
            other._segments = tuple(
                self._filled(other._trained, start, min(end, start + _LARGEST))
                for start in range(0, end, _LARGEST)
            )
        else:
            other._segments = _joined([*self._segments, self._filled(self._trained, self._merged, end)])
        other._merged = end
        rest = self._beside.upto(self.waiting)[BLOCK:]
        other._beside = _Column(np.float32, self._beside.width).extended(0, rest)
        return other

    def _filled(self, trained: _Trained, start: int, end: int) -> Any:
        """A segment of the rows from `start` to `end`."""
        chunks = (np.arange(place, min(end, place + _CHUNK)) for place in range(start, end, _CHUNK))
        return trained.filled(self.vectors(chunk) for chunk in chunks)


class _Column:
    """Rows that are only added to. Generations share one, each knowing how many of the rows are its own."""

    def __init__(self, dtype: DTypeLike, width: int = 0) -> None:
        self.width = width
        self._data: NDArray[Any] = np.empty((0, width) if width else 0, dtype)
        self._used = 0

    def upto(self, count: int) -> NDArray[Any]:
        return self._data[:count]

    def extended(self, count: int, values: NDArray[Any]) -> _Column:
        """The column whose first `count` rows are those of this one, and then `values`."""
        column, end = self, count + len(values)
        if count != self._used or end > len(
            self._data
        ):  # another generation wrote there, or there is no room
            column = _Column(values.dtype, values.shape[1] if values.ndim > 1 else 0)
            column._data = np.empty((max(_LEAST_ROOM, int(_ROOM * end)), *values.shape[1:]), values.dtype)
            if count:
                column._data[:count] = self.upto(count)
        column._data[count:end] = values
        column._used = end
        return column


class _Trained:
    """An index without a vector but with its centres. Segments that are made from it can be joined."""

    def __init__(self, sample: Vectors, lists: int, count: int) -> None:
        """With `lists` centres of a sample (n, dim) of `count` vectors."""
        self.count = count
        dim = sample.shape[1]
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _TRAINED_ON
        index.cp.niter = 5
        index.cp.seed = 0
        index.train(sample)
        index.nprobe = _PROBED
        self._index = index

    def nearest_lists(self, vectors: Vectors) -> tuple[Rows, Vectors]:
        """What is to be searched for `vectors` (n, dim), in every segment alike: lists, and similarities."""
        similarities, lists = self._index.quantizer.search(vectors, _PROBED)
        return lists, similarities

    def filled(self, chunks: Iterable[Vectors]) -> Any:
        """An index of `chunks`, numbered from 0."""
        index = faiss.clone_index(self._index)
        for chunk in chunks:
            index.add(chunk)
        return _mapped(index)


def _mapped(index: Any) -> Any:
    """`index` in no more room than it needs, which what has grown is not, and with a map of its rows."""
    exact: Any = faiss.clone_index(index)
    exact.make_direct_map()
    return exact


def _flat(vectors: Vectors) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _joined(segments: list[Any]) -> tuple[Any, ...]:
    """`segments` with those at the end joined while the last is no smaller than the one before, up to a size.

    So there are never more than a few, and a vector is copied only so often. What is searched meanwhile stays
    as it is.
    """
    while len(segments) > 1 and segments[-2].ntotal <= segments[-1].ntotal <= _LARGEST // 2:
        pair: list[Any] = [faiss.clone_index(segment) for segment in segments[-2:]]
        for index in pair:
            index.set_direct_map_type(_NO_MAP)
        joined, other = pair
        joined.merge_from(other, joined.ntotal)
        segments[-2:] = [_mapped(joined)]
    return tuple(segments)


def _padded(features: Vectors) -> Vectors:
    """The features as this version counts them, zeros where there are none."""
    return features if len(features) == FEATURE_COUNT else np.zeros(FEATURE_COUNT, np.float32)
