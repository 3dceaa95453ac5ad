"""The measures of the field against numbers worked out by hand, then what holds for any data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from semroute.measures import aiq, apgr, call_curve, cost_save, cpt, hull, pgr

# Four prompts: the strong model gains 1, 0, 1 and loses 1; the weak one has 0.25, the strong one 0.5.
WEAK, STRONG = [0, 0, 0, 1], [1, 0, 1, 0]


def test_pgr():
    assert pgr(0.7, 0.5, 0.9) == pytest.approx(0.5)
    assert pgr(0.5, 0.5, 0.9) == 0.0 and pgr(0.9, 0.5, 0.9) == 1.0
    assert pgr(0.4, 0.5, 0.9) == pytest.approx(-0.25) and pgr(1.0, 0.5, 0.9) == pytest.approx(1.25)


@pytest.mark.parametrize("weak, strong", [(0.5, 0.5), (0.6, 0.5), (float("nan"), 0.5)])
def test_without_a_gap_there_is_nothing_to_recover(weak, strong):
    with pytest.raises(ValueError, match="not better"):
        pgr(0.5, weak, strong)


def test_the_call_curve_of_a_perfect_order():
    curve = call_curve([4, 2, 3, 1], WEAK, STRONG)
    assert curve.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    # The gains in order are 1, 1, 0, -1, of a gap of 1 in all.
    assert curve.recovered.tolist() == [0, 1, 2, 2, 1]
    # Trapezoids: (0.5 + 1.5 + 2 + 1.5) / 4.
    assert apgr(curve) == pytest.approx(1.375)
    assert cpt(curve, 0.5) == 0.25 and cpt(curve, 1.0) == 0.25 and cpt(curve, 0.0) == 0.0


def test_the_call_curve_of_the_worst_order():
    curve = call_curve([1, 3, 2, 4], WEAK, STRONG)
    assert curve.recovered.tolist() == [0, -1, -1, 0, 1]
    assert apgr(curve) == pytest.approx((-0.5 - 1 - 0.5 + 0.5) / 4)
    assert cpt(curve, 0.5) == 1.0


def test_equal_preferences_count_as_a_random_order():
    curve = call_curve([0, 0, 0, 0], WEAK, STRONG)
    assert curve.recovered.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert apgr(curve) == pytest.approx(0.5) and cpt(curve, 0.8) == 1.0 and cpt(curve, 0.5) == 0.5
    # Two levels: of the two that are preferred one gains 1 and one loses 1.
    assert call_curve([1, 0, 0, 1], WEAK, STRONG).recovered.tolist() == [0, 0, 0, 0.5, 1]


def test_a_call_curve_needs_prompts_and_one_number_for_each():
    with pytest.raises(ValueError, match="no prompt"):
        call_curve([], [], [])
    with pytest.raises(ValueError, match="for each prompt"):
        call_curve([1, 2], [0], [1])
    with pytest.raises(ValueError, match="finite"):
        call_curve([np.nan], [0], [1])
    with pytest.raises(ValueError, match="at most 1"):
        cpt(call_curve([1], [0], [1]), 1.1)


def test_the_hull_is_convex_and_does_not_decrease():
    # (2, 0.4) lies below the line from (1, 0.2) to (3, 0.8), (4, 0.7) costs more than a better one.
    costs, qualities = hull([4, 2, 1, 3, 1], [0.7, 0.4, 0.2, 0.8, 0.1])
    assert costs.tolist() == [1, 3] and qualities.tolist() == [0.2, 0.8]


def test_aiq():
    # From (1, 0.2) up to (3, 0.8), then level to 5: (0.5 * 2 + 0.8 * 2) / 4.
    assert aiq([1, 3], [0.2, 0.8], 1, 5) == pytest.approx(0.65)
    assert aiq([1, 3, 4], [0.2, 0.8, 0.1], 1, 5) == pytest.approx(0.65)
    # Nothing can be had for less than 1; half the way up at 2.
    assert aiq([1, 3], [0.2, 0.8], 0, 2) == pytest.approx((0.2 + 0.5) / 2 / 2)
    assert aiq([1], [0.6], 1, 2) == pytest.approx(0.6)
    assert aiq([3], [0.6], 1, 2) == 0.0
    with pytest.raises(ValueError, match="width"):
        aiq([1], [1], 2, 2)
    with pytest.raises(ValueError, match="a point"):
        aiq([], [], 0, 1)


def test_cost_save():
    singles = [1.0, 10.0], [0.5, 0.9]
    assert cost_save([2, 4, 9], [0.85, 0.9, 0.95], *singles) == pytest.approx(0.6)
    assert cost_save([2], [0.85], *singles) == 0.0
    assert cost_save([12], [0.95], *singles) == 0.0
    assert cost_save([], [], *singles) == 0.0
    # Of two best ones the cheaper is what is saved against.
    assert cost_save([2], [0.9], [10, 4], [0.9, 0.9]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="nothing to save"):
        cost_save([1], [1], [0.0], [1.0])
    with pytest.raises(ValueError, match="single model"):
        cost_save([1], [1], [], [])


SCORES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=30,
)


@given(SCORES, st.randoms(use_true_random=False))
def test_of_any_call_curve(rows, random):
    preference, weak, strong = np.array(rows, float).T
    assume(strong.mean() > weak.mean() + 1e-9)
    curve = call_curve(preference, weak, strong)
    assert curve.recovered[0] == 0.0 and curve.recovered[-1] == pytest.approx(1.0)
    # The order of the prompts, and any increasing change of the preference, change nothing.
    random.shuffle(rows)
    again = call_curve(*np.array(rows, float).T)
    assert again.recovered == pytest.approx(curve.recovered, abs=1e-9)
    assert call_curve(np.exp(preference), weak, strong).recovered == pytest.approx(curve.recovered, abs=1e-9)
    # The best order is no worse than this one, and the reverse mirrors it around random.
    best = call_curve(strong - weak, weak, strong)
    assert apgr(best) >= apgr(curve) - 1e-9
    assert apgr(call_curve(-preference, weak, strong)) == pytest.approx(1.0 - apgr(curve), abs=1e-9)
    targets = [cpt(curve, target) for target in (0.1, 0.5, 0.8, 1.0)]
    assert targets == sorted(targets) and targets[0] > 0.0 and targets[-1] <= 1.0


POINTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), min_size=1, max_size=20)


@given(POINTS, st.randoms(use_true_random=False))
def test_of_any_points(points, random):
    costs, qualities = np.array(points, float).T
    qualities /= 10.0
    xs, ys = hull(costs, qualities)
    assert (np.diff(xs) > 0).all() and (np.diff(ys) > 0).all()
    assert (np.diff(np.diff(ys) / np.diff(xs)) < 0).all()
    assert ys[-1] == qualities.max() and xs[0] == costs.min()
    above = costs >= xs[0]
    assert (np.interp(costs[above], xs, ys) >= qualities[above] - 1e-9).all()
    area = aiq(costs, qualities, 0.0, 20.0)
    assert 0.0 <= area <= qualities.max() + 1e-9
    # A further point never makes it less; the unit of cost and the order of the points do not matter.
    more = aiq([*costs, 5.0], [*qualities, 0.4], 0.0, 20.0)
    assert more >= area - 1e-9
    random.shuffle(points)
    shuffled = np.array(points, float).T
    assert aiq(shuffled[0] * 3, shuffled[1] / 10, 0.0, 60.0) == pytest.approx(area)


@given(POINTS, POINTS)
def test_a_saving_is_a_share(points, singles):
    costs, qualities = np.array(points, float).T
    single_costs, single_qualities = np.array(singles, float).T + 1.0
    saving = cost_save(costs, qualities, single_costs, single_qualities)
    assert 0.0 <= saving <= 1.0
    assert cost_save(costs * 7, qualities, single_costs * 7, single_qualities) == pytest.approx(saving)
    assert cost_save([*costs, 3.0], [*qualities, 4.0], single_costs, single_qualities) >= saving
