"""Everything that a report shows, gathered once: router, cases and log in, a `Report` out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from semroute.evaluate import Case, Evaluation, RouteResult, evaluate
from semroute.report import costs as cost_report
from semroute.report.costs import Costs, Moves, case_text
from semroute.report.coverage import Curve, curve
from semroute.report.layout import between, evenly, positions
from semroute.report.overlap import Overlap, Pair, in_order, overlap
from semroute.report.savings import SavedOverTime, saved_over_time

if TYPE_CHECKING:
    from semroute.decision import Decision
    from semroute.decisionlog import LoggedDecision
    from semroute.encoders.base import Vectors
    from semroute.report.layout import Points, Rows
    from semroute.router import Router

_PLACED = 20_000  # utterances that get a place on the map
_UTTERANCES_SHOWN, _PROMPTS_SHOWN = 6_000, 3_000  # more dots would cover each other, and fill the page
_PAIRS = 12
_COMPARED = 40  # routes in the square: the labels of more cannot be read
_NEAREST_ROUTES = 3
_NOTICED = 0.005  # share of the vote below which a route is not near

Progress = Callable[[int, int], None]


class Dot(NamedTuple):
    """An utterance on the map: its place, its route as an index, and its text."""

    x: float
    y: float
    route: int
    text: str


class Placed(NamedTuple):
    """A case on the map. `label` and `found` are routes as indices, -1 for the default."""

    x: float
    y: float
    label: int
    found: int
    confidence: float
    text: str


class Map(NamedTuple):
    """utterances and prompts: those that are shown, of `utterance_count` and `prompt_count`.

    unplaced: cases without a neighbour on the map, such as those that a rule decided.
    """

    utterances: tuple[Dot, ...]
    prompts: tuple[Placed, ...]
    utterance_count: int
    prompt_count: int
    unplaced: int


class Square(NamedTuple):
    """Routes held against each other, like ones beside each other.

    routes: which, as indices; -1, the default, is the last where there are cases.
    overlap: (n, n) shares of the vote. confusion: (n, n) cases with the label of the row that the route of
        the column served; None without cases.
    left_out: routes that are not shown, being confused least.
    """

    routes: tuple[int, ...]
    overlap: tuple[tuple[float, ...], ...]
    confusion: tuple[tuple[int, ...], ...] | None
    left_out: int


class PairShown(NamedTuple):
    """A `Pair` with its two utterances."""

    pair: Pair
    texts: tuple[str, str]


class RouteCard(NamedTuple):
    """One route: what it has, how it fares, and which routes its utterances lie among.

    place: its index. color: where it stands among the routes when like ones stand together.
    own: share of the vote that it keeps on its own utterances, left out in turn; None without neighbours.
    near: other routes that get most of the rest, with their share.
    """

    place: int
    color: int
    name: str
    description: str
    models: tuple[str, ...]
    utterances: int
    result: RouteResult | None
    own: float | None
    near: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What the page shows. `evaluation` and what follows from cases are None or empty without cases."""

    index: str
    encoder: str
    default_models: tuple[str, ...]
    routes: tuple[RouteCard, ...]
    map: Map
    square: Square
    pairs: tuple[PairShown, ...]
    evaluation: Evaluation | None
    curve: Curve | None
    costs: Costs | None
    moves: Moves
    savings: SavedOverTime | None


def gather(
    router: Router,
    cases: Sequence[Case],
    log: Iterable[LoggedDecision] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Route `cases`, and hold what comes of it beside the vectors of the index and the `log`.

    Raises ConfigError when a case has an unknown label; StoreError or EncoderError when the settings name a
    store of outcomes that cannot be read.
    """
    judged: list[tuple[Case, Decision]] = []
    index, settings = router.index, router.index.config.settings
    evaluation = None
    if cases:
        evaluation = evaluate(router, cases, progress, each=lambda case, found: judged.append((case, found)))
    vectors, names = index.reconstruct(), index.route_names
    lying = overlap(index, vectors, _PAIRS)
    order = in_order(vectors, index.routes, len(names))
    return Report(
        index=index.fingerprint,
        encoder=index.manifest.encoder.name,
        default_models=tuple(settings.default.model_names),
        routes=tuple(_cards(router, evaluation, lying, order)),
        map=_map(router, vectors, judged),
        square=_square(names, evaluation, lying, order),
        pairs=tuple(
            PairShown(pair, (index.entries[pair.rows[0]].text, index.entries[pair.rows[1]].text))
            for pair in lying.pairs
        ),
        evaluation=evaluation,
        curve=curve([(case, decision) for case, decision in judged if not case.any_route]),
        costs=cost_report.costs(router, judged),
        moves=cost_report.moves(router, judged),
        savings=None if log is None else saved_over_time(log, settings),
    )


def _map(router: Router, vectors: Vectors, judged: Sequence[tuple[Case, Decision]]) -> Map:
    index = router.index
    rows = evenly(len(vectors), _PLACED)
    places = positions(vectors[rows])
    shown = evenly(len(rows), _UTTERANCES_SHOWN)
    dots = [
        Dot(float(places[n, 0]), float(places[n, 1]), index.entries[row].route, index.entries[row].text)
        for n, row in zip(shown.tolist(), rows[shown].tolist(), strict=True)
    ]
    where = {(index.entries[row].route, index.entries[row].text): n for n, row in enumerate(rows.tolist())}
    codes = {name: place for place, name in enumerate(index.route_names)}
    asked = [judged[n] for n in evenly(len(judged), _PROMPTS_SHOWN)]
    found = (_placed(case, decision, places, where, codes) for case, decision in asked)
    prompts = [one for one in found if one is not None]
    return Map(tuple(dots), tuple(prompts), len(vectors), len(judged), len(asked) - len(prompts))


def _placed(
    case: Case,
    decision: Decision,
    places: Points,
    where: dict[tuple[int, str], int],
    codes: dict[str, int],
) -> Placed | None:
    known = [
        (where[key], one.similarity)
        for one in decision.neighbors
        if (key := (codes.get(one.route, -1), one.utterance)) in where
    ]
    if not known:
        return None
    x, y = between(places[[n for n, _ in known]], [similarity for _, similarity in known])
    found = codes.get(decision.route or "", -1)
    # Of a case about its model alone no route is wrong.
    label = found if case.any_route else codes.get(case.route or "", -1)
    return Placed(x, y, label, found, decision.confidence, case_text(case))


def _square(
    names: Sequence[str], evaluation: Evaluation | None, lying: Overlap, order: Sequence[int]
) -> Square:
    counts = None if evaluation is None else _confusion(names, evaluation)
    chosen = _most_involved(counts, lying, order)
    shares = lying.shares[np.ix_(chosen, chosen)]
    left_out = len(names) - len(chosen)
    told = tuple(tuple(row) for row in shares.tolist())
    if counts is None:
        return Square(tuple(chosen), told, None, left_out)
    with_default = [*chosen, len(names)]
    table = counts[np.ix_(with_default, with_default)]
    return Square((*chosen, -1), told, tuple(tuple(row) for row in table.tolist()), left_out)


def _confusion(names: Sequence[str], evaluation: Evaluation) -> Rows:
    """Cases by label (row) and by what served (column); beside `names`, the last of both is the default."""
    codes = {name: place for place, name in enumerate(names)}
    counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    results = {one.route: one for one in evaluation.routes}
    for row, one in enumerate([*(results[name] for name in names), evaluation.default]):
        counts[row, row] = one.right
        counts[row, len(names)] += one.refused
        for other, count in one.lost.items():
            # A router that was reloaded meanwhile may have answered with a route that is not in `names`.
            if other in codes:
                counts[row, codes[other]] = count
    return counts


def _most_involved(counts: Rows | None, lying: Overlap, order: Sequence[int]) -> list[int]:
    """The routes that are confused most, or all where they fit, in `order`."""
    if len(order) <= _COMPARED:
        return list(order)
    foreign = lying.shares * (1.0 - np.eye(len(order)))
    involved = foreign.sum(axis=0) + foreign.sum(axis=1)
    if counts is not None:
        cases = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        wrong = counts / cases * (1.0 - np.eye(len(counts)))
        involved = involved + (wrong.sum(axis=0) + wrong.sum(axis=1))[:-1]
    kept = set(np.argsort(-involved, kind="stable")[:_COMPARED].tolist())
    return [place for place in order if place in kept]


def _cards(
    router: Router, evaluation: Evaluation | None, lying: Overlap, order: Sequence[int]
) -> Iterable[RouteCard]:
    index = router.index
    counts = np.bincount(index.routes, minlength=len(index.config.routes))
    results = {} if evaluation is None else {one.route: one for one in evaluation.routes}
    colors = {place: n for n, place in enumerate(order)}
    for place, route in enumerate(index.config.routes):
        shares = lying.shares[place].copy()
        own = float(shares[place]) if shares.sum() > 0.0 else None
        shares[place] = 0.0
        nearest = np.argsort(-shares, kind="stable")[:_NEAREST_ROUTES]
        near = [(index.route_names[n], float(shares[n])) for n in nearest if shares[n] >= _NOTICED]
        yield RouteCard(
            place=place,
            color=colors[place],
            name=route.name,
            description=route.description,
            models=tuple(route.model_names),
            utterances=int(counts[place]),
            result=results.get(route.name),
            own=own,
            near=tuple(near),
        )
