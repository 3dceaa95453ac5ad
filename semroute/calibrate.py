"""What is fitted at build, from the utterances alone: head, blend, confidence and thresholds.

    folds -> head, neighbours of what was left out -> blend -> evidence -> confidence -> thresholds

Everything is chosen by cross-validation: utterances that a fold leaves out stand for prompts in scope, and
whole routes that it leaves out for prompts that belong to none. Routes that are close leave together, so that
what is left out is as foreign to the rest as the prompts of another domain are. scikit-learn works here and
nowhere else; the result is plain numbers (`vote.Fitted`) which the router reads with numpy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from semroute.vote import NEAREST, SHARE_FLOOR, TEMPERATURE, Evidence, Fitted, Head, LeftOut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.encoders.base import Vectors

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

Progress = Callable[[int, int], None]
"""Called with (heads fitted so far, heads to fit)."""

SEED = 0

_GROUPS = 4
"""Folds, each of which leaves out a fourth of the utterances and a fourth of the routes."""

_FEW_ROUTES = 8
"""Below it routes leave one by one, apart from the utterances, and the head's logit is no evidence: how large
it gets depends on what other routes there are."""

_STRENGTHS = (5.0, 20.0, 80.0)
"""Of the logistic head, the inverse of the L2 penalty; the first fold chooses."""

_USUAL_STRENGTH = 20.0
_SEARCHED_UP_TO = 150_000_000
"""Utterances x routes x width of the head up to which the strength is searched for; it changes little."""

_LOGISTIC_UP_TO = 2_500_000_000
"""Utterances x routes x width of the head above which a logistic head takes minutes: linear
discriminants instead."""

_DISCRIMINANT_SHRINKAGE = 0.5
_OBSERVED = 3_000
"""At most so many prompts of each kind are observed over all folds; more no longer move the numbers."""

_FEWEST_OBSERVED = 8
"""Fewer prompts in scope decide nothing: what is usual is taken."""

NONE_SHARE = 0.2
"""The share of prompts that are assumed to belong to no route, of many routes; see `_none_share`."""

_ROUTES_FOR_HALF = 2
"""With so many routes, half of the prompts are assumed to belong to none."""

_REAL_NEGATIVES = 30
"""As many default heldout prompts weigh as much as all routes that were left out, or as many as there are
routes if these are more. The utterances of one route say one thing: together they are about one independent
witness of what belongs nowhere, as in a sample of clusters (Kish 1965), as is each given prompt. Where the
routes are few, they count as 30 all the same: a handful of given prompts must not decide alone."""

_FLAT = 1e-6  # a spread that says nothing
_IMPOSSIBLE = -1e4  # a logit that no scale brings back
_CHUNK_FLOATS = 1 << 23
_USUAL_EVIDENCE = (1.5, 1.5)  # intercept and slope of the standardised evidence: what most data sets give
_NEARNESS_ALONE = Evidence(-4.5, 10.0, 0.0, 0.0)
"""Where nothing was observed, as of a single utterance: even chances at a similarity of 0.45."""

_USUAL_CONFIDENCE = 0.4  # the threshold where nothing can be observed
_PRIOR_WEIGHT = 4.0  # of the usual evidence, in observed prompts

_KEPT_SHARE = 0.995
"""Share of the utterances in scope that must find a neighbour within the fitted distance when left out."""

_PRIOR_COUNT = 100
"""Few utterances say little about their own spread: the prior weighs as much as this many of them."""

_DISTANCE_WITHOUT_EVIDENCE = 0.5
"""For an index in which no utterance has another to be compared with."""

_LEAST_DISTANCE = 0.3
"""Where utterances are alike word for word, their distances say nothing of how else a wish may be put."""

_GRID = np.linspace(0.0, 1.0, 201)
_SMOOTHING = 10  # grid points on each side: thresholds that depend on one prompt are noise
_CALIBRATED_PROMPTS = 60
"""Beside the observed prompts so many are assumed whose confidences are spread evenly and true: for these the
best threshold is 0.5. With few utterances the observed curve has its highest point anywhere."""

_SHARED_PROMPTS = 100
"""A route's own threshold sees, beside its own prompts, those of all routes as if they were this many."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts whose route is known.

    vectors: (n, dim) float32 unit rows, as they are indexed.
    routes: (n,) int64; -1 where no route may win.
    views: (n, width) float32, what the head looks at, see `vote.head_view`; None means the vectors.
    """

    vectors: Vectors
    routes: Ints
    views: Vectors | None = None

    def __len__(self) -> int:
        return len(self.routes)

    def take(self, rows: Ints | NDArray[np.bool_]) -> Examples:
        """Those of `rows`."""
        return Examples(
            self.vectors[rows], self.routes[rows], None if self.views is None else self.views[rows]
        )

    def joined(self, other: Examples) -> Examples:
        """These and those of `other`."""
        return Examples(
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.routes, other.routes]),
            None if self.views is None else np.concatenate([self.views, other.seen]),
        )

    @property
    def seen(self) -> Vectors:
        """What the head looks at, shape (n, width)."""
        return self.vectors if self.views is None else self.views


class _Fold(NamedTuple):
    """What one fold leaves out.

    kept: (count,) bool, the routes that stay. inside, outside: rows of utterances, of routes that stay and
    of routes that do not.
    """

    kept: NDArray[np.bool_]
    inside: Ints
    outside: Ints


class _Observed(NamedTuple):
    """Prompts as a router without them would have met them: m of them, over `count` routes.

    logits: (m, count) of the head, 0 without one; very low for routes that were left out.
    shares: (m, count) of the vote.
    nearness: (m,) mean similarity of the nearest utterances. nearest: (m,) that of the nearest.
    elsewhere: (m,) similarity of the nearest utterance of a route other than the right one.
    centrality: (m,) similarity to the centroid of the likeliest route.
    routes: (m,) the right route, -1 for none.
    rows: (m,) which utterance it is, -1 for a negative.
    """

    logits: Floats
    shares: Floats
    nearness: Floats
    nearest: Floats
    elsewhere: Floats
    centrality: Floats
    routes: Ints
    rows: Ints


def fit(
    utterances: Examples,
    labels: Examples,
    negatives: Examples,
    count: int,
    neighbors: int,
    progress: Progress | None = None,
    *,
    blend: float | None = None,
) -> Fitted:
    """Fit everything that judges a prompt; see `fit_blends`."""
    return fit_blends(utterances, labels, negatives, count, neighbors, progress, blends=(blend,))[0]


def fit_blends(
    utterances: Examples,
    labels: Examples,
    negatives: Examples,
    count: int,
    neighbors: int,
    progress: Progress | None = None,
    *,
    blends: Sequence[float | None],
) -> list[Fitted]:
    """Fit everything that judges a prompt, once for each of `blends`.

    utterances: what is indexed.
    labels: names and descriptions of the routes: evidence for the head, never neighbours.
    negatives: prompts that must land on the default (`default.heldout`); may be empty.
    count: how many routes there are; neighbors: how many of the nearest utterances vote.
    blends: shares of the head in what ranks the routes, each in [0, 1]; None for the likeliest. What takes
        time, the heads of the folds, is the same for all of them.

    Deterministic: the same input gives the same numbers on the same machine.
    """
    if len(utterances) == 0:
        return [_unfitted(utterances.vectors.shape[1], count)] * len(blends)
    folds = _folds(utterances, count)
    kind, strengths = _head_kind(utterances, count)
    steps = _Steps(progress, len(folds) + len(strengths))
    left_out, real, strength = _observe_folds(
        folds, utterances, labels, negatives, count, neighbors, strengths, steps
    )
    known = utterances.joined(labels)
    head = _fit_head(known, count, strength)
    steps.done()
    inside = _taken(left_out, left_out.routes >= 0)
    observed = _concatenated([left_out, real])
    basis = _Basis(
        observed=observed,
        weights=_weights(observed.routes, len(real.routes), len(negatives), count),
        head=head,
        centroids=_centroids(known, count),
        max_distance=_max_distance(inside),
        kind=f"{kind} head of strength {strength:g}" if strength else f"{kind} head",
        on=_on(left_out, len(negatives)),
    )
    return [_fitted(basis, _blend(inside, share, has_head=head is not None)) for share in blends]


class _Basis(NamedTuple):
    """What every blend has in common. weights: (m,) of the `observed`. kind, on: for people."""

    observed: _Observed
    weights: Floats
    head: Head | None
    centroids: Vectors
    max_distance: float
    kind: str
    on: str


def _fitted(basis: _Basis, blend: _Blend) -> Fitted:
    """What follows from a blend: evidence, confidence and thresholds."""
    observed, count = basis.observed, len(basis.centroids)
    head = None if blend.head == 0.0 else basis.head
    uses_logit = head is not None and count >= _FEW_ROUTES
    evidence = _evidence(observed, basis.weights, blend.head, uses_logit=uses_logit)
    best, confidence = _judged(observed, evidence, blend)
    judged = np.flatnonzero(observed.routes >= 0)
    common, own = _thresholds(best, confidence, observed.routes, basis.weights, count)
    return Fitted(
        head=None if head is None else head.scaled(blend.head),
        vote_scale=blend.vote,
        centroids=basis.centroids,
        evidence=evidence,
        max_distance=basis.max_distance,
        min_confidence=common,
        route_min_confidence=own,
        left_out=LeftOut(
            observed.rows[judged], best[judged], confidence[judged], observed.nearest[judged].round(6)
        ),
        method=_method(basis.kind, blend, has_head=head is not None),
        on=basis.on,
    )


def _unfitted(dim: int, count: int) -> Fitted:
    """For an index without an utterance, which never votes."""
    return Fitted(
        head=None,
        vote_scale=1.0,
        centroids=np.zeros((count, dim), np.float32),
        evidence=Evidence(0.0, 0.0, 0.0, 0.0),
        max_distance=_DISTANCE_WITHOUT_EVIDENCE,
        min_confidence=_USUAL_CONFIDENCE,
        route_min_confidence=(_USUAL_CONFIDENCE,) * count,
        left_out=LeftOut.none(),
        method="nothing",
        on="no utterance",
    )


# Folds


def _folds(utterances: Examples, count: int) -> list[_Fold]:
    if len(utterances) == 0:
        return []
    rng = np.random.default_rng(SEED)
    every = np.ones(count, bool)
    nothing = np.empty(0, np.int64)
    if count < _FEW_ROUTES:
        parts = _utterance_parts(utterances.routes, count, rng)
        within = [_Fold(every, np.flatnonzero(parts == part), nothing) for part in range(_GROUPS)]
        without = [every & (np.arange(count) != route) for route in range(count)] if count > 1 else []
        outside = [_Fold(kept, nothing, np.flatnonzero(~kept[utterances.routes])) for kept in without]
        return [fold for fold in within + outside if len(fold.inside) or len(fold.outside)]
    groups = _route_groups(utterances, count)
    parts = _utterance_parts(utterances.routes, count, rng, groups)
    folds = []
    for group in range(_GROUPS):
        kept = groups != group
        stays = kept[utterances.routes]
        folds.append(_Fold(kept, np.flatnonzero((parts == group) & stays), np.flatnonzero(~stays)))
    return folds


def _utterance_parts(routes: Ints, count: int, rng: np.random.Generator, groups: Ints | None = None) -> Ints:
    """(n,) the fold that leaves each utterance out: those of a route are spread evenly over the folds.

    groups: (count,) the fold that leaves each route out, in which none of its utterances can be in scope.
    """
    parts = np.empty(len(routes), np.int64)
    begun = 0
    for route in range(count):
        rows = rng.permutation(np.flatnonzero(routes == route))
        turns = np.arange(len(rows)) + begun
        parts[rows] = (
            turns % _GROUPS if groups is None else (groups[route] + 1 + turns % (_GROUPS - 1)) % _GROUPS
        )
        begun += len(rows)
    return parts


def _route_groups(utterances: Examples, count: int) -> Ints:
    """(count,) four groups of routes of about equal size, each of routes that are close to one another.

    Routes are halved along the direction in which their centroids vary most, and each half once more.
    """
    centroids = _centroids(utterances, count).astype(np.float64)
    groups = [np.arange(count)]
    while len(groups) < _GROUPS:
        widest = groups.pop(0)
        centred = centroids[widest] - centroids[widest].mean(axis=0)
        direction = np.linalg.svd(centred, full_matrices=False)[2][0]
        order = widest[np.argsort(centred @ direction, kind="stable")]
        groups += [order[: len(order) // 2], order[len(order) // 2 :]]
    assigned = np.empty(count, np.int64)
    for place, group in enumerate(groups):
        assigned[group] = place
    return assigned


def _centroids(examples: Examples, count: int) -> Vectors:
    """(count, dim) float32: the mean direction of each route; zero where a route has no example."""
    sums = np.zeros((count, examples.vectors.shape[1]), np.float64)
    np.add.at(sums, examples.routes, examples.vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(lengths > 1e-9, sums / np.maximum(lengths, 1e-9), 0.0).astype(np.float32)


# The head


def _head_kind(utterances: Examples, count: int) -> tuple[str, tuple[float, ...]]:
    """Which head can be fitted in time, and the strengths to choose from."""
    work = len(utterances) * count * utterances.seen.shape[1]
    if work > _LOGISTIC_UP_TO:
        return "linear discriminants", (0.0,)
    return "logistic", _STRENGTHS if work <= _SEARCHED_UP_TO else (_USUAL_STRENGTH,)


def _fit_head(examples: Examples, count: int, strength: float) -> Head | None:
    """A log-linear head over the routes that have examples; None where fewer than two have.

    strength: of the logistic regression; 0 means linear discriminants. Rows of routes without an example are
    zero, with a bias of minus infinity.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present = np.unique(examples.routes)
    if len(present) < 2 or (strength == 0.0 and len(examples) <= len(present)):
        return None  # discriminants need to see how the examples of a route differ
    if strength > 0.0:
        model: Any = LogisticRegression(C=strength, tol=1e-4, max_iter=200)
        arguments = {"sample_weight": _balance(examples.routes, count)}
    else:
        priors = np.full(len(present), 1.0 / len(present))
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_DISCRIMINANT_SHRINKAGE, priors=priors)
        arguments = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a head not quite at its best is judged like any
        # In float32 the search for the optimum ends too early: its steps get lost in the rounding.
        model.fit(examples.seen.astype(np.float64), examples.routes, **arguments)
    weights, bias = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn gives the difference of the two
        weights, bias = np.concatenate([-weights, weights]) / 2.0, np.concatenate([-bias, bias]) / 2.0
    head = Head(np.zeros((count, examples.seen.shape[1]), np.float32), np.full(count, -np.inf, np.float32))
    head.weights[present], head.bias[present] = weights, bias
    return head


def _balance(routes: Ints, count: int) -> Floats:
    """(n,) weights that halve, on a log scale, the advantage of routes with many utterances.

    How many utterances a route has says how it was written, and little of how often it is asked for.
    """
    sizes = np.bincount(routes, minlength=count)
    return np.sqrt(len(routes) / np.count_nonzero(sizes) / sizes[routes])


# What the left-out would have met


def _observe_folds(
    folds: Sequence[_Fold],
    utterances: Examples,
    labels: Examples,
    negatives: Examples,
    count: int,
    neighbors: int,
    strengths: tuple[float, ...],
    steps: _Steps,
) -> tuple[_Observed, _Observed, float]:
    """What each fold left out; the negatives as each fold met them; the strength of the head.

    The first fold with prompts in scope chooses the strength. Negatives meet the folds and not the whole, so
    that they have as few utterances to be near to as the prompts in scope beside which they are put.
    """
    observed, real = [_nothing_observed(count)], [_nothing_observed(count)]
    inside_share = _OBSERVED / max(1, sum(len(fold.inside) for fold in folds))
    outside_share = _OBSERVED / max(1, sum(len(fold.outside) for fold in folds))
    for fold in folds:
        left = np.zeros(len(utterances), bool)
        left[fold.inside] = left[fold.outside] = True
        known = utterances.take(~left).joined(labels.take(fold.kept[labels.routes]))
        inside, outside = _thinned(fold.inside, inside_share), _thinned(fold.outside, outside_share)
        heads = [_fit_head(known, count, strength) for strength in strengths]
        steps.done(len(heads))
        if len(heads) > 1 and len(inside):
            chosen = int(np.argmin([_loss(head, utterances.take(inside)) for head in heads]))
            heads, strengths = heads[chosen : chosen + 1], strengths[chosen : chosen + 1]
        head, centroids = heads[len(heads) // 2], _centroids(known, count)
        foreign = ~fold.kept[utterances.routes]
        for rows in (inside, outside):
            prompts = utterances.take(rows)
            voters = _search(prompts, utterances, left, None, neighbors)
            # As dense as the index will be: only the prompt itself, and foreign routes, are missing.
            near = _search(prompts, utterances, foreign, rows, neighbors)
            seen = _observed(prompts, rows, voters, near, head, centroids, fold.kept)
            observed.append(seen._replace(routes=np.where(fold.kept[seen.routes], seen.routes, -1)))
        if len(inside):
            voters = _search(negatives, utterances, left, None, neighbors)
            near = _search(negatives, utterances, foreign, None, neighbors)
            none = np.full(len(negatives), -1)
            real.append(_observed(negatives, none, voters, near, head, centroids, fold.kept))
    return _concatenated(observed), _concatenated(real), strengths[len(strengths) // 2]


def _thinned(rows: Ints, share: float) -> Ints:
    """About `share` of `rows`, evenly spread."""
    if len(rows) == 0:
        return rows
    wanted = math.ceil(len(rows) * min(1.0, share))
    return rows[np.unique(np.linspace(0, len(rows) - 1, wanted).round().astype(np.int64))]


class _Found(NamedTuple):
    """similarities: (m, k), nearest first, -1 where there are fewer. routes: (m, k) of each."""

    similarities: Floats
    routes: Ints


def _search(
    prompts: Examples, utterances: Examples, hidden: NDArray[np.bool_], own: Ints | None, k: int
) -> _Found:
    """The `k` nearest utterances of each prompt: none that is `hidden`, and not its `own` row."""
    k = min(max(k, NEAREST), len(utterances))
    similarities = np.full((len(prompts), k), -1.0)
    rows = np.zeros((len(prompts), k), np.int64)
    chunk = max(1, _CHUNK_FLOATS // max(1, len(utterances)))
    for start in range(0, len(prompts) if k else 0, chunk):
        part = slice(start, start + chunk)
        found = prompts.vectors[part] @ utterances.vectors.T
        found[:, hidden] = -1.0
        if own is not None:
            found[np.arange(len(found)), own[part]] = -1.0
        nearest = np.argpartition(-found, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(found, nearest, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        similarities[part] = np.take_along_axis(values, order, axis=1)
        rows[part] = np.take_along_axis(nearest, order, axis=1)
    return _Found(similarities, utterances.routes[rows])


def _observed(
    prompts: Examples,
    rows: Ints,
    voters: _Found,
    near: _Found,
    head: Head | None,
    centroids: Vectors,
    kept: NDArray[np.bool_],
) -> _Observed:
    logits = _logits(head, prompts, len(kept))
    logits[:, ~kept] = _IMPOSSIBLE
    shares = _shares(voters, len(kept))
    likeliest = (shares if head is None else logits).argmax(axis=1)
    nearest = near.similarities[:, :NEAREST]
    there = nearest > -1.0
    nearness = np.where(there, nearest, 0.0).sum(axis=1) / np.maximum(1, there.sum(axis=1))
    other = np.where(near.routes != prompts.routes[:, None], near.similarities, -1.0)
    return _Observed(
        logits=logits,
        shares=shares,
        nearness=nearness,
        nearest=near.similarities.max(axis=1, initial=-1.0),
        elsewhere=other.max(axis=1, initial=-1.0),
        centrality=np.einsum("ij,ij->i", prompts.vectors, centroids[likeliest]).astype(np.float64),
        routes=prompts.routes,
        rows=rows,
    )


def _logits(head: Head | None, prompts: Examples, count: int) -> Floats:
    if head is None:
        return np.zeros((len(prompts), count))
    logits: Floats = (prompts.seen @ head.weights.T + head.bias).astype(np.float64)
    return np.maximum(logits, _IMPOSSIBLE)


def _shares(found: _Found, count: int) -> Floats:
    """(m, count) what share of the vote each route gets; see `vote.rank`."""
    nearest = found.similarities.max(axis=1, keepdims=True, initial=-1.0)
    weights = np.exp((found.similarities - nearest) / TEMPERATURE) * (found.similarities > -1.0)
    shares = np.zeros((len(weights), count))
    np.add.at(shares, (np.arange(len(weights))[:, None], found.routes), weights)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    return shares


def _loss(head: Head | None, prompts: Examples) -> float:
    """Mean log loss of the head alone, at the temperature that suits it best."""
    if head is None:
        return 0.0
    logits = _logits(head, prompts, len(head.bias))
    rows = np.arange(len(prompts))
    return min(
        -float(_log_softmax(scale * logits)[rows, prompts.routes].mean()) for scale in (0.5, 1.0, 2.0, 4.0)
    )


def _log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _nothing_observed(count: int) -> _Observed:
    many, one, numbers = np.empty((0, count)), np.empty(0), np.empty(0, np.int64)
    return _Observed(many, many, one, one, one, one, numbers, numbers)


def _concatenated(parts: Sequence[_Observed]) -> _Observed:
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _Observed(*columns)


def _taken(observed: _Observed, rows: NDArray[np.bool_]) -> _Observed:
    columns: list[Any] = [column[rows] for column in observed]
    return _Observed(*columns)


# What follows from it


class _Blend(NamedTuple):
    """Factors of the head's logits, 0 without a head, and of the logarithm of the shares of the vote."""

    head: float
    vote: float


_USUAL_BLEND = _Blend(1.5, 0.3)
"""Where nothing, or little, can be observed."""


def _blend(inside: _Observed, share: float | None, *, has_head: bool) -> _Blend:
    """The blend with the highest likelihood of the right routes, held near the usual where there are few.

    share: of the head, in [0, 1]; None to fit it too, and then the vote alone is used where it was right more
        often than both.

    A conditional logit (McFadden 1974) over two scores a route; as both factors are free, the temperature is
    among what is fitted.
    """
    few = len(inside.routes) < _FEWEST_OBSERVED
    alone = _Blend(0.0, _USUAL_BLEND.vote if few else _scales(inside)[1])
    if not has_head or share == 0.0:
        return alone
    if share is not None:
        scale = sum(_USUAL_BLEND) if few else _scale(inside, share)
        return _Blend(scale * share, scale * (1.0 - share))
    if few:
        return _USUAL_BLEND
    both = _Blend(*_scales(inside, with_head=True))
    blended = _blended(inside, both).argmax(axis=1) == inside.routes
    voted = inside.shares.argmax(axis=1) == inside.routes
    return alone if voted.sum() > blended.sum() else both


def _scales(inside: _Observed, *, with_head: bool = False) -> tuple[float, float]:
    """The likeliest factors of the head, if it counts, and of the vote."""
    logits = inside.logits if with_head else np.zeros_like(inside.logits)
    low = 1e-3 if with_head else 0.05
    bounds = [(low, 100.0), (0.0 if with_head else low, 100.0)]
    found = _likeliest_factors(inside, [logits, _log_shares(inside.shares)], _USUAL_BLEND, bounds)
    return float(found[0]), float(found[1])


def _scale(inside: _Observed, share: float) -> float:
    """The likeliest factor of head and vote together, the head having `share` of both."""
    mixed = share * inside.logits + (1.0 - share) * _log_shares(inside.shares)
    return float(_likeliest_factors(inside, [mixed], (sum(_USUAL_BLEND),), [(1e-3, 100.0)])[0])


def _likeliest_factors(
    inside: _Observed,
    columns: Sequence[Floats],
    usual: Sequence[float],
    bounds: Sequence[tuple[float, float]],
) -> Floats:
    """The factors of `columns`, each (m, count), that make the right routes likeliest, near the usual."""
    from scipy.optimize import minimize

    possible = inside.logits > _IMPOSSIBLE
    rows, near = np.arange(len(inside.routes)), np.array(usual)

    def loss(factors: Floats) -> tuple[float, Floats]:
        total = sum((f * column for f, column in zip(factors, columns, strict=True)), np.zeros(1))
        logs = _log_softmax(np.where(possible, total, _IMPOSSIBLE))
        chances = np.exp(logs)
        gains = [
            (column[rows, inside.routes] - np.where(possible, chances * column, 0.0).sum(axis=1)).mean()
            for column in columns
        ]
        pull = (factors - near) * _PRIOR_WEIGHT / len(rows)
        penalty = 0.5 * float(pull @ (factors - near))
        return penalty - float(logs[rows, inside.routes].mean()), pull - np.array(gains)

    found: Floats = minimize(loss, near, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found


def _log_shares(shares: Floats) -> Floats:
    """What the vote adds to a route's score: 0 without a vote."""
    return np.log(shares + SHARE_FLOOR) - math.log(SHARE_FLOOR)


def _blended(observed: _Observed, blend: _Blend) -> Floats:
    """(m, count) log probability of each route, given that one of them is right."""
    scores = blend.head * observed.logits + blend.vote * _log_shares(observed.shares)
    return _log_softmax(np.where(observed.logits > _IMPOSSIBLE, scores, _IMPOSSIBLE))


def _none_share(count: int) -> float:
    """The share of prompts that are assumed to belong to none of `count` routes: few routes cover little."""
    return max(NONE_SHARE, _ROUTES_FOR_HALF / (_ROUTES_FOR_HALF + count))


def _weights(routes: Ints, real: int, negatives: int, count: int) -> Floats:
    """(m,) how much each prompt counts, 1 on average: `_none_share` of all for those that belong to none.

    The last `real` are the user's own `negatives`, once for each fold; the more of these, the less the routes
    that were left out count. count: how many routes there are.
    """
    inside, none_share = routes >= 0, _none_share(count)
    weights = np.where(inside, _even(1.0 - none_share, inside.sum()), 0.0)
    own = np.arange(len(routes)) >= len(routes) - real
    left_out = ~inside & ~own
    share = negatives / (negatives + max(_REAL_NEGATIVES, count)) if left_out.any() else 1.0
    weights[left_out] = _even(none_share * (1.0 - share), left_out.sum())
    weights[own] = _even(none_share * share, real)
    return weights * (len(routes) / weights.sum()) if len(routes) else weights


def _even(share: float, count: int) -> float:
    return share / count if count else 0.0


def _evidence(observed: _Observed, weights: Floats, head_scale: float, *, uses_logit: bool) -> Evidence:
    """Whether a prompt belongs to any route: a logistic regression on one number (Platt 1999).

    The number is the mean of what is known, each standardised: how near the nearest utterances are, how high
    the head's highest logit is, how near the centroid of the likeliest route is. One slope for all of them,
    never negative, so that more of any of them never makes a prompt less likely to belong.
    """
    columns = [observed.nearness, observed.centrality]
    if uses_logit:
        columns.append(observed.logits.max(axis=1, initial=_IMPOSSIBLE) * head_scale)
    if len(weights) == 0:
        return _NEARNESS_ALONE
    means = np.array([np.average(column, weights=weights) for column in columns])
    spreads = np.sqrt(
        [np.average((c - m) ** 2, weights=weights) for c, m in zip(columns, means, strict=True)]
    )
    if (spreads <= _FLAT).all():
        return _NEARNESS_ALONE
    factors = np.where(spreads > _FLAT, 1.0 / np.maximum(spreads, _FLAT), 0.0) / len(columns)
    standardised = sum((f * (c - m) for f, c, m in zip(factors, columns, means, strict=True)), np.zeros(1))
    intercept, slope = _platt(standardised, observed.routes >= 0, weights)
    slopes = [*(slope * factors).tolist(), 0.0][:3]
    return Evidence(intercept - float(slope * (factors @ means)), slopes[0], slopes[1], slopes[2])


def _platt(values: Floats, inside: NDArray[np.bool_], weights: Floats) -> tuple[float, float]:
    from scipy.optimize import minimize

    signs = np.where(inside, 1.0, -1.0)
    usual = np.array(_USUAL_EVIDENCE)

    def loss(line: Floats) -> tuple[float, Floats]:
        margins = signs * (line[0] + line[1] * values)
        wrong = signs * weights / (1.0 + np.exp(np.clip(margins, -500.0, 500.0)))
        pull = (line - usual) * _PRIOR_WEIGHT
        value = float((weights * np.logaddexp(0.0, -margins)).sum()) + 0.5 * float(pull @ (line - usual))
        return value, pull - np.array([wrong.sum(), (wrong * values).sum()])

    found = minimize(loss, usual, jac=True, method="L-BFGS-B", bounds=[(-50.0, 50.0), (0.0, 50.0)])
    return float(found.x[0]), float(found.x[1])


def _judged(observed: _Observed, evidence: Evidence, blend: _Blend) -> tuple[Ints, Floats]:
    """(m,) the best route of each prompt, and (m,) the confidence in it."""
    logs = _blended(observed, blend)
    logit = observed.logits.max(axis=1, initial=_IMPOSSIBLE) * blend.head
    belongs = evidence.probability(observed.nearness, observed.centrality, logit)
    return logs.argmax(axis=1), belongs * np.exp(logs.max(axis=1, initial=_IMPOSSIBLE))


def _thresholds(
    best: Ints, confidence: Floats, routes: Ints, weights: Floats, count: int
) -> tuple[float, tuple[float, ...]]:
    """The confidence from which serving the best route is right more often than refusing; also by route.

    All cuts are swept. The curve is smoothed, as its highest point depends on single prompts, and that of
    prompts whose confidence is true is added: served above the cut t, of those are (1 - t^2) / 2 right, and
    t - t^2 / 2 of those below do not belong. A route's own
    curve is that of its own prompts plus that of all prompts at the weight of _SHARED_PROMPTS, so that a
    route with little data has nearly the common threshold.
    """
    if len(best) < _FEWEST_OBSERVED or (routes >= 0).all() or (routes < 0).all():
        return _USUAL_CONFIDENCE, (_USUAL_CONFIDENCE,) * count
    reached = np.searchsorted(_GRID, confidence, side="right")  # accepted at the cuts before it
    right, none = weights * (best == routes), weights * (routes < 0)
    size = len(_GRID) + 1
    places = best * size + reached
    accepted = np.bincount(places, right, count * size).reshape(count, size)
    refused = np.bincount(places, none, count * size).reshape(count, size)
    # At cut j a prompt that reaches fewer than j + 1 cuts is refused.
    gains = accepted[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:] + refused.cumsum(axis=1)[:, :-1]
    whole = gains.sum(axis=0) + _CALIBRATED_PROMPTS * (0.5 + _GRID - _GRID**2)
    own = gains + whole * (_SHARED_PROMPTS / len(best))
    return _cut(whole), tuple(_cut(curve) for curve in own)


def _cut(gains: Floats) -> float:
    """The middle of the highest part of the smoothed curve."""
    width = 2 * _SMOOTHING + 1
    padded = np.pad(gains, _SMOOTHING, mode="edge")
    smooth = np.convolve(padded, np.full(width, 1.0 / width), mode="valid")
    highest = np.flatnonzero(smooth >= smooth.max() - 1e-9)
    return round(float(_GRID[highest[len(highest) // 2]]), 4)


def _max_distance(inside: _Observed) -> float:
    """The distance within which nearly all utterances find another when left out; beyond it nothing is known.

    Where utterances are few it is drawn towards half way between the usual nearest one and the usual nearest
    one of another route.
    """
    nearest = inside.nearest[inside.nearest > -1.0]
    if len(nearest) == 0:
        return _DISTANCE_WITHOUT_EVIDENCE
    reached = float(np.quantile(nearest, 1.0 - _KEPT_SHARE))
    far = max(0.0, float(np.median(inside.elsewhere)))
    middle = min((float(np.median(nearest)) + far) / 2.0, reached)
    cut = (len(nearest) * reached + _PRIOR_COUNT * middle) / (len(nearest) + _PRIOR_COUNT)
    return float(np.clip(1.0 - cut, _LEAST_DISTANCE, 2.0))


# In words


class _Steps:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def done(self, steps: int = 1) -> None:
        self._done += steps
        if self._progress is not None:
            self._progress(self._done, self._total)


def _method(kind: str, blend: _Blend, *, has_head: bool) -> str:
    if not has_head:
        return f"vote alone, scaled by {blend.vote:.2f}"
    return f"{kind}, scaled by {blend.head:.2f}, and vote, by {blend.vote:.2f}"


def _on(left_out: _Observed, negatives: int) -> str:
    inside = int((left_out.routes >= 0).sum())
    outside = len(left_out.routes) - inside
    said = f"{inside} utterances left out, {outside} of routes left out"
    return f"{said}, {negatives} default heldout prompts" if negatives else said
