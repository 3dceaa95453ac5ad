"""How good the routing is on labelled prompts: cases in, an `Evaluation` out.

Every measure is defined where it is kept: in the docstrings of `Evaluation`, `RouteResult` and `Calibration`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from semroute.decision import Neighbor
from semroute.errors import Problem
from semroute.jsonl import Row, parse_rows, raise_any, read_lines
from semroute.sources import did_you_mean
from semroute.text import Prompt, PromptError, routed_text
from semroute.yaml import shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.config import Config, Place
    from semroute.decision import Decision
    from semroute.router import Router

BINS = 15
"""Of the reliability table; the number that Guo et al. (2017) use."""

_BATCH = 512  # prompts encoded together
_KEPT_NEIGHBORS = 3
_SHAPE = '{"prompt": text or messages, "route": name or null}'


class Case(NamedTuple):
    """A labelled prompt. `route` is None when the default must serve.

    `file` and `line` (from 1) say where it stands. Of a heldout list whose YAML is not known, `file` is
    "ROUTE.heldout" or "default.heldout" and `line` the place in the list.
    """

    prompt: Prompt
    route: str | None
    file: str = ""
    line: int = 0


class Wrong(NamedTuple):
    """A case that was routed elsewhere than its label says, and why; with at most three neighbours."""

    case: Case
    found: str | None
    reason: str
    detail: str
    confidence: float
    neighbors: tuple[Neighbor, ...]


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

    @property
    def coverage(self) -> float | None:
        """Share of the cases in scope that a route served."""
        return None if self.refused_in_scope is None else 1.0 - self.refused_in_scope

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as plain JSON types, numbers rounded to six digits."""
        return {
            "index": self.index,
            "cases": self.cases,
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
        }


def evaluate(
    router: Router,
    cases: Sequence[Case],
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[Case, Decision], None] | None = None,
) -> Evaluation:
    """Route `cases` in batches and hold every decision against its label.

    progress: called after each batch with (cases done, cases). each: called with every case and its decision.

    Raises ConfigError, naming each such case, when labels are no routes of the router's index.
    """
    names = router.index.route_names
    known = {None, *names}
    unknown = [case for case in cases if case.route not in known]
    raise_any([Problem(case.file, case.line, 1, _no_route(str(case.route), names)) for case in unknown])
    fingerprint = router.index.fingerprint
    tally = _Tally(names)
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        for case, decision in zip(batch, router.route_many([case.prompt for case in batch]), strict=True):
            tally.add(case, decision)
            if each is not None:
                each(case, decision)
        if progress is not None:
            progress(start + len(batch), len(cases))
    return tally.evaluation(fingerprint)


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
    codes: dict[str | None, int] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = {None: 0} | {name: code for code, name in enumerate(self.names, start=1)}

    def add(self, case: Case, decision: Decision) -> None:
        best = next(iter(decision.scores), decision.route)
        self.expected.append(self.codes[case.route])
        self.found.append(self._code(decision.route))
        self.best.append(self._code(best))
        self.confidence.append(decision.confidence)
        self.scored.append(bool(decision.scores))
        self.reasons[decision.reason] += 1
        if decision.route != case.route:
            nearest = decision.neighbors[:_KEPT_NEIGHBORS]
            why = decision.reason, decision.detail, decision.confidence
            self.wrong.append(Wrong(case, decision.route, *why, nearest))

    def _code(self, route: str | None) -> int:
        # A router that is reloaded meanwhile may answer with a route that no label can name.
        return self.codes.setdefault(route, len(self.codes))

    def evaluation(self, index: str) -> Evaluation:
        expected, found, best = (
            np.array(codes, np.int64) for codes in (self.expected, self.found, self.best)
        )
        scope, served = expected > 0, found > 0
        default, *routes = _route_results(list(self.codes), expected, found)
        scores = [one.f1 for one in routes if one.f1 is not None]
        scored = np.array(self.scored, bool)
        confidence = np.array(self.confidence, np.float64)[scored]
        right = (scope & (best == expected))[scored]
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
            reasons=dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))),
            calibration=_calibration(confidence, right, scope[scored]),
            routes=tuple(routes),
            default=default,
            wrong=tuple(self.wrong),
        )


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
    edges = np.arange(BINS + 1) / BINS
    places = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(places, minlength=BINS)
    said, held = (np.bincount(places, values, BINS) for values in (confidence, right))
    for place, count in enumerate(counts.tolist()):
        means = _share(float(said[place]), count), _share(float(held[place]), count)
        yield Bin(float(edges[place]), float(edges[place + 1]), count, *means)


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
    places = {} if written is None else {(route, text): place for route, text, place in _places(written)}
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


def _places(written: Config) -> Iterator[tuple[str | None, str, Place]]:
    for route, texts in _heldout_lists(written):
        for number, text in enumerate(texts):
            place = written.place(route, "heldout", number)
            if place is not None:
                yield route, text, place


def read_cases(source: str, names: Sequence[str]) -> list[Case]:
    """The cases of a file of JSON Lines ("-" is stdin). Keys of a row beside prompt and route are ignored.

    names: the routes that a label may name.

    Raises ConfigError with every problem, or when there is no case at all.
    """
    rows, problems = parse_rows(source, read_lines(source), _SHAPE)
    if not rows and not problems:
        problems.append(Problem(source, 0, 0, f"holds no case; write one a line: {_SHAPE}."))
    known = frozenset(names)
    for row in rows:
        problems += [Problem(source, row.line, *fault) for fault in _faults(row, known, names)]
    raise_any(problems)
    return [Case(row.values["prompt"], row.values["route"], source, row.line) for row in rows]


def _faults(row: Row, known: frozenset[str], names: Sequence[str]) -> Iterator[tuple[int, str]]:
    """What is wrong with a row, as column and message."""
    if "prompt" not in row.values:
        yield 1, f"`prompt` is missing; a row is {_SHAPE}."
    else:
        try:
            routed_text(row.values["prompt"])
        except PromptError as error:
            yield row.column("prompt"), f"{error}."
    if "route" not in row.values:
        yield 1, "`route` is missing; name the route, or write null where the default must serve."
        return
    route = row.values["route"]
    if route is not None and not isinstance(route, str):
        yield (
            row.column("route"),
            "`route` must be the name of a route, or null where the default must serve.",
        )
    elif route is not None and route not in known:
        yield row.column("route"), _no_route(route, names)


def _no_route(name: str, names: Sequence[str]) -> str:
    return (
        f"unknown route {shorten(name)};{did_you_mean(name, names)} write null where the default must serve."
    )


# JSON


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def _rounded_values(row: Bin | RouteResult) -> dict[str, Any]:
    return {key: _rounded(value) for key, value in row._asdict().items()}


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
