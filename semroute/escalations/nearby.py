"""Outcomes in memory, to be searched by vector: a few numbers of each, and one vector for each prompt.

A *point* is a prompt on which there are outcomes; its vector stands in the index at 8 bits a number. The rows
of the outcomes of one model on one point are linked, the newest first, and one that is said again takes the
place of the one before.

Nothing that was handed out grows: `with_more` and `settled` make another `Nearby` beside the old one, and
share with it what both hold. (An older one no longer finds what was said again since.) New points stand
beside the index and are compared one by one; `settled` merges whole blocks of them into it. What is found
depends on the outcomes and their order alone, and not on when they came or were merged, up to the rounding to
8 bits and, above _FLAT_UP_TO points, to what the index passes over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np

from semroute.escalations.trend import FEATURE_COUNT, LEAST_ALIKE, likeness

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from semroute.escalations import Outcome

    Vectors = NDArray[np.float32]
    Rows = NDArray[np.int64]

NEIGHBORS = 64
"""Outcomes of a model on like prompts that are looked at."""

OF_ONE = 8
"""Of these, the most that one principal may have, so that nobody crowds out the others."""

BLOCK = 1_024
"""Points are merged into the index by whole blocks."""

_NEAR, _NEAR_MOST = 128, 1_024  # points that are looked at, and where some crowd out others
_HEARD = 16  # outcomes of a model that are enough, where others stand nearer
_DECIMALS, _EQUAL = 6, 1e-6  # of a similarity
_DEEP = 256  # outcomes of one model on one point that are looked at, the newest
_NO_ROW = -1
_FLAT_UP_TO = 4_096
_GROWS = 4  # times what its centres were trained on, before an index is trained anew
_LISTS_PER_ROOT = 3.0
_PROBED = 16
_TRAINED_ON = 32  # vectors a centre
_LARGEST = 262_144  # points of a segment that joining makes
_CHUNK = 16_384
_NO_MAP = 0  # faiss.DirectMap.NoMap: an index with a map of its rows cannot be joined
_LEAST_ROOM, _ROOM = 64, 1.25
_RECENT = 4_096  # keys noted one by one before they are sorted in

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
        *(("point", "<i4"), ("older", "<i4"), ("newer", "<i4"), ("alive", "?")),
    ]
)
"""`by`, `route`: numbers of names. From `point` on made here; `older`, `newer`: rows of the same chain."""


class Like(NamedTuple):
    """Outcomes on like prompts, most alike first; each array (n,).

    rows: their places. similarities: cosine. weights: how much each says about the prompt, in (0, 1].
    """

    rows: Rows
    similarities: Vectors
    weights: Vectors


class Nearby:
    """Outcomes that can be searched by vector, in the order of the log."""

    def __init__(self, models: int, *, keep_features: bool) -> None:
        """None yet, of so many models. keep_features: whether `features` will be asked for."""
        self._keep_features = keep_features
        self._numbers = _Column(NUMBERS)
        self._heads = np.empty((0, models), np.int32)
        self._features = _Column(np.float32, FEATURE_COUNT)
        self._beside = _Column(np.float32)
        self._counts = np.zeros(models, np.int64)
        self._count = self._points = self._merged = 0
        self._point_of, self._row_of = _Places(), _Places()
        self._segments: tuple[Any, ...] = ()
        self._trained: _Trained | None = None

    def __len__(self) -> int:
        """How many count."""
        return int(self._counts.sum())

    @property
    def counts(self) -> Rows:
        """How many of each model count (models,)."""
        return self._counts

    @property
    def models(self) -> frozenset[int]:
        """The numbers of the models of those that count."""
        return frozenset(np.flatnonzero(self._counts).tolist())

    @property
    def numbers(self) -> NDArray[np.void]:
        """The numbers of every outcome (n,), those that count no longer among them."""
        return self._numbers.upto(self._count)

    @property
    def alive(self) -> Rows:
        """The places of those that count."""
        return np.flatnonzero(self.numbers["alive"])

    @property
    def waiting(self) -> int:
        """How many points stand beside the index."""
        return self._points - self._merged

    def with_more(
        self, outcomes: Sequence[Outcome], numbers: NDArray[np.void], said: Sequence[int]
    ) -> tuple[Nearby, Rows]:
        """With `outcomes` as well, and the rows that they replace.

        numbers: of the outcomes, (n,), from `id` to `time`. said: a number for each, the same for what one
        principal says again of the same prompt and model. Only the latest of a line may be given more.
        """
        more = self._copy()
        points, new = self._points_of(outcomes)
        if new:
            vectors = np.array([outcome.vector for outcome in new], np.float32)
            more._beside = self._beside.extended(self.waiting, vectors)
            if self._keep_features:
                features = np.array([_padded(outcome.features) for outcome in new], np.float32)
                more._features = self._features.extended(self._points, features)
            more._points = self._points + len(new)
        numbers["point"], numbers["older"], numbers["newer"] = points, _NO_ROW, _NO_ROW
        numbers["alive"] = True
        more._numbers = self._numbers.extended(self._count, numbers)
        more._count = self._count + len(outcomes)
        # A copy, so that nobody who reads meanwhile begins with what his generation does not have.
        more._heads = np.concatenate(
            [self._heads, np.full((len(new), self._heads.shape[1]), _NO_ROW, np.int32)]
        )
        replaced = [
            old
            for row, key in enumerate(said, self._count)
            if (old := self._row_of.replace(key, row)) is not None
        ]
        more._link(range(self._count, more._count), replaced)
        gone, size = more.numbers["model"][replaced], len(self._counts)
        more._counts = (
            self._counts + np.bincount(numbers["model"], minlength=size) - np.bincount(gone, minlength=size)
        )
        return more, np.array(replaced, np.int64)

    def score_of(self, said: int) -> float | None:
        """The score that counts of what was `said`, see `with_more`."""
        row = self._row_of.get(said)
        return None if row is None else float(self.numbers["score"][row])

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

    def search(self, vector: Vectors, everyone: int) -> Like:
        """The outcomes on like prompts, of equal ones the newest first: of each model, of each principal.

        everyone: the number of the principal who may have as many as there are.
        """
        found, crowded = self._search(vector, everyone, _NEAR)
        return self._search(vector, everyone, _NEAR_MOST)[0] if crowded else found

    def features(self, points: Rows) -> Vectors:
        """The features of `points` (n, FEATURE_COUNT)."""
        return self._features.upto(self._points)[points]

    def vectors(self, points: Rows) -> Vectors:
        """The vectors of `points` (n, dim), as far as they were kept; `points` increase."""
        found = []
        start = 0
        for segment in self._segments:
            inside = points[(points >= start) & (points < start + segment.ntotal)] - start
            if len(inside):
                found.append(segment.reconstruct_batch(inside))
            start += segment.ntotal
        beside = points[points >= start] - start
        if len(beside):
            found.append(self._beside.upto(self.waiting)[beside])
        return np.concatenate(found)

    def _copy(self) -> Nearby:
        other = object.__new__(Nearby)
        other.__dict__.update(self.__dict__)
        return other

    def _points_of(self, outcomes: Sequence[Outcome]) -> tuple[list[int], list[Outcome]]:
        """The point of each outcome, and those outcomes that are the first on theirs."""
        points: list[int] = []
        new: list[Outcome] = []
        for outcome in outcomes:
            key = int.from_bytes(outcome.prompt_hash[:8], "little")
            point = self._point_of.get(key)
            if point is None:
                point = self._points + len(new)
                self._point_of.replace(key, point)
                new.append(outcome)
            points.append(point)
        return points, new

    def _link(self, added: Iterable[int], replaced: Sequence[int]) -> None:
        """Put the new rows before the others of their points, and take out what is replaced."""
        numbers, heads = self.numbers, self._heads
        point, model, alive = numbers["point"], numbers["model"], numbers["alive"]
        older, newer = numbers["older"], numbers["newer"]
        for row in added:
            head = heads[point[row], model[row]]
            older[row] = head
            if head != _NO_ROW:
                newer[head] = row
            heads[point[row], model[row]] = row
        for row in replaced:
            before, after = newer[row], older[row]
            if before == _NO_ROW:
                heads[point[row], model[row]] = after
            else:
                older[before] = after
            if after != _NO_ROW:
                newer[after] = before
            alive[row] = False

    def _search(self, vector: Vectors, everyone: int, most: int) -> tuple[Like, bool]:
        """What `most` points say, and whether more of them should be looked at."""
        points, similarities = self._near(vector, most)
        rows, similarities = self._rows_on(points, similarities)
        numbers = self.numbers
        models, by = numbers["model"][rows], numbers["by"][rows]
        modest = (_ranks(by.astype(np.int64) << 16 | models) < OF_ONE) | (by == everyone)
        fair = np.flatnonzero(modest)
        fair = fair[_ranks(models[fair]) < NEIGHBORS]
        crowded = len(points) == most and self._is_crowded(models, models[fair], modest)
        rows, similarities = rows[fair], similarities[fair]
        return Like(rows, similarities, likeness(similarities)), crowded

    def _is_crowded(self, found: Rows, heard: Rows, modest: NDArray[np.bool_]) -> bool:
        """Whether what was cut of the models `found` may have kept out others, given who is `heard`."""
        counts = np.bincount(heard, minlength=len(self._counts))
        loud = np.unique(found[~modest])
        return bool((counts[loud] < NEIGHBORS).any() or (counts < np.minimum(_HEARD, self._counts)).any())

    def _near(self, vector: Vectors, most: int) -> tuple[Rows, Vectors]:
        """At most `most` points that are like `vector`, with similarities; of equal ones the newest first."""
        points, similarities = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        start = 0
        probed = self._trained.nearest_lists(vector[None]) if self._trained else ()
        for segment in self._segments:
            if probed:
                found, places = segment.search_preassigned(vector[None], most, *probed)
            else:
                found, places = segment.search(vector[None], most)
            hit = places[0] >= 0
            points.append(places[0][hit] + start)
            similarities.append(found[0][hit])
            start += segment.ntotal
        if self.waiting:
            similarities.append(self._beside.upto(self.waiting) @ vector)
            points.append(np.arange(self._merged, self._points))
        everywhere = np.concatenate(points)
        values = np.concatenate(similarities)
        least = LEAST_ALIKE
        if len(values) > most:
            # With what is equal to the last of them: which one is kept is for their order to say.
            least = max(least, float(np.partition(values, -most)[-most]) - 2.0 * _EQUAL)
        kept = np.flatnonzero(values >= least)
        everywhere, alike = everywhere[kept], np.asarray(np.round(values[kept], _DECIMALS), np.float32)
        order = np.lexsort((-everywhere, -alike))[:most]
        return everywhere[order], alike[order]

    def _rows_on(self, points: Rows, similarities: Vectors) -> tuple[Rows, Vectors]:
        """The outcomes on `points`, most alike first, of equal ones the newest."""
        older = self.numbers["older"]
        rows: list[Rows] = [np.empty(0, np.int64)]
        alike: list[Vectors] = [np.empty(0, np.float32)]
        heads = self._heads[points]
        current, similarities = heads.ravel().astype(np.int64), np.repeat(similarities, heads.shape[1])
        for _ in range(_DEEP):
            there = current != _NO_ROW
            if not there.any():
                break
            current, similarities = current[there], similarities[there]
            rows.append(current)
            alike.append(similarities)
            current = older[current].astype(np.int64)
        found, similarities = np.concatenate(rows), np.concatenate(alike)
        order = np.lexsort((-found, -similarities))
        return found[order], similarities[order]

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
        """A segment of the points from `start` to `end`."""
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


class _Places:
    """A place for each key. Takes 16 bytes for most."""

    def __init__(self) -> None:
        self._keys, self._values = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def get(self, key: int) -> int | None:
        """The place of `key`, if it has one."""
        found = self._recent.get(key)
        if found is not None:
            return found
        at = self._sorted_at(key)
        return None if at is None else int(self._values[at])

    def replace(self, key: int, value: int) -> int | None:
        """Note a place; returns the one before."""
        at = None if key in self._recent else self._sorted_at(key)
        if at is not None:
            old = int(self._values[at])
            self._values[at] = value
            return old
        before = self._recent.get(key)
        self._recent[key] = value
        if len(self._recent) > _RECENT + len(self._keys) // 8:
            self._sort_in()
        return before

    def _sorted_at(self, key: int) -> int | None:
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        return at if at < len(self._keys) and self._keys[at] == key else None

    def _sort_in(self) -> None:
        keys = np.concatenate([self._keys, np.fromiter(self._recent.keys(), np.uint64)])
        values = np.concatenate([self._values, np.fromiter(self._recent.values(), np.int64)])
        order = np.argsort(keys)
        self._keys, self._values, self._recent = keys[order], values[order], {}


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


def _ranks(keys: NDArray[Any]) -> Rows:
    """For each key, how many equal ones stand before it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered)
    return ranks


def _padded(features: Vectors) -> Vectors:
    """The features as this version counts them, zeros where there are none."""
    return features if len(features) == FEATURE_COUNT else np.zeros(FEATURE_COUNT, np.float32)
