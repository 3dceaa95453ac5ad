"""How good the routing is on labelled prompts: cases in, an `Evaluation` out.

Every measure is defined where it is kept: in the docstrings of `Evaluation`, `RouteResult` and `Calibration`.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from semroute import bootstrap
from semroute.catalog import blended_usd
from semroute.decision import Candidate, Neighbor
from semroute.errors import Problem
from semroute.jsonl import Row, parse_rows, raise_any, read_lines
from semroute.sources import did_you_mean
from semroute.text import Prompt, PromptError, counted, routed_text, visible
from semroute.yaml import shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.config import Config, Place
    from semroute.decision import Decision
    from semroute.router import Router

BINS = 15
"""Of the reliability table; the number that Guo et al. (2017) use."""

_BATCH = 512  # prompts encoded together
_TURN_S = 0.0005
_KEPT_NEIGHBORS = 3
_SHAPE = '{"prompt": text or messages, "route": name or null}'
_LONGEST_TAG = 100
_TAG = f"a name has 1 to {_LONGEST_TAG} characters, no white space around it and no control characters"
_MISSING_ROUTE = (
    "`route` is missing; name the route, or write null where the default must serve. "
    "Or expect `model`: name, or `must_default`: true."
)


class Case(NamedTuple):
    """A labelled prompt. `route` is None when the default must serve.

    `file` and `line` (from 1) say where it stands. Of a heldout list whose YAML is not known, `file` is
    "ROUTE.heldout" or "default.heldout" and `line` the place in the list.
    model: the model that must serve; None where any may.
    tags: what the case is counted under.
    any_route: nothing is said of the route (`route` is then None): the case is about its model alone, and
        counts in no measure of routes.
    """

    prompt: Prompt
    route: str | None
    file: str = ""
    line: int = 0
    model: str | None = None
    tags: tuple[str, ...] = ()
    any_route: bool = False

    @property
    def is_in_file(self) -> bool:
        """Whether `file` is one: not stdin, and not a heldout list whose YAML is not known."""
        return bool(self.line) and self.file not in ("", "-") and not self.file.endswith(".heldout")

    @property
    def where(self) -> str:
        """Where it stands, for people: `file:line`, `ROUTE.heldout[place]`, or nothing if made in Python."""
        if not self.line:
            return self.file
        return f"{self.file}[{self.line}]" if self.file.endswith(".heldout") else f"{self.file}:{self.line}"


class CaseResult(NamedTuple):
    """What became of a case: route (None: the default) and model that served, and why.

    shadow: the model that outcomes would have chosen, in shadow mode. passed: route and model are those that
    the case expects.
    """

    case: Case
    route: str | None
    model: str
    reason: str
    confidence: float
    shadow: str | None
    passed: bool


class Wrong(NamedTuple):
    """A case that was routed elsewhere than its label says, and why; with at most three neighbours.

    model: the one that served.
    """

    case: Case
    found: str | None
    reason: str
    detail: str
    confidence: float
    neighbors: tuple[Neighbor, ...]
    model: str = ""


class RouteResult(NamedTuple):
    """The cases of one route, or of the default where `route` is None.

    cases: those labelled with it; right + refused + the sum of `lost`.
    right: those that it served.
    refused: those that the default served instead; 0 for the default itself.
    lost: how many went to each other route, most first.
    served: cases of any label that it served.
    recall: right / cases; None without cases.
    precision: right / served; None when it served nothing.
    f1: 2 right / (cases + served), the harmonic mean of both; None when cases and served are 0.
    """

    route: str | None
    cases: int
    right: int
    refused: int
    lost: dict[str, int]
    served: int
    recall: float | None
    precision: float | None
    f1: float | None


class Bin(NamedTuple):
    """The decisions with low < confidence <= high (0 is in the first bin), and what became of them.

    confidence: their mean confidence; right: the share whose best route is right. None without decisions.
    """

    low: float
    high: float
    decisions: int
    confidence: float | None
    right: float | None


class Calibration(NamedTuple):
    """How far the confidence is a probability: that the best route is right.

    The best route of a prompt that is out of scope is never right. Decisions without scores (by a rule, of an
    empty prompt, on an error) carry no calibrated confidence and are left out.

    decisions: how many are left.
    error: expected calibration error: |right - confidence| of each bin, weighted by its share of the
        decisions and summed over 15 bins of equal width (Guo et al. 2017, "On Calibration of Modern
        Neural Networks").
    brier: mean of (confidence - right)^2, where right is 0 or 1 (Brier 1950).
    auroc: probability that a prompt in scope has a higher confidence than one out of scope, equal ones
        counted half (the statistic of Mann and Whitney 1947, exact); None where either kind is missing.
    """

    decisions: int
    error: float | None
    brier: float | None
    auroc: float | None
    bins: tuple[Bin, ...]


class TagResult(NamedTuple):
    """The cases with one tag: how many there are, how many passed, and the 95 % interval of that share."""

    tag: str
    cases: int
    passed: int
    share: float
    interval: tuple[float, float]


class Estimate(NamedTuple):
    """What some models are estimated to cost, and how good they are expected to be.

    usd_per_1m: mean price of a million tokens, three quarters of them prompt, over the `priced` decisions
        whose model has a price; None without one.
    quality: mean expected quality in [0, 1], over the `known` decisions about whose model outcomes are
        known; None without one.
    """

    usd_per_1m: float | None
    priced: int
    quality: float | None
    known: int


class Shadow(NamedTuple):
    """What outcomes would change, were they not in shadow mode.

    moved: decisions whose model would be another. now, then: of these alone, the models that served and those
        that would have.
    """

    moved: int
    now: Estimate
    then: Estimate


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found. Shares are in [0, 1], and None where there is nothing to take a share of.

    index: fingerprint of the index that answered.
    cases = in_scope + out_of_scope; the label of a case in scope is a route, of one out of scope the default.
    accuracy: share of all cases whose decision has the route of the label, none being that of the default.
    top1: share of the cases in scope whose best-scoring route is that of the label, whether or not it was
        accepted; of a decision without scores, such as one by a rule, the served route counts.
    right_of_served: share of the cases in scope that a route served for which it was the right one.
    refused_in_scope: share of the cases in scope that the default served; coverage is 1 minus that.
    refused_out_of_scope: share of the cases out of scope that the default served, which is right.
    macro_f1: mean f1 of the routes that have a case or served one; the default is not among them.
    reasons: how many decisions had each reason, most first.
    routes: every route, in the order of the config.
    default: the cases out of scope.
    wrong: every case that was routed elsewhere than its label says, in the order of the cases.
    intervals: of accuracy, macro_f1, top1, right_of_served, coverage, refused_in_scope, refused_out_of_scope
        and calibration_error, those that are not None: 95 % by bootstrap, see `semroute.bootstrap`.
    confusion: (label, route that served, cases) of each pair that occurs, None being the default; most first.
    model_cases, model_right: cases that expect a model, and how many of these it served.
    wrong_models: cases that another model served than they expect, though their route is no error.
    tags: the cases of each tag, in the order of the alphabet.
    models: how many decisions each model served, most first; of all cases.
    estimate: of the models that served all cases. shadow: what outcomes would change about them.
    results: what became of every case, in their order.

    Where nothing is said of anything else, only cases with a label count (`Case.any_route` is false).
    """

    index: str
    cases: int
    in_scope: int
    out_of_scope: int
    accuracy: float | None
    top1: float | None
    right_of_served: float | None
    refused_in_scope: float | None
    refused_out_of_scope: float | None
    macro_f1: float | None
    reasons: dict[str, int]
    calibration: Calibration
    routes: tuple[RouteResult, ...]
    default: RouteResult
    wrong: tuple[Wrong, ...]
    intervals: dict[str, tuple[float, float]]
    confusion: tuple[tuple[str | None, str | None, int], ...]
    model_cases: int
    model_right: int
    wrong_models: tuple[Wrong, ...]
    tags: tuple[TagResult, ...]
    models: dict[str, int]
    estimate: Estimate
    shadow: Shadow
    results: tuple[CaseResult, ...]

    @property
    def coverage(self) -> float | None:
        """Share of the cases in scope that a route served."""
        return None if self.refused_in_scope is None else 1.0 - self.refused_in_scope

    @property
    def passed(self) -> int:
        """How many of all cases passed, those about a model alone among them."""
        return sum(one.passed for one in self.results)

    @property
    def failed(self) -> int:
        """How many of all cases did not pass."""
        return len(self.results) - self.passed

    @property
    def outcome(self) -> str:
        """For people: "7 cases: 6 passed, 1 failed"."""
        return f"{counted(len(self.results), 'case')}: {self.passed:,} passed, {self.failed:,} failed"

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as plain JSON types, numbers rounded to six digits."""
        return {
            "index": self.index,
            "cases": self.cases,
            "passed": self.passed,
            "failed": self.failed,
            "accuracy": _rounded(self.accuracy),
            "macro_f1": _rounded(self.macro_f1),
            "in_scope": {
                "cases": self.in_scope,
                "top1": _rounded(self.top1),
                "right_of_served": _rounded(self.right_of_served),
                "refused": _rounded(self.refused_in_scope),
                "coverage": _rounded(self.coverage),
            },
            "out_of_scope": {"cases": self.out_of_scope, "refused": _rounded(self.refused_out_of_scope)},
            "reasons": self.reasons,
            "calibration": {
                **{
                    key: _rounded(value) for key, value in self.calibration._asdict().items() if key != "bins"
                },
                "bins": [_rounded_values(one) for one in self.calibration.bins],
            },
            "routes": [_rounded_values(one) for one in (*self.routes, self.default)],
            "wrong": [_wrong_dict(one) for one in self.wrong],
            "intervals": {name: _rounded_pair(pair) for name, pair in self.intervals.items()},
            "confusion": [
                {"expected": label, "found": found, "cases": count} for label, found, count in self.confusion
            ],
            "tags": [{**_rounded_values(one), "interval": _rounded_pair(one.interval)} for one in self.tags],
            "models": {
                "served": self.models,
                "expected": self.model_cases,
                "right": self.model_right,
                "wrong": [_wrong_model_dict(one) for one in self.wrong_models],
                **_rounded_values(self.estimate),
            },
            "shadow": {
                "moved": self.shadow.moved,
                "now": _rounded_values(self.shadow.now),
                "then": _rounded_values(self.shadow.then),
            },
        }


def evaluate(
    router: Router,
    cases: Sequence[Case],
    progress: Callable[[int, int], None] | None = None,
    *,
    each: Callable[[Case, Decision], None] | None = None,
    also: Sequence[str] = (),
    also_models: Sequence[str] = (),
) -> Evaluation:
    """Route `cases` in batches and hold every decision against what its case expects.

    progress: called after each batch with (cases done, cases). each: called with every case and its decision.
    also, also_models: routes and models that the index lacks and cases may expect all the same, such as those
        of another index that is compared; such a case is never right.

    Raises ConfigError, naming each such case, when labels are no routes, or expected models no models, of the
    router's index.
    """
    names = tuple(dict.fromkeys((*router.index.route_names, *also)))
    raise_any([*_unknown_routes(cases, names), *_unknown_models(router, cases, also_models)])
    fingerprint = router.index.fingerprint
    tally = _Tally(names)
    done = 0
    with _undisturbed():
        for batch, decisions in _answers(router, cases) if cases else ():
            for case, decision in zip(batch, decisions, strict=True):
                tally.add(case, decision)
                if each is not None:
                    each(case, decision)
            done += len(batch)
            if progress is not None:
                progress(done, len(cases))
    return tally.evaluation(fingerprint)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """For a while give many short-lived objects and several busy threads what suits them.

    A text is encoded in about a millisecond. By default a thread that comes back from it waits 5 ms for one
    that is busy in Python, and its core stands idle. And what a decision is made of counts as garbage of a
    kind that could be cyclic: the search for cycles, which there are none of, takes a quarter of all judging.
    """
    turn, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(min(turn, _TURN_S))
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(turn)
        if collects:
            gc.enable()


def _answers(router: Router, cases: Sequence[Case]) -> Iterator[tuple[Sequence[Case], list[Decision]]]:
    """The cases in batches, in their order, with their decisions.

    Two batches are under way at once, so that one is encoded, on every core, while the other is judged, on
    one. The first is half as long as the others: two that begin together would be judged together, too.
    """
    starts = [0, *range(_BATCH // 2, len(cases), _BATCH)] if len(cases) > _BATCH else [0]
    under_way: deque[tuple[Sequence[Case], Future[list[Decision]]]] = deque()
    with ThreadPoolExecutor(max_workers=2) as pool:
        for start, end in pairwise([*starts, len(cases)]):
            batch = cases[start:end]
            under_way.append((batch, pool.submit(router.route_many, [case.prompt for case in batch])))
            if len(under_way) > 2:  # no more, so that the decisions of a large file are not all held at once
                batch, answer = under_way.popleft()
                yield batch, answer.result()
        for batch, answer in under_way:
            yield batch, answer.result()


def _unknown_routes(cases: Sequence[Case], names: Sequence[str]) -> Iterator[Problem]:
    known = {None, *names}
    for case in cases:
        if case.route not in known:
            yield Problem(case.file, case.line, 1, _no_route(str(case.route), names))


def _unknown_models(router: Router, cases: Sequence[Case], also: Sequence[str]) -> Iterator[Problem]:
    expected = [case for case in cases if case.model is not None]
    if not expected:
        return
    names = tuple(dict.fromkeys((*router.index.config.settings.models, *also)))
    for case in expected:
        if case.model not in names:
            yield Problem(case.file, case.line, 1, _no_model(str(case.model), names))


@dataclass(slots=True)
class _Sums:
    """What is known of the models that served, added up."""

    usd: float = 0.0
    priced: int = 0
    quality: float = 0.0
    known: int = 0

    def add(self, model: Candidate | None) -> None:
        usd = None if model is None else blended_usd(model)
        if usd is not None:
            self.usd, self.priced = self.usd + usd, self.priced + 1
        if model is not None and model.quality is not None:
            self.quality, self.known = self.quality + model.quality, self.known + 1

    def estimate(self) -> Estimate:
        return Estimate(
            _share(self.usd, self.priced), self.priced, _share(self.quality, self.known), self.known
        )


@dataclass(slots=True)
class _Tally:
    """What is kept of each decision: a few numbers, and more only where it is wrong.

    Labels are numbers: 0 for the default, then the routes in the order of the config.
    """

    names: Sequence[str]
    expected: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)
    best: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    scored: list[bool] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[Wrong] = field(default_factory=list)
    wrong_models: list[Wrong] = field(default_factory=list)
    results: list[CaseResult] = field(default_factory=list)
    served: _Sums = field(default_factory=_Sums)
    moved_from: _Sums = field(default_factory=_Sums)
    moved_to: _Sums = field(default_factory=_Sums)
    codes: dict[str | None, int] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = {None: 0} | {name: code for code, name in enumerate(self.names, start=1)}

    def add(self, case: Case, decision: Decision) -> None:
        wrong_route = not case.any_route and decision.route != case.route
        wrong_model = case.model is not None and decision.model != case.model
        if not case.any_route:
            self._label(case, decision)
        if wrong_route:
            self.wrong.append(_wrong(case, decision))
        elif wrong_model:
            self.wrong_models.append(_wrong(case, decision))
        passed = not (wrong_route or wrong_model)
        why = decision.reason, decision.confidence, decision.shadow
        self.results.append(CaseResult(case, decision.route, decision.model, *why, passed))
        self._estimate(decision)

    def _label(self, case: Case, decision: Decision) -> None:
        self.expected.append(self.codes[case.route])
        self.found.append(self._code(decision.route))
        self.best.append(self._code(next(iter(decision.scores), decision.route)))
        self.confidence.append(decision.confidence)
        self.scored.append(bool(decision.scores))
        self.reasons[decision.reason] += 1

    def _estimate(self, decision: Decision) -> None:
        known = {one.model: one for one in decision.candidates}
        self.served.add(known.get(decision.model))
        if decision.shadow is not None:
            self.moved_from.add(known.get(decision.model))
            self.moved_to.add(known.get(decision.shadow))

    def _code(self, route: str | None) -> int:
        # A router that is reloaded meanwhile may answer with a route that no label can name.
        return self.codes.setdefault(route, len(self.codes))

    def evaluation(self, index: str) -> Evaluation:
        expected, found, best = (
            np.array(codes, np.int64) for codes in (self.expected, self.found, self.best)
        )
        scope, served = expected > 0, found > 0
        names = list(self.codes)
        default, *routes = _route_results(names, expected, found)
        scores = [one.f1 for one in routes if one.f1 is not None]
        scored = np.array(self.scored, bool)
        confidence = np.array(self.confidence, np.float64)[scored]
        right = (scope & (best == expected))[scored]
        models_expected = [one for one in self.results if one.case.model is not None]
        return Evaluation(
            index=index,
            cases=len(expected),
            in_scope=int(scope.sum()),
            out_of_scope=int((~scope).sum()),
            accuracy=_mean(found == expected),
            top1=_mean((best == expected)[scope]),
            right_of_served=_mean((found == expected)[scope & served]),
            refused_in_scope=_mean(~served[scope]),
            refused_out_of_scope=_mean(~served[~scope]),
            macro_f1=_mean(np.array(scores)),
            reasons=_most_first(self.reasons),
            calibration=_calibration(confidence, right, scope[scored]),
            routes=tuple(routes),
            default=default,
            wrong=tuple(self.wrong),
            intervals={
                **bootstrap.of_labels(expected, found, best),
                **bootstrap.of_calibration(_places(confidence), confidence, right),
            },
            confusion=tuple(_confusion(names, expected, found)),
            model_cases=len(models_expected),
            model_right=sum(one.model == one.case.model for one in models_expected),
            wrong_models=tuple(self.wrong_models),
            tags=tuple(_tag_results(self.results)),
            models=_most_first(Counter(one.model for one in self.results)),
            estimate=self.served.estimate(),
            shadow=Shadow(
                sum(one.shadow is not None for one in self.results),
                self.moved_from.estimate(),
                self.moved_to.estimate(),
            ),
            results=tuple(self.results),
        )


def _wrong(case: Case, decision: Decision) -> Wrong:
    nearest = decision.neighbors[:_KEPT_NEIGHBORS]
    why = decision.reason, decision.detail, decision.confidence
    return Wrong(case, decision.route, *why, nearest, decision.model)


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _tag_results(results: Sequence[CaseResult]) -> Iterator[TagResult]:
    passed: dict[str, list[bool]] = {}
    for one in results:
        for tag in one.case.tags:
            passed.setdefault(tag, []).append(one.passed)
    for tag in sorted(passed):
        count, cases = sum(passed[tag]), len(passed[tag])
        yield TagResult(tag, cases, count, count / cases, bootstrap.of_share(count, cases))


def _confusion(
    names: Sequence[str | None], expected: NDArray[np.int64], found: NDArray[np.int64]
) -> Iterator[tuple[str | None, str | None, int]]:
    pairs, counts = np.unique(expected * len(names) + found, return_counts=True)
    for place in np.argsort(-counts, kind="stable"):
        label, winner = divmod(int(pairs[place]), len(names))
        yield names[label], names[winner], int(counts[place])


def _route_results(
    names: Sequence[str | None], expected: NDArray[np.int64], found: NDArray[np.int64]
) -> Iterator[RouteResult]:
    """The result of each of `names`, of which the first is the default; labels are indices into `names`."""
    size = len(names)
    cases, served = np.bincount(expected, minlength=size), np.bincount(found, minlength=size)
    right = np.bincount(expected[expected == found], minlength=size)
    # Of the confusions only those that occur: a square of all routes would not fit where routes are many.
    pairs, counts = np.unique(expected * size + found, return_counts=True)
    lost: list[dict[str, int]] = [{} for _ in names]
    refused = [0] * size
    for place in np.argsort(-counts, kind="stable"):
        label, winner = divmod(int(pairs[place]), size)
        if label != winner and winner == 0:
            refused[label] = int(counts[place])
        elif label != winner:
            lost[label][str(names[winner])] = int(counts[place])
    for code, name in enumerate(names):
        had, gave, hit = int(cases[code]), int(served[code]), int(right[code])
        shares = _share(hit, had), _share(hit, gave), _share(2 * hit, had + gave)
        yield RouteResult(name, had, hit, refused[code], lost[code], gave, *shares)


def _calibration(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], scope: NDArray[np.bool_]
) -> Calibration:
    """The measures of `Calibration`; the three arrays have shape (decisions,)."""
    bins = tuple(_bins(confidence, right))
    gaps = [
        one.decisions * abs(one.right - one.confidence)
        for one in bins
        if one.right is not None and one.confidence is not None
    ]
    return Calibration(
        decisions=len(confidence),
        error=_share(sum(gaps), len(confidence)),
        brier=_mean((confidence - right) ** 2),
        auroc=_auroc(confidence[scope], confidence[~scope]),
        bins=bins,
    )


def _bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Iterator[Bin]:
    edges, places = np.arange(BINS + 1) / BINS, _places(confidence)
    counts = np.bincount(places, minlength=BINS)
    said, held = (np.bincount(places, values, BINS) for values in (confidence, right))
    for place, count in enumerate(counts.tolist()):
        means = _share(float(said[place]), count), _share(float(held[place]), count)
        yield Bin(float(edges[place]), float(edges[place + 1]), count, *means)


def _places(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each confidence; a bin holds its upper edge."""
    inner = np.arange(1, BINS) / BINS
    return np.searchsorted(inner, confidence, side="left").astype(np.int64)


def _auroc(high: NDArray[np.float64], low: NDArray[np.float64]) -> float | None:
    """Share of the pairs in which the value of `high` is the larger, equal ones counted half."""
    ranked = np.sort(low)
    below = np.searchsorted(ranked, high, side="left").sum()
    up_to = np.searchsorted(ranked, high, side="right").sum()
    return _share(int(below) + int(up_to), 2 * len(high) * len(low))


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


# Where cases come from


def heldout_cases(config: Config, written: Config | None = None) -> list[Case]:
    """The heldout prompts of every route, then those of the default, as cases.

    written: the config as its YAML has it now, which knows where each prompt stands.
    """
    places = (
        {} if written is None else {(route, text): place for route, text, place in _written_places(written)}
    )
    cases = []
    for route, texts in _heldout_lists(config):
        for number, text in enumerate(texts, start=1):
            place = places.get((route, text))
            file, line = (f"{route or 'default'}.heldout", number) if place is None else place[:2]
            cases.append(Case(text, route, file, line))
    return cases


def _heldout_lists(config: Config) -> list[tuple[str | None, tuple[str, ...]]]:
    lists = [(route.name, route.heldout) for route in config.routes]
    return [*lists, (None, config.settings.default.heldout)]


def _written_places(written: Config) -> Iterator[tuple[str | None, str, Place]]:
    for route, texts in _heldout_lists(written):
        for number, text in enumerate(texts):
            place = written.place(route, "heldout", number)
            if place is not None:
                yield route, text, place


def read_cases(source: str, names: Sequence[str], models: Sequence[str] | None = None) -> list[Case]:
    """The cases of a file of JSON Lines ("-" is stdin): prompt, and route, model or must_default; tags.

    names, models: the routes and models that a case may expect; without `models` any is taken. Other keys of
        a row are ignored.

    Raises ConfigError with every problem, or when there is no case at all.
    """
    rows, problems = parse_rows(source, read_lines(source), _SHAPE)
    if not rows and not problems:
        problems.append(Problem(source, 1, 1, f"holds no case; write one a line: {_SHAPE}."))
    known = _Known(names, frozenset(names), models)
    for row in rows:
        problems += [Problem(source, row.line, *fault) for fault in _faults(row, known)]
    raise_any(problems)
    return [_case(row, source) for row in rows]


class _Known(NamedTuple):
    """What cases may expect. `routes` are those of `names`, to look up."""

    names: Sequence[str]
    routes: frozenset[str]
    models: Sequence[str] | None


def _case(row: Row, source: str) -> Case:
    values = row.values
    return Case(
        values["prompt"],
        values.get("route"),
        source,
        row.line,
        values.get("model"),
        tuple(dict.fromkeys(values.get("tags", ()))),
        any_route="route" not in values and not values.get("must_default"),
    )


def _faults(row: Row, known: _Known) -> Iterator[tuple[int, str]]:
    """What is wrong with a row, as column and message."""
    if "prompt" not in row.values:
        yield 1, f"`prompt` is missing; a row is {_SHAPE}."
    elif row.values["prompt"] == []:
        yield row.column("prompt"), "`prompt` is an empty list; give text, or messages."
    else:
        try:
            routed_text(row.values["prompt"])
        except PromptError as error:
            yield row.column("prompt"), f"{error}."
    if not row.values.keys() & {"route", "model"} and row.values.get("must_default", False) is False:
        yield 1, _MISSING_ROUTE
    for key, fault in (("route", _route_fault), ("model", _model_fault)):
        message = fault(row.values[key], known) if key in row.values else None
        if message is not None:
            yield row.column(key), message
    yield from _probe_faults(row)


def _route_fault(route: Any, known: _Known) -> str | None:
    if route is not None and not isinstance(route, str):
        return "`route` must be the name of a route, or null where the default must serve."
    return None if route is None or route in known.routes else _no_route(route, known.names)


def _model_fault(model: Any, known: _Known) -> str | None:
    if not isinstance(model, str):
        return "`model` must be the name of the model that must serve; leave it out where any may."
    return None if known.models is None or model in known.models else _no_model(model, known.models)


def _probe_faults(row: Row) -> Iterator[tuple[int, str]]:
    must_default, tags = row.values.get("must_default", False), row.values.get("tags", ["-"])
    if not isinstance(must_default, bool):
        yield row.column("must_default"), "`must_default` must be true or false."
    elif must_default and row.values.get("route") is not None:
        yield row.column("must_default"), "`must_default` contradicts `route`; keep one of them."
    elif row.values.get("must_default") is False and row.values.get("route", "") is None:
        yield row.column("must_default"), "`must_default` contradicts a `route` of null; keep one of them."
    if not isinstance(tags, list) or not all(map(_is_tag, tags)):
        yield row.column("tags"), f'`tags` must be a list of names, such as ["smoke"]; {_TAG}.'
    elif not tags:
        yield row.column("tags"), "`tags` is empty; name a tag, or leave it out."


def _is_tag(tag: Any) -> bool:
    """Whether a floor on it can be written: names in YAML keep to the same."""
    if not isinstance(tag, str) or not 0 < len(tag) <= _LONGEST_TAG or tag != tag.strip():
        return False
    return visible(tag) == tag and not set(tag) & set("\t\n")


def _no_route(name: str, names: Sequence[str]) -> str:
    return (
        f"unknown route {shorten(name)};{did_you_mean(name, names)} write null where the default must serve."
    )


def _no_model(name: str, names: Sequence[str]) -> str:
    return f"unknown model {shorten(name)};{did_you_mean(name, names)} name one of the settings in the index."


# JSON


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def _rounded_values(row: Bin | RouteResult | TagResult | Estimate) -> dict[str, Any]:
    return {key: _rounded(value) for key, value in row._asdict().items()}


def _rounded_pair(pair: tuple[float, float]) -> list[float]:
    return [round(value, 6) for value in pair]


def _wrong_model_dict(wrong: Wrong) -> dict[str, Any]:
    case = wrong.case
    return {
        "file": case.file,
        "line": case.line,
        "prompt": case.prompt,
        "expected": case.model,
        "found": wrong.model,
        "route": wrong.found,
        "reason": wrong.reason,
        "detail": wrong.detail,
    }


def _wrong_dict(wrong: Wrong) -> dict[str, Any]:
    case = wrong.case
    return {
        "file": case.file,
        "line": case.line,
        "prompt": case.prompt,
        "expected": case.route,
        "found": wrong.found,
        "reason": wrong.reason,
        "detail": wrong.detail,
        "confidence": round(wrong.confidence, 4),
        "neighbors": [one._asdict() for one in wrong.neighbors],
    }
