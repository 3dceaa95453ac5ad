"""`semroute lint`: what is weak in the utterances and heldout prompts of a project, and what would help.

    Config + RouteIndex -> texts (thin, duplicate) + vectors (near, stolen, outlying) + heldout -> Findings

A finding is advice: the project builds and routes with all of them. Findings about two routes are grouped,
one for each pair, so that the list stays readable where there are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from semroute import index as route_index
from semroute.config import Config, Place, load_config
from semroute.encoders import open_encoder, open_words
from semroute.errors import ArtifactError, EncodingFailed
from semroute.freshness import fingerprint
from semroute.router import Router
from semroute.snapshot import limits_of
from semroute.sources import text_key
from semroute.yaml import shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.decision import Decision
    from semroute.encoders.base import Encoder, Vectors
    from semroute.index import Progress, RouteIndex

FindingKind = Literal[
    "contradiction",
    "degenerate",
    "duplicate",
    "easy-heldout",
    "near-duplicate",
    "no-heldout",
    "one-note",
    "one-route",
    "outlier",
    "shadowed",
    "steals",
    "steals-heldout",
    "thin",
]

FEWEST_UTTERANCES = 5
"""A route with fewer is thin: what is left of it when one is left out says nothing of it."""

_NEAREST_CUT, _FURTHEST_CUT = 0.99, 0.9
_SHOWN = 3  # examples in one finding
_NAMED = 5  # routes named in one finding
_CHUNK = 512  # rows compared with all others at once
_SAMPLE = 500  # rows that tell how similar unrelated utterances are
_ALIKE = 1e-4  # cosines nearer to 1 than this are those of equal vectors
_FEWEST_TO_STAND_OUT = 5
_Z_SCORE = 3.5  # the usual cut for scores from the median absolute deviation
_SMALLEST_SPREAD = 0.03  # of mean similarities: a route that is narrower has no outliers for that reason
_SENTENCE_MARKS = str.maketrans(
    {**dict.fromkeys(".,;:!?…'\"’‘“”«»¿¡。，、！？"), **dict.fromkeys("-–—", " ")}
)


@dataclass(frozen=True, slots=True)
class Example:
    """One text that shows what a finding means, and the text of the other route that it meets, if any."""

    text: str
    place: Place
    other_text: str | None = None
    other_place: Place | None = None
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One weakness, where it stands, and what to do.

    route: the route it is about; None for the default or the whole project.
    other: the second route, of findings about two.
    count: how many texts it concerns; `examples` shows at most three of them.
    """

    kind: FindingKind
    route: str | None
    place: Place
    message: str
    suggestion: str
    other: str | None = None
    count: int = 0
    examples: tuple[Example, ...] = ()

    def __str__(self) -> str:
        where = f"{self.place.file}:{self.place.line}:{self.place.column}"
        return f"{where}: {self.kind}: {self.message}; {self.suggestion}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a place as file, line and column."""
        return {
            "kind": self.kind,
            "route": self.route,
            "other": self.other,
            **self.place._asdict(),
            "message": self.message,
            "suggestion": self.suggestion,
            "count": self.count,
            "examples": [
                {
                    "text": one.text,
                    "place": one.place._asdict(),
                    "other_text": one.other_text,
                    "other_place": None if one.other_place is None else one.other_place._asdict(),
                    "similarity": one.similarity,
                }
                for one in self.examples
            ],
        }


def examine(
    routes: Path,
    index: Path,
    *,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
    fitting: Progress | None = None,
) -> list[Finding]:
    """What is weak in the project in `routes`, sorted by file and line. Stores nothing.

    The index in `index` is looked at where it is up to date; else one is built in memory, with the vectors
    that it holds. Heldout prompts are routed by it.
    encoder: in place of the one the settings name.
    progress, fitting: called as texts are embedded, and as heads are fitted.

    Raises ConfigError or EncoderError. A missing or damaged index is no error.
    """
    config = load_config(routes)
    opened = encoder or open_encoder(config.settings.encoder, root=index.absolute().parent)
    built = _index_of(config, opened, index, progress, fitting)
    texts = _Texts(config)
    duplicates = list(_duplicates(texts, built))
    findings = [*_counts(texts), *_no_heldout(texts), *(finding for finding, _ in duplicates)]
    if _all_equal(built.reconstruct()):
        # Whatever else the vectors seemed to say would follow from that.
        findings.append(_degenerate(texts))
    else:
        known = {pair for _, pairs in duplicates for pair in pairs}
        findings += _about_vectors(texts, _Comparison.of(built), known)
        findings += _about_heldout(texts, built, opened)
    return sorted(findings, key=lambda one: (one.place, one.kind, one.other or "", one.message))


def _index_of(
    config: Config, encoder: Encoder, folder: Path, progress: Progress | None, fitting: Progress | None
) -> RouteIndex:
    """The index in `folder` where it is that of `config`, else one that is built now."""
    words = open_words(encoder.identity.name)
    try:
        previous = route_index.load(folder)
    except ArtifactError:
        previous = None
    revision = None if words is None else words.identity.revision
    if previous is not None and previous.fingerprint == fingerprint(config, encoder.identity, revision):
        return previous
    return route_index.build(
        config, encoder, words=words, previous=previous, progress=progress, fitting=fitting
    ).index


class _Texts:
    """The texts of a config and where they stand."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.names = [route.name for route in config.routes]

    @cached_property
    def _first(self) -> dict[tuple[str, str], int]:
        """Where in its route's list each utterance stands first."""
        first: dict[tuple[str, str], int] = {}
        for route in self.config.routes:
            for number, text in enumerate(route.utterances):
                first.setdefault((route.name, text), number)
        return first

    def of_route(self, route: str | None) -> Place:
        """Where a route, or the default, is written."""
        return self.config.route_place(route) or Place("routes", 0, 0)

    def of_utterance(self, route: str, text: str) -> Place:
        """Where an indexed text stands: an utterance, or the route whose description it is."""
        number = self._first.get((route, text))
        place = None if number is None else self.config.place(route, "utterances", number)
        return place or self.of_route(route)

    def heldout(self) -> Iterator[tuple[str | None, str, int]]:
        """Every heldout prompt: its route (None for the default), its text, its number in the list."""
        yield from ((None, text, n) for n, text in enumerate(self.config.settings.default.heldout))
        for route in self.config.routes:
            yield from ((route.name, text, number) for number, text in enumerate(route.heldout))

    def of_heldout(self, route: str | None, number: int) -> Place:
        """Where a heldout prompt stands."""
        return self.config.place(route, "heldout", number) or self.of_route(route)


# What the texts alone say


def _counts(texts: _Texts) -> Iterator[Finding]:
    for route in texts.config.routes:
        count, place = len(set(route.utterances)), texts.of_route(route.name)
        if count == 0:
            message = f"route {shorten(route.name)} has no utterance, and its description alone is indexed"
            yield Finding(
                "thin", route.name, place, message, f"write at least {FEWEST_UTTERANCES} utterances"
            )
        elif count < FEWEST_UTTERANCES:
            message = f"route {shorten(route.name)} has {_number(count, 'utterance')}"
            suggestion = f"write at least {FEWEST_UTTERANCES - count} more, worded differently"
            yield Finding("thin", route.name, place, message, suggestion, count=count)
    if len(texts.names) == 1:
        message = f"route {shorten(texts.names[0])} is the only one, so that all that is near goes there"
        suggestion = "write a second route, or default heldout prompts that fit the distance limit"
        yield Finding("one-route", texts.names[0], texts.of_route(texts.names[0]), message, suggestion)


def _no_heldout(texts: _Texts) -> Iterator[Finding]:
    """One finding for the whole project: evaluation says nothing of routes without heldout prompts."""
    without = [route.name for route in texts.config.routes if not route.heldout]
    if not without:
        return
    suggestion = "write a few heldout prompts for each, as users would word them"
    if len(without) == len(texts.names):
        message = "no route has a heldout prompt, so nothing tells how well this routes"
        yield Finding("no-heldout", None, texts.of_route(None), message, suggestion, count=len(without))
        return
    named = ", ".join(map(shorten, without[:_NAMED])) + (", ..." if len(without) > _NAMED else "")
    message = f"{_number(len(without), 'route')} without a heldout prompt ({named})"
    yield Finding(
        "no-heldout", without[0], texts.of_route(without[0]), message, suggestion, count=len(without)
    )


def _duplicates(texts: _Texts, index: RouteIndex) -> Iterator[tuple[Finding, set[tuple[int, int]]]]:
    """The same text in two routes, with the rows of each such pair."""
    first: dict[str, list[int]] = {}
    pairs: list[tuple[int, int]] = []
    for row, entry in enumerate(index.entries):
        rows = first.setdefault(_bare(entry.text), [])
        if all(index.entries[other].route != entry.route for other in rows):
            pairs += [(other, row) for other in rows]
            rows.append(row)
    for (one, other), found in _by_routes(pairs, index.routes):
        examples = [_pair(texts, index, *pair, 1.0) for pair in found]
        message = (
            f"{_number(len(found), 'utterance')} of {shorten(texts.names[one])} and "
            f"{shorten(texts.names[other])} the same but for case, space and punctuation: {_shown(examples)}"
        )
        suggestion = "keep each in the one route that should serve it"
        yield _between("duplicate", texts, one, other, message, suggestion, examples), set(found)


def _bare(text: str) -> str:
    """`text` without case, space and sentence punctuation. `c++` and `c#` stay different."""
    return text_key(text.translate(_SENTENCE_MARKS)) or text_key(text)


# What the vectors of the utterances say


def _all_equal(vectors: Vectors) -> bool:
    return len(vectors) > 1 and bool((vectors @ vectors[0]).min() > 1.0 - _ALIKE)


def _degenerate(texts: _Texts) -> Finding:
    message = "the vectors of all utterances are equal, so the first route gets every prompt"
    suggestion = "write utterances that differ, or choose another encoder"
    return Finding("degenerate", None, texts.of_route(None), message, suggestion)


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """Every utterance compared with all others. Arrays have one item a row of the index.

    near, elsewhere: cosine to the nearest other utterance of its own route, and of another route; -2 where
        there is none.
    elsewhere_row: the row of the latter.
    mean: mean cosine to the other utterances of its route; 1 where there is none.
    cut: cosine from which two texts count as saying the same.
    """

    index: RouteIndex
    near: NDArray[np.float64]
    elsewhere: NDArray[np.float64]
    elsewhere_row: NDArray[np.int64]
    mean: NDArray[np.float64]
    cut: float

    @classmethod
    def of(cls, index: RouteIndex) -> _Comparison:
        """Compare by matrix products of a few hundred rows at a time."""
        vectors, routes = index.reconstruct(), index.routes
        near, elsewhere, nearest_row = np.full(len(vectors), -2.0), np.full(len(vectors), -2.0), routes * 0
        for start in range(0, len(vectors), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(vectors)))
            cosines = vectors[rows] @ vectors.T
            cosines[rows - start, rows] = -2.0
            own = routes[rows][:, None] == routes[None, :]
            near[rows] = np.where(own, cosines, -2.0).max(axis=1)
            cosines[own] = -2.0
            nearest_row[rows] = cosines.argmax(axis=1)
            elsewhere[rows] = cosines[rows - start, nearest_row[rows]]
        mean = _own_mean(vectors, routes, len(index.config.routes))
        return cls(index, near.round(6), elsewhere.round(6), nearest_row, mean, same_cut(vectors, routes))


def same_cut(vectors: Vectors, routes: NDArray[np.int64]) -> float:
    """The cosine from which two texts count as saying the same.

    vectors: (n, dim) unit rows.
    routes: (n,) the route of each.

    Encoders differ in scale: for one, unrelated texts have cosine 0.1, for another 0.75. So two texts say the
    same where their distance is at most a tenth of the usual one (the median) between utterances of
    different routes. Between 0.9 and 0.99, so that a strange project does not move it out of all reason.
    """
    if len(vectors) < 2:
        return _FURTHEST_CUT
    sample = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), _SAMPLE)).round().astype(np.int64))
    cosines = vectors[sample] @ vectors[sample].T
    apart = routes[sample][:, None] != routes[sample][None, :]
    if not apart.any():
        apart = ~np.eye(len(sample), dtype=bool)
    usual = 1.0 - float(np.median(cosines[apart]))
    return float(np.clip(1.0 - usual / 10.0, _FURTHEST_CUT, _NEAREST_CUT))


def _own_mean(vectors: Vectors, routes: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, routes, vectors)
    sizes = np.bincount(routes, minlength=count)[routes]
    total = np.einsum("ij,ij->i", vectors.astype(np.float64), sums[routes]) - 1.0
    return np.where(sizes > 1, total / np.maximum(sizes - 1, 1), 1.0).round(6)


def _about_vectors(texts: _Texts, seen: _Comparison, known: set[tuple[int, int]]) -> list[Finding]:
    stolen = list(_steals(texts, seen.index))
    told = {row for _, rows in stolen for row in rows}
    return [
        *_near_duplicates(texts, seen, known),
        *(finding for finding, _ in stolen),
        *_within(texts, seen, told),
    ]


def _near_duplicates(texts: _Texts, seen: _Comparison, known: set[tuple[int, int]]) -> Iterator[Finding]:
    rows = np.flatnonzero(seen.elsewhere >= seen.cut).tolist()
    pairs = sorted(
        {(min(row, other), max(row, other)) for row in rows for other in [_other(seen, row)]} - known
    )
    for (one, other), found in _by_routes(pairs, seen.index.routes):
        examples = [_pair(texts, seen.index, *pair, _cosine(seen, *pair)) for pair in found]
        message = (
            f"{_number(len(found), 'utterance')} of {shorten(texts.names[one])} and "
            f"{shorten(texts.names[other])} nearly the same: {_shown(examples)}"
        )
        suggestion = "keep each in the one route that should serve it, or write what differs"
        yield _between("near-duplicate", texts, one, other, message, suggestion, examples)


def _other(seen: _Comparison, row: int) -> int:
    return int(seen.elsewhere_row[row])


def _cosine(seen: _Comparison, one: int, other: int) -> float:
    return float(seen.elsewhere[one if _other(seen, one) == other else other])


def _steals(texts: _Texts, index: RouteIndex) -> Iterator[tuple[Finding, list[int]]]:
    """Routes whose utterances go to another one when they are left out, with their rows.

    One finding for two routes, whichever way they go.
    """
    lost, sizes = _lost(index)
    pairs = {(min(pair), max(pair)) for pair, rows in lost.items() if _matters(len(rows), sizes[pair[0]])}
    for one, other in sorted(pairs):
        ways = [((one, other), lost.get((one, other), [])), ((other, one), lost.get((other, one), []))]
        ways.sort(key=lambda way: -len(way[1]) / sizes[way[0][0]])
        ((loser, winner), rows), (_, back) = ways
        yield _theft(texts, index, loser, winner, rows, back, sizes), [*rows, *back]


def _lost(index: RouteIndex) -> tuple[dict[tuple[int, int], list[int]], list[int]]:
    """Rows that another route serves when they are left out, by their route and that one, the surest first.

    Also how many of each route were left out. They are judged as the fit judged them (`vote.LeftOut`), and
    served where that reaches the limits of the router.
    """
    left_out, limits = index.fitted.left_out, limits_of(index)
    rows = index.in_order()[left_out.rows]
    owners = index.routes[rows]
    least = np.array([one.min_confidence for one in limits])[left_out.routes]
    furthest = np.array([one.max_distance for one in limits])[left_out.routes]
    near = (1.0 - left_out.similarity).round(6) <= furthest
    taken = np.flatnonzero((left_out.routes != owners) & (left_out.confidence >= least) & near)
    lost: dict[tuple[int, int], list[int]] = {}
    for place in taken[np.argsort(-left_out.confidence[taken], kind="stable")].tolist():
        lost.setdefault((int(owners[place]), int(left_out.routes[place])), []).append(int(rows[place]))
    return lost, np.bincount(owners, minlength=len(limits)).tolist()


def _matters(lost: int, size: int) -> bool:
    """At least two utterances, and a tenth of a route of which enough were looked at to say anything.

    One alone may be an odd one, and what a thin route lacks is utterances.
    """
    return lost >= 2 and 10 * lost >= size >= FEWEST_UTTERANCES


def _theft(
    texts: _Texts,
    index: RouteIndex,
    loser: int,
    winner: int,
    rows: list[int],
    back: list[int],
    sizes: Sequence[int],
) -> Finding:
    names = shorten(texts.names[loser]), shorten(texts.names[winner])
    examples = [_stolen(texts, index, row, winner) for row in rows[:_SHOWN]]
    examples += [_stolen(texts, index, row, loser) for row in back[: _SHOWN - len(examples)]]
    message = f"{len(rows)} of {sizes[loser]} utterances of {names[0]}, left out in turn, go to {names[1]}"
    if back:
        message += f", and {len(back)} of {sizes[winner]} the other way"
    shadowed = 3 * len(rows) >= sizes[loser]
    suggestion = (
        "merge the two routes, or write utterances that say what differs"
        if shadowed
        else f"move those that belong to {names[1]}, and write more like the others"
    )
    message = f"{message}: {_shown(examples)}"
    kind: FindingKind = "shadowed" if shadowed else "steals"
    return _between(kind, texts, loser, winner, message, suggestion, examples, len(rows) + len(back))


def _stolen(texts: _Texts, index: RouteIndex, row: int, winner: int) -> Example:
    """A stolen utterance with the nearest one of the route that took it."""
    rows = np.flatnonzero(index.routes == winner)
    vector = index.vectors.reconstruct(row)
    cosines = np.array([index.vectors.reconstruct(int(other)) for other in rows]) @ vector
    nearest = int(cosines.argmax())
    return _pair(texts, index, row, int(rows[nearest]), round(float(cosines[nearest]), 6))


def _within(texts: _Texts, seen: _Comparison, told: set[int]) -> Iterator[Finding]:
    """Routes that say one thing, and utterances far from the rest of their route but for those `told`."""
    order = np.argsort(seen.index.routes, kind="stable")
    sizes = np.bincount(seen.index.routes, minlength=len(texts.names))
    limits = limits_of(seen.index)
    for route, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        if len(rows) > 1 and seen.mean[rows].min() >= seen.cut:
            yield _one_note(texts, route, len(rows))
        elif len(rows) >= _FEWEST_TO_STAND_OUT:
            for row in _standing_out(seen, rows, limits[route].max_distance):
                if row not in told:
                    yield _outlier(texts, seen, row, float(np.median(seen.mean[rows])))


def _one_note(texts: _Texts, route: int, count: int) -> Finding:
    name = texts.names[route]
    message = f"all {count} utterances of {shorten(name)} say nearly the same"
    suggestion = "write some that ask for it in other words"
    return Finding("one-note", name, texts.of_route(name), message, suggestion, count=count)


def _standing_out(seen: _Comparison, rows: NDArray[np.int64], limit: float) -> list[int]:
    """The rows far less like their route than the others, and nearer to another one or near to nothing."""
    means = seen.mean[rows]
    middle = np.median(means)
    spread = max(1.4826 * float(np.median(np.abs(means - middle))), _SMALLEST_SPREAD)
    far = middle - means > _Z_SCORE * spread
    alone = (seen.elsewhere[rows] > seen.near[rows]) | (1.0 - seen.near[rows] > limit)
    found: list[int] = rows[far & alone].tolist()
    return found


def _outlier(texts: _Texts, seen: _Comparison, row: int, usual: float) -> Finding:
    entry = seen.index.entries[row]
    name = texts.names[entry.route]
    place = texts.of_utterance(name, entry.text)
    message = (
        f"{shorten(entry.text)} has mean similarity {seen.mean[row]:.2f} to the rest of {shorten(name)}, "
        f"where {usual:.2f} is usual"
    )
    suggestion = "move it to where it belongs, or write more like it"
    return Finding(
        "outlier", name, place, message, suggestion, count=1, examples=(Example(entry.text, place),)
    )


# What routing the heldout prompts says


def _about_heldout(texts: _Texts, index: RouteIndex, encoder: Encoder) -> Iterator[Finding]:
    """Heldout prompts that go astray, that are too easy, or that contradict an utterance."""
    heldout = list(texts.heldout())
    decisions = Router(index, encoder, log=False).route_many([text for _, text, _ in heldout])
    cut = same_cut(index.reconstruct(), index.routes)
    easy: dict[str, list[Example]] = {}
    contrary: dict[tuple[str | None, str], list[Example]] = {}
    taken: dict[tuple[str | None, str], list[Example]] = {}
    for (route, text, number), decision in zip(heldout, decisions, strict=True):
        if decision.reason == "error":
            raise EncodingFailed(f"{texts.of_heldout(route, number)}: {decision.detail}")
        if decision.rule is not None and decision.route != route and not decision.neighbors:
            yield _ruled(texts, route, text, number, decision)
        if not decision.neighbors:
            continue  # a rule decided, there is no text to compare, or nothing is indexed
        example = _met(texts, route, text, number, decision)
        nearest = decision.neighbors[0]
        if nearest.similarity >= cut and nearest.route == route:
            easy.setdefault(nearest.route, []).append(example)
        elif nearest.similarity >= cut:
            contrary.setdefault((route, nearest.route), []).append(example)
        elif decision.route is not None and decision.route != route:
            taken.setdefault((route, decision.route), []).append(example)
    for owner, examples in easy.items():
        yield _easy(owner, examples)
    for (route, other), examples in contrary.items():
        yield _contradiction(route, other, examples)
    for (route, other), examples in taken.items():
        yield _takes_heldout(route, other, examples)


def _ruled(texts: _Texts, route: str | None, text: str, number: int, decision: Decision) -> Finding:
    owner, other = shorten(route or "default"), shorten(decision.route or "the default")
    return Finding(
        kind="steals-heldout",
        route=route,
        other=decision.route,
        place=texts.of_heldout(route, number),
        message=f"the rule {decision.rule!r} sends a heldout prompt of {owner} to {other}: {shorten(text)}",
        suggestion="narrow the rule, or give the prompt to the route that the rule names",
        count=1,
    )


def _met(texts: _Texts, route: str | None, text: str, number: int, decision: Decision) -> Example:
    """A heldout prompt with the nearest utterance of the route that serves it, or else of any."""
    serving = [one for one in decision.neighbors if one.route == decision.route]
    nearest = (serving or list(decision.neighbors))[0]
    place = texts.of_utterance(nearest.route, nearest.utterance)
    return Example(text, texts.of_heldout(route, number), nearest.utterance, place, nearest.similarity)


def _easy(route: str, examples: list[Example]) -> Finding:
    message = (
        f"{_number(len(examples), 'heldout prompt')} of {shorten(route)} nearly the same as an utterance, "
        f"so that evaluation is too kind: {_shown(examples)}"
    )
    suggestion = "word them as a user would who has not read the utterances"
    return _heldout_finding("easy-heldout", route, None, message, suggestion, examples)


def _contradiction(route: str | None, other: str, examples: list[Example]) -> Finding:
    message = (
        f"{_number(len(examples), 'heldout prompt')} of {_owner(route)} nearly the same as an utterance "
        f"of {shorten(other)}: {_shown(examples)}"
    )
    suggestion = "decide which of the two is right and delete the other"
    return _heldout_finding("contradiction", route, other, message, suggestion, examples)


def _takes_heldout(route: str | None, other: str, examples: list[Example]) -> Finding:
    message = (
        f"{_number(len(examples), 'heldout prompt')} of {_owner(route)} routed to {shorten(other)}: "
        f"{_shown(examples)}"
    )
    suggestion = (
        f"see whether utterances of {shorten(other)} reach too far, or raise its min_confidence"
        if route is None
        else f"write utterances of {shorten(route)} that are worded differently but mean the same as these"
    )
    return _heldout_finding("steals-heldout", route, other, message, suggestion, examples)


def _heldout_finding(
    kind: FindingKind,
    route: str | None,
    other: str | None,
    message: str,
    suggestion: str,
    examples: list[Example],
) -> Finding:
    shown = tuple(examples[:_SHOWN])
    return Finding(kind, route, examples[0].place, message, suggestion, other, len(examples), shown)


# Words and groups


def _by_routes(
    pairs: Iterable[tuple[int, int]], routes: NDArray[np.int64]
) -> list[tuple[tuple[int, int], list[tuple[int, int]]]]:
    """Pairs of rows by the pair of their routes, the route that is declared first in front."""
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for one, other in pairs:
        first, second = (one, other) if routes[one] < routes[other] else (other, one)
        groups.setdefault((int(routes[first]), int(routes[second])), []).append((first, second))
    return sorted(groups.items())


def _pair(texts: _Texts, index: RouteIndex, one: int, other: int, similarity: float) -> Example:
    first, second = index.entries[one], index.entries[other]
    return Example(
        first.text,
        texts.of_utterance(texts.names[first.route], first.text),
        second.text,
        texts.of_utterance(texts.names[second.route], second.text),
        similarity,
    )


def _between(
    kind: FindingKind,
    texts: _Texts,
    one: int,
    other: int,
    message: str,
    suggestion: str,
    examples: Sequence[Example],
    count: int | None = None,
) -> Finding:
    """A finding about two routes, at the first of its examples."""
    return Finding(
        kind,
        texts.names[one],
        examples[0].place,
        message,
        suggestion,
        texts.names[other],
        len(examples) if count is None else count,
        tuple(examples[:_SHOWN]),
    )


def _shown(examples: Sequence[Example]) -> str:
    """Up to three examples, each with its line and with the text it meets."""
    said = [
        f"{shorten(one.text)} (line {one.place.line}) like "
        f"{shorten(one.other_text or '')} ({one.other_place})"
        for one in examples[:_SHOWN]
    ]
    return ", ".join(said)


def _owner(route: str | None) -> str:
    return "the default" if route is None else shorten(route)


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
