"""A setting swept exactly, and what may be promised of the point that is picked. Pure numpy.

What a prompt adds to each sum (served, right, score, cost, ...) is a step function of the setting: it changes
where the setting passes the prompt's own confidence, distance, risk or exchange rate. Sort the steps once,
add them up, and the whole curve is there, with every distinct point on it: O(n log n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

LEVEL = 0.975
"""Of an interval. Of two independent figures, such as quality and saving, both then hold in 95 of 100
cases."""

FOLDS = 5
_DRAWS = 1_000
_DRAWN_AT_ONCE = 2_000_000
_PAIRED = 4  # each draw is held against so many others
_SEED = 0
_DIGITS = 17
_ROUNDING = 1e-12


class Figure(NamedTuple):
    """A figure and its interval: where it will be on as many new prompts, with the probability LEVEL.

    So the interval counts the chance in these prompts and the chance in those to come. NaN where there is
    nothing to take a share of.
    """

    value: float
    low: float
    high: float


class Ratio(NamedTuple):
    """How a figure comes from sums: numerator / denominator, or with `rest` what that lacks to 1.

    numerator, denominator: columns of the sums. low, high: what the figure can be at all.
    """

    numerator: int
    denominator: int
    rest: bool = False
    low: float = 0.0
    high: float = 1.0

    def of(self, sums: Floats) -> Floats:
        """The figure of each row of (k, columns) sums; NaN where the denominator is 0."""
        whole = sums[:, self.denominator]
        share: Floats = np.full(len(sums), np.nan)
        np.divide(sums[:, self.numerator], whole, out=share, where=whole > 0.0)
        return (1.0 - share) if self.rest else share


Figures = Mapping[str, Ratio]


class Goal(NamedTuple):
    """The largest `most` among the points whose `of` is at least `floor`; without `of`, among all.

    then: what decides between equal ones where there is no `of`.
    """

    most: str
    of: str | None = None
    floor: float = 0.0
    then: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """What each prompt adds to the sums, at every value of a setting.

    low, high: what the setting may be; high may be infinite.
    includes: whether a step is taken at its very place (a distance that equals the limit is within it) or
        only behind it (a confidence that equals the limit is enough).
    start: (n, columns), below all steps.
    at, row, change: (steps,), (steps,), (steps, columns): where the setting makes a prompt change its sums,
        which prompt, and by how much. In any order.
    """

    low: float
    high: float
    includes: bool
    start: Floats
    at: Floats
    row: Rows
    change: Floats

    def only(self, rows: NDArray[np.bool_]) -> Sweep:
        """The sweep of some of the prompts, `rows` (n,) of them; the others add nothing."""
        steps = rows[self.row]
        start = np.where(rows[:, None], self.start, 0.0)
        return Sweep(
            self.low, self.high, self.includes, start, self.at[steps], self.row[steps], self.change[steps]
        )

    def curve(self) -> tuple[Floats, Floats]:
        """Every distinct point: values (k,) that increase, each between two steps, and sums (k, columns)."""
        order = np.argsort(self.at, kind="stable")
        at = self.at[order]
        last = np.flatnonzero(np.diff(at, append=np.inf) > 0.0)
        total = self.start.sum(axis=0)
        sums = np.concatenate([total[None], total + np.cumsum(self.change[order], axis=0)[last]])
        edges = np.concatenate([[-np.inf], at[last], [np.inf]])
        # A step that is taken only behind its place leaves that place to the point below it, and the other
        # way round: so a step at an end of what the setting may be makes that end a point of its own.
        if self.includes:
            kept = (edges[:-1] <= self.high) & (edges[1:] > self.low)
        else:
            kept = (edges[:-1] < self.high) & (edges[1:] >= self.low)
        lower, upper = np.maximum(edges[:-1], self.low), np.minimum(edges[1:], self.high)
        values = _short_between(lower[kept], upper[kept])
        # The ends of what the setting may be are values that people know.
        if edges[:-1][kept][0] < self.low:
            values[0] = self.low
        if edges[1:][kept][-1] > self.high:
            values[-1] = self.high
        return values, sums[kept]

    def state(self, value: float) -> Floats:
        """What each prompt adds at `value`, (n, columns)."""
        taken = self.at <= value if self.includes else self.at < value
        state = self.start.copy()
        np.add.at(state, self.row[taken], self.change[taken])
        return state


def measured_sweep(values: Sequence[float], states: Sequence[Floats], high: float) -> Sweep:
    """The sweep of a setting that was measured at some `values` only, which increase from 0 to `high`.

    states: of each value what each prompt adds, (n, columns). Half way between two values it passes over from
    one to the next.
    """
    parts: list[tuple[Floats, Rows, Floats]] = []
    for place in range(len(values) - 1):
        change = states[place + 1] - states[place]
        rows = np.flatnonzero(change.any(axis=1))
        if not len(rows):
            rows = np.zeros(1, np.int64)  # by a step of nothing both values stay points of the curve
        middle = 0.5 * (values[place] + values[place + 1])
        parts.append((np.full(len(rows), middle), rows, change[rows]))
    at, row, changes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Sweep(0.0, high, False, states[0], at, row, changes)


def _short_between(low: Floats, high: Floats) -> Floats:
    """Of each open interval a short number near its middle; of one without width, its end."""
    high = np.where(np.isfinite(high), high, 2.0 * np.abs(low) + 1e-9)
    middle = 0.5 * (low + high)
    found, open_still = middle.copy(), low < high
    for digits in range(1, _DIGITS):
        rounded = np.round(middle, digits)
        fits = open_still & (low < rounded) & (rounded < high)
        found[fits] = rounded[fits]
        open_still &= ~fits
        if not open_still.any():
            break
    return found


class Pick(NamedTuple):
    """The best point by a goal: its place on the curve, and whether it reaches the floor.

    Where no point does, it is the one that comes nearest.
    """

    place: int
    reached: bool


def pick(sums: Floats, figures: Figures, goal: Goal, present: int | None = None) -> Pick:
    """The best of the points with (k, columns) `sums`.

    Of equal ones that in force, at the place `present`; else that with the higher `goal.of`, or where the
    goal has none the higher `goal.then`; else that with the highest value.
    """
    most = _low_if_none(figures[goal.most].of(sums))
    beside = goal.of or goal.then
    held = np.zeros(len(sums)) if beside is None else _low_if_none(figures[beside].of(sums))
    if goal.of is None:
        best = int(np.lexsort((held, most))[-1])
        stays = present is not None and most[present] == most[best]
        return Pick(present if stays and present is not None else best, reached=True)
    reaching = held >= goal.floor - _ROUNDING
    if not reaching.any():
        return Pick(int(np.lexsort((most, held))[-1]), reached=False)
    best = int(np.lexsort((held, np.where(reaching, most, -np.inf)))[-1])
    if present is not None and reaching[present] and most[present] == most[best]:
        best = present
    return Pick(best, reached=True)


def _low_if_none(values: Floats) -> Floats:
    return np.where(np.isnan(values), -np.inf, np.round(values, 12))


def folds_of(groups: Rows) -> Rows:
    """The fold, from 0, of each prompt: at most FOLDS, as equal as can be; a group is in one fold whole.

    groups: (n,) from 0; equal prompts have the same.
    """
    count = int(groups.max()) + 1
    order: Rows = np.random.default_rng(_SEED).permutation(count)
    return order[groups] % min(FOLDS, count)


def measured(
    states: Sequence[Floats], figures: Figures, groups: Rows, folds: Sequence[Rows | None]
) -> list[dict[str, Figure]]:
    """The figures of prompts that add `states`, each (n, columns), with their intervals.

    Bootstrap (Efron 1979) over `groups` (n,), the percentiles of the difference between two independent
    draws: one stands for these prompts, the other for as many new ones. `folds` has (n,) for a state in which
    every fold was decided by a model or a limit of its own: what the folds differ by beyond chance is what
    the one that is used may differ by, and widens the interval.

    Of a share that is all or nothing no draw differs: then as many failures as may be among new prompts when
    none was among these, by Jeffreys' prior (beta-binomial).
    """
    draws = np.split(_draws(np.hstack(states), groups), len(states), axis=1)
    return [
        {name: _figure(state, ratio, ratio.of(drawn), own_folds, groups) for name, ratio in figures.items()}
        for state, drawn, own_folds in zip(states, draws, folds, strict=True)
    ]


def _figure(state: Floats, ratio: Ratio, drawn: Floats, folds: Rows | None, groups: Rows) -> Figure:
    value = float(ratio.of(state.sum(axis=0)[None])[0])
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(drawn) == 0:
        return Figure(np.nan, np.nan, np.nan)
    apart = np.concatenate([drawn - np.roll(drawn, shift) for shift in range(1, _PAIRED + 1)])
    if folds is not None:
        spread = _spread(state, ratio, folds, value, float(drawn.var()))
        apart = apart + spread * np.random.default_rng(_SEED).standard_normal(len(apart))
    ends = value + np.quantile(apart, [0.5 - LEVEL / 2.0, 0.5 + LEVEL / 2.0])
    low, high = np.clip(ends, ratio.low, ratio.high)
    if (ratio.low, ratio.high) == (0.0, 1.0) and value in (0.0, 1.0):
        unseen = _unseen(len(np.unique(groups[state[:, ratio.denominator] > 0.0])))
        low, high = (min(low, 1.0 - unseen), high) if value == 1.0 else (low, max(high, unseen))
    return Figure(value, float(low), float(high))


def _unseen(count: int) -> float:
    """The share of `count` new prompts that may differ, where none of as many did."""
    generator = np.random.default_rng(_SEED)
    rates = generator.beta(0.5, count + 0.5, _DRAWS)
    return float(np.quantile(generator.binomial(count, rates), LEVEL)) / count


def _draws(state: Floats, groups: Rows) -> Floats:
    """The sums of _DRAWS samples of the groups, with replacement, (draws, columns)."""
    generator, count = np.random.default_rng(_SEED), int(groups.max()) + 1
    of_group = np.zeros((count, state.shape[1]))
    np.add.at(of_group, groups, state)
    at_once = max(1, _DRAWN_AT_ONCE // count)
    parts: list[Floats] = []
    for start in range(0, _DRAWS, at_once):
        rows = min(at_once, _DRAWS - start)
        drawn = generator.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        parts.append(times @ of_group)
    return np.concatenate(parts)


def _spread(state: Floats, ratio: Ratio, folds: Rows, value: float, variance: float) -> float:
    """Standard deviation between what is promised and what will be used, beyond the chance in prompts.

    What will be used is made of all prompts, and each fold's model or limit is that with a part taken away:
    it lies amid theirs, about as far from their mean as a mean of so many is from its own. So: the variance
    of the folds' figures, less that of a figure over a fold's share of the prompts, divided by the number of
    folds.
    """
    count = int(folds.max()) + 1
    sums = np.zeros((count, state.shape[1]))
    np.add.at(sums, folds, state)
    of_fold = ratio.of(sums)
    if count < 2 or np.isnan(of_fold).any():
        return 0.0
    between = float(((of_fold - value) ** 2).sum()) / (count - 1) - count * variance
    return float(np.sqrt(max(0.0, between) / count))
