"""Which numbers to set: a setting swept over labelled prompts, graded prompts or the log of decisions.

    labelled prompts --route once--> limits --+
    graded prompts ----cross-fit---> models --+--> Sweep --> Curve, the point by the goal, and what it
    promises decisions with outcomes --------> either -+

Nothing is changed by tuning. What a point promises is not read off the prompts that it was picked on: it is
picked anew without each fold and measured on that fold.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from semroute import measures
from semroute.blends import at_blends
from semroute.catalog import declared_quality
from semroute.choices import LOG_FIGURES, MODEL_FIGURES, TIME_FIGURES, Choices, risk_sweep, weight_sweep
from semroute.config import EscalationSettings, Weights
from semroute.crossfit import (
    ANSWER_TOKENS,
    Crossfitted,
    candidates_of,
    milliseconds,
    price_problems,
    time_problems,
    usd,
)
from semroute.errors import THE_CASES, THE_LOG, THE_SETTINGS, ConfigError, Problem
from semroute.jsonl import raise_any
from semroute.sweep import (
    LEVEL,
    Figure,
    Figures,
    Goal,
    Pick,
    Ratio,
    Sweep,
    folds_of,
    measured,
    measured_sweep,
    pick,
)
from semroute.text import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.config import Config
    from semroute.decision import Candidate, Decision
    from semroute.evaluate import Case
    from semroute.router import Router

    Floats = NDArray[np.float64]

MIN_CONFIDENCE, MAX_DISTANCE = "vote.min_confidence", "vote.max_distance"
MIN_MARGIN, BLEND = "vote.min_margin", "vote.blend"
MAX_RISK, COST_WEIGHT, QUALITY_WEIGHT = "escalations.max_risk", "select.cost", "select.quality"
TTFT_WEIGHT, ITL_WEIGHT = "select.ttft", "select.itl"
LIMITS = (MIN_CONFIDENCE, MAX_DISTANCE, MIN_MARGIN)
TIMES = (TTFT_WEIGHT, ITL_WEIGHT)
CHOICES = (MAX_RISK, COST_WEIGHT, QUALITY_WEIGHT, *TIMES)
"""What can be tuned, and `BLEND`: keys of semroute.yaml. The goal of `TIMES` is to save time."""

BLENDS = tuple(round(0.05 * place, 2) for place in range(21))
"""The values of `vote.blend` that are measured: each is a fit of its own."""

_UNMOVED = ("rule", "error", "empty_prompt")  # reasons of decisions that neither vote nor outcome moves
_ARBITER = "arbiter"  # asked by its own bounds of the confidence: neither that nor the margin moves it
_BATCH = 512  # prompts routed together
_SHOWN = 12
_MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04)  # above the floor, to reach it on new prompts
_ALIKE = 0.005  # of figures that tell the same story
_FEW = 100  # prompts below which an interval says little

_SERVED_IN_SCOPE, _SERVED, _RIGHT_SERVED, _RIGHT, _IN_SCOPE, _CASES, _REFUSED_OUT, _OUT = range(8)
LIMIT_FIGURES: Figures = {
    "accuracy": Ratio(_RIGHT, _CASES),
    "coverage": Ratio(_SERVED_IN_SCOPE, _IN_SCOPE),
    "precision": Ratio(_RIGHT_SERVED, _SERVED),
    "refused_out_of_scope": Ratio(_REFUSED_OUT, _OUT),
}


class Logged(Protocol):
    """What tuning reads of a logged decision."""

    @property
    def route(self) -> str | None:
        """The route that served; None for the default."""
        ...

    @property
    def best(self) -> str | None:
        """The best-scoring route, whether or not it served."""
        ...

    @property
    def model(self) -> str:
        """The model that served."""
        ...

    @property
    def reason(self) -> str:
        """As in `Decision`."""
        ...

    @property
    def confidence(self) -> float:
        """As in `Decision`."""
        ...

    @property
    def similarity(self) -> float | None:
        """As in `Decision`."""
        ...

    @property
    def margin(self) -> float | None:
        """As in `Decision`."""
        ...

    @property
    def candidates(self) -> Sequence[Candidate]:
        """As in `Decision`."""
        ...

    @property
    def prompt_tokens(self) -> int | None:
        """As the provider counted them; None where nobody did."""
        ...

    @property
    def completion_tokens(self) -> int | None:
        """The same."""
        ...

    @property
    def score(self) -> float | None:
        """How good the answer was, from 0 to 1; None where nobody said."""
        ...

    @property
    def scores_of(self) -> Mapping[str, float]:
        """The score of each model that was judged on this prompt, that of a rejected answer too."""
        ...

    @property
    def prompt_hash(self) -> str | None:
        """The same for equal prompts; None where that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A point of the curve. Each figure has an interval, see `sweep.Figure`; None where it is not measured.

    settings: keys of semroute.yaml and their values; empty for the settings as they are.

    Of labelled prompts:
    accuracy: share of all that are served by the route of their label, or refused where that is none.
    coverage: share of those in scope that a route serves. precision: share of all served that are right.
    refused_out_of_scope: share of those out of scope that the default serves.

    Of graded prompts and of the log:
    quality: mean score. quality_share: that, as a share of the mean score of the default model.
    cost: US dollars for a prompt. saving: what that lacks to the cost of always the default model, as a
    share.
    time: milliseconds until the whole answer is there, by what the cards say. time_saving: what that lacks to
    always the default model, as a share. Both only where every model says how fast it is.
    known: share of the scores that were observed; the others are estimates.
    """

    settings: dict[str, float]
    accuracy: Figure | None = None
    coverage: Figure | None = None
    precision: Figure | None = None
    refused_out_of_scope: Figure | None = None
    quality: Figure | None = None
    quality_share: Figure | None = None
    cost: Figure | None = None
    saving: Figure | None = None
    time: Figure | None = None
    time_saving: Figure | None = None
    known: Figure | None = None

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures that were measured, by name."""
        names = (*LIMIT_FIGURES, *MODEL_FIGURES, *TIME_FIGURES, *LOG_FIGURES)
        return {name: figure for name in names if (figure := getattr(self, name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """The point as plain JSON types: of each figure value, low and high."""
        figures = {
            name: {key: _rounded(name, value) for key, value in figure._asdict().items()}
            for name, figure in self.figures.items()
        }
        return {"settings": self.settings, **figures}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Every distinct point of the sweep: values (k,) of the setting, increasing, and each figure (k,)."""

    setting: str
    values: Floats
    figures: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.values)

    def to_list(self) -> list[dict[str, float | None]]:
        """A row for each point, as plain JSON types."""
        columns = {name: values.tolist() for name, values in self.figures.items()}
        return [
            {self.setting: value} | {name: _rounded(name, column[place]) for name, column in columns.items()}
            for place, value in enumerate(self.values.tolist())
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Tuning:
    """What tuning found.

    prompts: how many were measured. reached: whether the floor of the goal is promised, see `promised`.
    chosen: the best point by the goal on these prompts, with as much to spare as makes the promise reach the
    floor; where no point is promised to reach it, the best on these prompts, or the one that comes nearest.
    promised: the same setting as it will do on new prompts: picked without each fold, measured on it.
    now: the settings as they are. shown: about a dozen points of the curve, the chosen one among them.
    measures: those of the field (see `measures`) that the curve has, by name; none of labelled prompts.
    notes: sentences about what was left out or assumed. takes_effect: whether the setting moves any decision
    as things are; without a store no outcome does. gains: whether the promise is better than what is in
        force; where it is not, nothing should be changed.
    """

    setting: str
    goal: Goal
    prompts: int
    reached: bool
    chosen: OperatingPoint
    promised: OperatingPoint
    now: OperatingPoint
    shown: tuple[OperatingPoint, ...]
    curve: Curve
    notes: tuple[str, ...]
    gains: bool = True
    takes_effect: bool = True
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The chosen value of the setting."""
        return self.chosen.settings[self.setting]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types, with the whole curve."""
        return {
            "setting": self.setting,
            "value": self.value,
            "goal": self.goal._asdict(),
            "reached": self.reached,
            "prompts": self.prompts,
            "level": LEVEL,
            "chosen": self.chosen.to_dict(),
            "promised": self.promised.to_dict(),
            "now": self.now.to_dict(),
            "shown": [point.to_dict() for point in self.shown],
            "measures": {name: _rounded(name, value) for name, value in self.measures.items()},
            "curve": self.curve.to_list(),
            "notes": list(self.notes),
        }


# Labelled prompts


def tune_limits(
    router: Router,
    cases: Sequence[Case],
    *,
    setting: str = MIN_CONFIDENCE,
    precision: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Tune a limit of the vote on labelled prompts, each of which is routed once, or `vote.blend`.

    setting: one of `LIMITS`, or `BLEND`: then all is fitted anew and every prompt judged at each of `BLENDS`.
    precision: the goal is the best coverage at this precision; without it, the best accuracy.

    A route that sets the limit itself keeps its own. Raises ConfigError for fewer than two distinct prompts.
    """
    groups = _same([case.prompt for case in cases], THE_CASES)
    if setting == BLEND:
        sweep, now = _blend_sweep(router, cases, progress)
    else:
        sweep, now = _labelled_limits(router, cases, setting, progress)
    goal = (
        Goal("accuracy", then="precision") if precision is None else Goal("coverage", "precision", precision)
    )
    return _tuned(
        setting, sweep, LIMIT_FIGURES, goal, groups, now, [], _in_force(router.index.config, setting)
    )


def _routed(
    router: Router, cases: Sequence[Case], done: Callable[[int], None] | None = None
) -> list[Decision]:
    decisions: list[Decision] = []
    for start in range(0, len(cases), _BATCH):
        decisions += router.route_many([case.prompt for case in cases[start : start + _BATCH]])
        if done is not None:
            done(len(decisions))
    return decisions


def _labelled_limits(
    router: Router, cases: Sequence[Case], setting: str, progress: Callable[[int, int], None] | None
) -> tuple[Sweep, Floats]:
    """The sweep of a limit over labelled prompts, and what the decisions as they are add."""
    done = None if progress is None else functools.partial(_told, progress, len(cases), 0)
    decisions = _routed(router, cases, done)
    labels = [case.route for case in cases]
    votes = [
        _Judged(next(iter(one.scores), None), one.confidence, one.distance, one.margin or 0.0)
        for one in decisions
    ]
    best = [vote.best for vote in votes]
    accepted, refused, now = (
        _label_sums(labels, served)
        for served in (best, [None] * len(cases), [one.route for one in decisions])
    )
    # What no vote decided is the same whatever the limit: rules, errors, empty prompts.
    fixed = np.array([vote.best is None or vote.distance is None for vote in votes], bool)
    accepted, refused = (np.where(fixed[:, None], now, sums) for sums in (accepted, refused))
    return _limit_sweep(router, votes, setting, accepted, refused), now


def _told(progress: Callable[[int, int], None], total: int, before: int, done: int) -> None:
    progress(before + done, total)


def _blend_sweep(
    router: Router, cases: Sequence[Case], progress: Callable[[int, int], None] | None
) -> tuple[Sweep, Floats]:
    """The sweep of `vote.blend`, and what the decisions as they are add. Prompts are embedded once."""
    labels, states = [case.route for case in cases], []
    routers = at_blends(router, BLENDS)
    total = len(cases) * len(routers)
    for place, one in enumerate(routers):
        done = None if progress is None else functools.partial(_told, progress, total, place * len(cases))
        states.append(_label_sums(labels, [decision.route for decision in _routed(one, cases, done)]))
    return measured_sweep(BLENDS, states[1:], 1.0), states[0]


class _Judged(NamedTuple):
    """What limits look at: the best route, its confidence, the nearest utterance's distance, the margin."""

    best: str | None
    confidence: float
    distance: float | None
    margin: float


def _label_sums(labels: Sequence[str | None], served: Sequence[str | None]) -> Floats:
    """What each prompt adds when `served` is its route, (n, columns)."""
    scope = np.array([label is not None for label in labels])
    serves = np.array([route is not None for route in served])
    right = np.array([label == route for label, route in zip(labels, served, strict=True)])
    columns = (
        *(serves & scope, serves, serves & right, right, scope),
        *(np.ones(len(labels)), ~serves & ~scope, ~scope),
    )
    return np.column_stack(columns).astype(np.float64)


def _limit_sweep(
    router: Router, votes: Sequence[_Judged], setting: str, accepted: Floats, refused: Floats
) -> Sweep:
    """The sweep of a limit.

    accepted, refused: (n, columns), what each prompt adds when its vote is accepted and when it is not.
    """
    config, limits = router.index.config, router.limits()
    key = setting.rpartition(".")[2]
    own = {route.name for route in config.routes if getattr(route, key, None) is not None}
    count = len(votes)
    swept, at = np.zeros(count, bool), np.zeros(count)
    kept = np.zeros(count, bool)  # accepted by a limit of the route's own
    for place, vote in enumerate(votes):
        if vote.best is None or vote.distance is None or vote.best not in limits:
            continue
        limit = limits[vote.best]
        held = {
            MAX_DISTANCE: vote.distance <= limit.max_distance,
            MIN_CONFIDENCE: vote.confidence >= limit.min_confidence,
            MIN_MARGIN: vote.margin >= limit.min_margin,
        }
        looked_at = {MAX_DISTANCE: vote.distance, MIN_CONFIDENCE: vote.confidence, MIN_MARGIN: vote.margin}
        at[place] = looked_at[setting]
        passes = all(holds for other, holds in held.items() if other != setting)
        swept[place] = passes and vote.best not in own
        kept[place] = all(held.values()) and vote.best in own
    falls = setting != MAX_DISTANCE  # a higher limit refuses more
    at_first = kept | swept if falls else kept
    rows = np.flatnonzero(swept)
    change = (refused - accepted if falls else accepted - refused)[rows]
    start = np.where(at_first[:, None], accepted, refused)
    return Sweep(0.0, 1.0 if falls else 2.0, not falls, start, at[rows], rows, change)


# Graded prompts


def tune_models(router: Router, graded: Crossfitted, *, setting: str | None = None, goal: Goal) -> Tuning:
    """Tune `escalations.max_risk` or a weight of `select` on graded prompts: cost or time against quality.

    setting: one of `CHOICES`; None is the one that the settings use, by `select`.
    goal: of `choices.MODEL_FIGURES` and `TIME_FIGURES`, such as Goal("saving", "quality_share", 0.95).

    Raises ConfigError where the goal is of time and a model does not say how fast it is.
    """
    settings = router.index.config.settings
    setting = setting or usual_setting(router.index.config)
    choices, notes = graded.choices, []
    if graded.left_out:
        notes.append(
            f"{graded.left_out:,} prompts are left out: a model that could serve them was not graded on them"
        )
    if graded.ungraded:
        notes.append(f"left out of the choice, for want of any grade: {', '.join(graded.ungraded)}")
    stored = settings.escalations is not None and settings.escalations.store is not None
    if not stored:
        notes.append(
            "the settings name no store: name one under `escalations:`, build, and `semroute escalations "
            "import` the grades, or no outcome moves a decision"
        )
    if np.isnan(choices.believed).all():
        notes.append(
            "no prompt has enough outcomes near it for min_support, so nothing can be chosen by them"
        )
    if setting == MAX_RISK and all(order[0] == choices.default for order in choices.orders):
        notes.append(
            "the default model is the first choice of every prompt, and max_risk only leads away from it "
            "where it is likely to fail; `--setting cost` weighs quality against cost instead"
        )
    _check_times(router.index.config, choices, goal, THE_SETTINGS)
    groups = np.arange(len(choices.order))
    now = _now(router, choices)
    sweep = _model_sweep(choices, setting, settings.select)
    in_force = _in_force(router.index.config, setting)
    figures = {**MODEL_FIGURES, **_figures_of_time(goal)}
    found = _tuned(setting, sweep, figures, goal, groups, now, notes, in_force)
    return replace(found, measures=_measures(choices, found.curve), takes_effect=stored)


def _measures(choices: Choices, curve: Curve) -> dict[str, float]:
    """The measures of the field, against always one of the models that any prompt could go to."""
    columns = sorted(set.intersection(*(set(order) for order in choices.orders)))
    times = choices.weight.astype(np.int64)
    worth, spent = (np.repeat(values[:, columns], times, axis=0) for values in (choices.worth, choices.usd))
    qualities, costs = worth.mean(axis=0), spent.mean(axis=0)
    found: dict[str, float] = {}
    if len(columns) > 1 and costs[np.argmax(qualities)] > 0.0 and costs.min() < costs.max():
        points = curve.figures["cost"], curve.figures["quality"]
        found["cost_save"] = measures.cost_save(*points, costs, qualities)
        found["aiq"] = measures.aiq(*points, float(costs.min()), float(costs.max()))
    declared = [declared_quality(card) for card in choices.cards]
    believed = np.where(np.isnan(choices.believed), declared, choices.believed)
    gains = np.repeat(believed[:, columns], times, axis=0)
    if len(columns) == 2 and qualities[0] != qualities[1]:
        weak, strong = np.argsort(qualities)
        calls = measures.call_curve(gains[:, strong] - gains[:, weak], worth[:, weak], worth[:, strong])
        found |= {"apgr": measures.apgr(calls)}
        found |= {"cpt50": measures.cpt(calls, 0.5), "cpt80": measures.cpt(calls, 0.8)}
    return found


def usual_setting(config: Config) -> str:
    """The setting by which models are chosen: the weight of cost where there are weights, else the risk."""
    return COST_WEIGHT if isinstance(config.settings.select, Weights) else MAX_RISK


def _model_sweep(choices: Choices, setting: str, select: Weights | str) -> Sweep:
    if setting == MAX_RISK:
        return risk_sweep(choices)
    weights = select if isinstance(select, Weights) else Weights()
    return weight_sweep(choices, weights, setting.rpartition(".")[2])


def _figures_of_time(goal: Goal) -> Figures:
    return TIME_FIGURES if goal.most in TIME_FIGURES else {}


def _check_times(config: Config, choices: Choices, goal: Goal, source: str) -> None:
    """Raise ConfigError where time is to be saved and nobody knows how much there is."""
    if goal.most in TIME_FIGURES:
        raise_any(time_problems(config, {choices.models[column] for column in choices.used}, source))


def _now(router: Router, choices: Choices) -> Floats:
    """What each prompt adds with the settings as they are."""
    settings = router.index.config.settings
    escalations = settings.escalations
    if escalations is None or escalations.store is None or escalations.mode == "shadow":
        choices = _without_evidence(choices)
    if isinstance(settings.select, Weights):
        return weight_sweep(choices, settings.select, "cost").state(settings.select.cost)
    return risk_sweep(choices).state((escalations or EscalationSettings()).max_risk)


def _without_evidence(choices: Choices) -> Choices:
    nothing = np.full_like(choices.believed, np.nan)
    parts = {name: getattr(choices, name) for name in Choices.__dataclass_fields__}
    return Choices(**(parts | {"believed": nothing}))


# The log of decisions


def tune_log(router: Router, rows: Sequence[Logged], *, setting: str | None = None, goal: Goal) -> Tuning:
    """Tune any of the settings on logged decisions, of which those with a score count.

    A log knows the score of the model that served. What another one would have had is the quality that
    outcomes gave it in the decision, else its mean score in the log, else what its card declares: `known`
    says how many scores of a point were observed. Tokens are those of the log, and where it has none their
    mean, else 200.

    Raises ConfigError where nothing can be compared.
    """
    config = router.index.config
    setting = setting or usual_setting(config)
    scored = [row for row in rows if row.score is not None and row.model in config.settings.models]
    if len(scored) < 2:
        message = "fewer than two decisions have an outcome: call `router.feedback` with the decision's id."
        raise ConfigError((Problem(THE_LOG, 0, 0, message),))
    choices, estimated = _logged_choices(config, scored)
    notes = (
        [f"left out for want of an outcome: {counted(len(rows) - len(scored), 'decision')}"]
        if len(rows) > len(scored)
        else []
    )
    if estimated:
        notes.append(f"tokens of {estimated:,} decisions are estimated: the log has none")
    notes.append("scores of models that did not serve a prompt are estimates")
    _check_times(config, choices, goal, THE_SETTINGS)
    if setting in CHOICES:
        sweep, now = _model_sweep(choices, setting, config.settings.select), _now(router, choices)
    else:
        sweep, now = _logged_limits(router, scored, choices, setting)
    hashes = [one.prompt_hash for one in scored]
    groups = _same([place if known is None else known for place, known in enumerate(hashes)], THE_LOG)
    if any(known is None for known in hashes):
        notes.append("decisions without a `prompt_hash` are taken to be on different prompts")
    figures = {**MODEL_FIGURES, **_figures_of_time(goal), **LOG_FIGURES}
    return _tuned(setting, sweep, figures, goal, groups, now, notes, _in_force(config, setting))


def _logged_choices(config: Config, rows: Sequence[Logged]) -> tuple[Choices, int]:
    """Choices on logged decisions, and for how many of them the tokens are estimates."""
    settings = config.settings
    models, cards = tuple(settings.models), tuple(settings.models.values())
    places = {model: column for column, model in enumerate(models)}
    least = (settings.escalations or EscalationSettings()).min_support
    count = len(rows), len(models)
    tokens, estimated = _tokens(rows)
    believed, worth = np.full(count, np.nan), np.empty(count)
    known = np.zeros(count, bool)
    worth[:] = _usual_worth(config, rows)
    money = np.column_stack([usd(card, tokens[:, 0], tokens[:, 1]) for card in cards])
    time = np.column_stack([milliseconds(card, tokens[:, 1]) for card in cards])
    orders: dict[tuple[int, ...], int] = {}
    order = np.empty(len(rows), np.int64)
    for row, one in enumerate(rows):
        for candidate in one.candidates:
            if candidate.model in places and candidate.quality is not None:
                worth[row, places[candidate.model]] = candidate.quality
                if candidate.support is not None and candidate.support >= least:
                    believed[row, places[candidate.model]] = candidate.quality
        for model, score in {**one.scores_of, one.model: one.score}.items():
            if model in places:
                worth[row, places[model]], known[row, places[model]] = score, True
        names = _order(config, one)
        order[row] = orders.setdefault(tuple(places[name] for name in names), len(orders))
    default = places[settings.default.model_names[0]]
    used = {models[column] for names in orders for column in names} | {settings.default.model_names[0]}
    raise_any(price_problems(config, used, THE_LOG))
    weight = np.ones(len(rows))
    return Choices(
        models, cards, believed, worth, known, money, time, tuple(orders), order, default, weight
    ), estimated


def _order(config: Config, one: Logged) -> tuple[str, ...]:
    """The models that outcomes could choose from for a logged decision, best first."""
    if one.reason in _UNMOVED:
        return (one.model,)
    if one.reason == "constraint":  # the call ruled some out
        named = [candidate.model for candidate in one.candidates if candidate.model in config.settings.models]
        return tuple(dict.fromkeys([*named, one.model]))
    return tuple(dict.fromkeys([*candidates_of(config, one.route)[0], one.model]))


def _usual_worth(config: Config, rows: Sequence[Logged]) -> list[float]:
    """Of each model the mean score in the log, else what its card declares, else 0.5."""
    usual = []
    for model, card in config.settings.models.items():
        scores = [one.scores_of[model] for one in rows if model in one.scores_of]
        usual.append(float(np.mean(scores)) if scores else declared_quality(card))
    return usual


def _tokens(rows: Sequence[Logged]) -> tuple[Floats, int]:
    """Tokens of prompt and completion of each decision, (n, 2), and for how many they are estimates."""
    pairs = [(one.prompt_tokens, one.completion_tokens) for one in rows]
    given = np.array([[math.nan if value is None else value for value in pair] for pair in pairs], np.float64)
    missing = np.isnan(given)
    for column in range(2):
        known = given[~missing[:, column], column]
        given[missing[:, column], column] = known.mean() if len(known) else ANSWER_TOKENS
    return given, int(missing.any(axis=1).sum())


def _logged_limits(
    router: Router, rows: Sequence[Logged], choices: Choices, setting: str
) -> tuple[Sweep, Floats]:
    """The sweep of a limit over logged decisions, and what the decisions as they were add."""
    config = router.index.config
    places = {model: column for column, model in enumerate(choices.models)}
    default, limits = choices.models[choices.default], router.limits()
    votes, accepted, refused = [], [], []
    for one in rows:
        vote = _logged_vote(one, setting, limits)
        votes.append(vote)
        served, asked = one.route is not None, one.reason == _ARBITER
        if vote.best is None:
            accepted.append(one.model)
            refused.append(one.model)
        else:
            accepted.append(one.model if served or asked else candidates_of(config, vote.best)[0][0])
            refused.append(default if served or asked else one.model)
    if all(vote.best is None for vote in votes):
        message = (
            f"no decision with an outcome is one that {setting} could move: `best` and `similarity` are "
            "missing, the best routes are gone, or rules and the arbiter made them all."
        )
        raise ConfigError((Problem(THE_LOG, 0, 0, message),))
    everyone = np.arange(len(rows))
    taken, left, was = (
        choices.sums(everyone, np.array([places[name] for name in names]))
        for names in (accepted, refused, [one.model for one in rows])
    )
    return _limit_sweep(router, votes, setting, taken, left), was


def _logged_vote(one: Logged, setting: str, routes: Collection[str]) -> _Judged:
    """What the limit looks at; no best route where it moves nothing, as of a route that is gone."""
    asked = one.reason == _ARBITER
    fixed = one.reason in _UNMOVED or (asked and setting != MAX_DISTANCE)
    if fixed or one.best not in routes or one.similarity is None:
        return _Judged(None, one.confidence, None, 0.0)
    distance = round(1.0 - one.similarity, 6)
    if asked:
        # Before an arbiter no vote is too unsure, and what is logged is that of the route that it picked.
        return _Judged(one.best, 1.0, distance, 1.0)
    # A margin that nobody wrote down is not held against a decision.
    return _Judged(one.best, one.confidence, distance, 1.0 if one.margin is None else one.margin)


# The point


def _tuned(
    setting: str,
    sweep: Sweep,
    figures: Figures,
    goal: Goal,
    groups: NDArray[np.int64],
    now: Floats,
    notes: list[str],
    in_force: float | None,
) -> Tuning:
    """Sweep, pick, and measure what is promised."""
    values, sums = sweep.curve()
    _at_its_value(sweep, values, sums, in_force)
    curve = Curve(setting, values, {name: ratio.of(sums) for name, ratio in figures.items()})
    folds = folds_of(groups)
    found, promised = _picked(sweep, (values, sums), figures, goal, folds, in_force)
    places = _shown(curve, goal, found.place)
    states = [promised, now, *(sweep.state(float(values[place])) for place in places)]
    promise, present, *shown = measured(states, figures, groups, [folds, *[None] * (len(states) - 1)])
    points = tuple(
        OperatingPoint({setting: float(values[place])}, **each)
        for place, each in zip(places, shown, strict=True)
    )
    chosen = points[places.index(found.place)]
    gains = len(curve) > 1 and not _does_no_worse(present, promise, goal)
    if len(curve) == 1:
        notes.append(f"none of these prompts is moved by any value of {setting}")
    elif not gains and found.reached:
        notes.append(
            "the marked point is the best on these very prompts, which flatters it; on new ones the settings "
            "as they are do no worse than what is promised: there is nothing to gain"
        )
    if promise[goal.most].value > chosen.figures[goal.most].value + _ALIKE:
        most = goal.most.replace("_", " ")
        notes.append(
            f"picked without a fifth, the points had more {most} than the one that is marked has on all of "
            "these prompts: do not count on more than that"
        )
    if len(folds) < _FEW:
        notes.append(f"only {counted(len(folds), 'prompt')}: the intervals are wide; more would narrow them")
    return Tuning(
        setting,
        goal,
        len(groups),
        found.reached,
        chosen,
        OperatingPoint(chosen.settings, **promise),
        OperatingPoint({}, **present),
        points,
        curve,
        tuple(notes),
        gains,
    )


def _at_its_value(sweep: Sweep, values: Floats, sums: Floats, in_force: float | None) -> int | None:
    """The place of the curve where the value in force lies; its value there becomes that one."""
    if in_force is None or not sweep.low <= in_force <= sweep.high:
        return None
    alike = np.isclose(sums, sweep.state(in_force).sum(axis=0), rtol=1e-12, atol=1e-12).all(axis=1)
    nearest = np.where(alike, np.abs(values - in_force), np.inf)
    place = int(nearest.argmin())
    if not alike[place]:
        return None
    values[place] = in_force
    return place


def _picked(
    sweep: Sweep,
    curve: tuple[Floats, Floats],
    figures: Figures,
    goal: Goal,
    folds: NDArray[np.int64],
    in_force: float | None,
) -> tuple[Pick, Floats]:
    """The point by the goal, and what each prompt adds at the one picked without its fold, (n, columns).

    A point that reaches the floor on these prompts reaches it on others half of the time. So it is picked
    by a floor that is higher by the least of a few margins with which the promise reaches the floor.
    """
    parts = []
    for fold in range(int(folds.max()) + 1):
        part = sweep.only(folds != fold)
        values, sums = part.curve()
        parts.append((values, sums, _at_its_value(part, values, sums, in_force)))
    present = _at_its_value(sweep, *curve, in_force)
    first: tuple[Pick, Floats] | None = None
    for margin in _MARGINS:
        wanted = goal._replace(floor=goal.floor + margin)
        found = pick(curve[1], figures, wanted, present)
        promised = np.zeros_like(sweep.start)
        for fold, (values, sums, place) in enumerate(parts):
            value = float(values[pick(sums, figures, wanted, place).place])
            promised[folds == fold] = sweep.state(value)[folds == fold]
        if goal.of is None:
            return found, promised
        held = float(figures[goal.of].of(promised.sum(axis=0, keepdims=True))[0])
        reached = found.reached and held >= goal.floor
        if reached:
            return Pick(found.place, reached=True), promised
        first = first or (Pick(found.place, reached=False), promised)
        if not found.reached:
            break
    assert first is not None  # noqa: S101 - there is a margin
    return first


def _in_force(config: Config, setting: str) -> float | None:
    """The number that the settings give `setting`; None where that is fitted, or not there."""
    settings = config.settings
    match setting:
        case "vote.min_confidence":
            value: object = settings.vote.min_confidence
        case "vote.max_distance":
            value = settings.vote.max_distance
        case "escalations.max_risk":
            value = None if settings.escalations is None else settings.escalations.max_risk
        case "vote.min_margin" | "vote.blend":
            value = getattr(settings.vote, setting.rpartition(".")[2])
        case _:
            weights = settings.select
            value = getattr(weights, setting.rpartition(".")[2]) if isinstance(weights, Weights) else None
    return float(value) if isinstance(value, int | float) else None


def _does_no_worse(present: dict[str, Figure], promise: dict[str, Figure], goal: Goal) -> bool:
    """Whether the settings as they are reach the floor, and as much of what is wanted as is promised."""
    reaches = goal.of is None or present[goal.of].value >= goal.floor
    return reaches and present[goal.most].value >= promise[goal.most].value


def _shown(curve: Curve, goal: Goal, chosen: int) -> list[int]:
    """About a dozen places of the curve, spread evenly over what the goal trades, and the chosen one."""
    along = curve.figures["coverage" if "coverage" in curve.figures else goal.most]
    if np.isnan(along).all():
        along = np.arange(len(along), dtype=np.float64)
    wanted = np.linspace(np.nanmin(along), np.nanmax(along), _SHOWN - 1)
    nearest = {int(np.nanargmin(np.abs(along - value))) for value in wanted}
    if len(curve) <= len(BLENDS):
        nearest = set(range(len(curve)))
    return sorted(nearest | {chosen})


def _same(prompts: Sequence[Any], source: str) -> NDArray[np.int64]:
    """The same number for equal prompts, from 0. Raises ConfigError where there is only one."""
    places: dict[str, int] = {}
    groups = np.array([places.setdefault(repr(prompt), len(places)) for prompt in prompts], np.int64)
    if len(places) < 2:
        message = "at least two different prompts are needed: one cannot be left out to check the other."
        raise ConfigError((Problem(source, 0, 0, message),))
    return groups


def _rounded(name: str, value: float) -> float | None:
    """Six decimals; of a cost, which may be a millionth of a dollar, six digits."""
    if math.isnan(value):
        return None
    return float(f"{value:.6g}") if name == "cost" else round(value, 6)
