"""Each measure against numbers worked out by hand, then what holds for any decisions."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semroute.config import load_config
from semroute.decision import Decision, Neighbor
from semroute.errors import ConfigError
from semroute.evaluate import Case, evaluate, heldout_cases, read_cases
from semroute.summary import summary

NAMES = ("a", "b", "c", "idle")


def decision(route, confidence=0.9, best=None, reason="match", scored=True, neighbors=()):
    scores = {best or route: confidence} if scored else {}
    return Decision(
        "id", route, "m", (), reason, confidence, 0.5, 0.1, neighbors, (), None, "i", 0.0, scores, "Why."
    )


class Prepared:
    """A router that answers with the decision that is the prompt."""

    index = SimpleNamespace(route_names=NAMES, fingerprint="sha256:0")

    def __init__(self):
        self.batches = []

    def route_many(self, prompts):
        self.batches.append(len(prompts))
        return list(prompts)


def evaluated(*pairs):
    """The evaluation of (label, decision) pairs."""
    return evaluate(Prepared(), [Case(made, label, "f", n) for n, (label, made) in enumerate(pairs, 1)])


WORKED = (
    ("a", decision("a")),
    ("a", decision("a")),
    ("a", decision("b")),
    ("a", decision(None, best="a", reason="too_far")),
    ("b", decision("b")),
    ("b", decision(None, best="c", reason="low_confidence")),
    (None, decision(None, best="a", reason="too_far")),
    (None, decision("b")),
)


def test_counts_and_shares():
    found = evaluated(*WORKED)
    assert (found.cases, found.in_scope, found.out_of_scope) == (8, 6, 2)
    assert found.accuracy == 4 / 8
    assert found.top1 == pytest.approx(4 / 6)
    assert found.right_of_served == 3 / 4
    assert found.refused_in_scope == pytest.approx(2 / 6) and found.coverage == pytest.approx(4 / 6)
    assert found.refused_out_of_scope == 1 / 2
    assert found.reasons == {"match": 5, "too_far": 2, "low_confidence": 1}
    assert [wrong.case.line for wrong in found.wrong] == [3, 4, 6, 8]


def test_the_result_of_each_route():
    found = evaluated(*WORKED)
    a, b, c, idle = found.routes
    assert a[:6] == ("a", 4, 2, 1, {"b": 1}, 2) and (a.recall, a.precision) == (0.5, 1.0)
    assert a.f1 == pytest.approx(2 / 3)
    assert b[:6] == ("b", 2, 1, 1, {}, 3) and (b.recall, b.precision) == (0.5, pytest.approx(1 / 3))
    assert b.f1 == pytest.approx(2 / 5)
    assert c == ("c", 0, 0, 0, {}, 0, None, None, None) and idle[1:] == c[1:]
    assert found.default[:6] == (None, 2, 1, 0, {"b": 1}, 3) and found.default.recall == 0.5
    assert found.macro_f1 == pytest.approx((2 / 3 + 2 / 5) / 2)


def test_a_route_that_only_took_from_others_pulls_macro_f1_down():
    found = evaluated(("a", decision("a")), ("a", decision("c")))
    assert found.macro_f1 == pytest.approx((2 / 3 + 0) / 2)


def test_most_lost_stand_first():
    found = evaluated(("a", decision("b")), ("a", decision("c")), ("a", decision("c")))
    assert list(found.routes[0].lost.items()) == [("c", 2), ("b", 1)]


def test_calibration_error_and_brier_by_hand():
    found = evaluated(
        ("a", decision("a", 0.95)),
        ("a", decision("b", 0.95)),
        ("a", decision(None, 0.35, best="a", reason="low_confidence")),
        (None, decision(None, 0.25, best="a", reason="too_far")),
    ).calibration
    # The bins of 0.95 (twice, half right), 0.35 (right) and 0.25 (never right, being out of scope).
    assert found.error == pytest.approx((2 * 0.45 + 0.65 + 0.25) / 4)
    assert found.brier == pytest.approx((0.05**2 + 0.95**2 + 0.65**2 + 0.25**2) / 4)
    assert found.auroc == 1.0
    assert [one.decisions for one in found.bins] == [0, 0, 0, 1, 0, 1, *[0] * 8, 2]
    assert (found.bins[14].confidence, found.bins[14].right) == (pytest.approx(0.95), 0.5)
    assert (found.bins[0].confidence, found.bins[0].right) == (None, None)


@pytest.mark.parametrize(
    ("confidence", "place"), [(0.0, 0), (1 / 15, 0), (1 / 15 + 1e-9, 1), (0.2, 2), (0.6, 8), (1.0, 14)]
)
def test_a_bin_holds_its_upper_edge(confidence, place):
    bins = evaluated(("a", decision("a", confidence))).calibration.bins
    assert [one.decisions for one in bins].index(1) == place and len(bins) == 15


def test_decisions_without_scores_say_nothing_about_calibration():
    found = evaluated(
        ("a", decision("a", 1.0, reason="rule", scored=False)),
        (None, decision(None, 0.0, reason="empty_prompt", scored=False)),
        ("b", decision("b", 0.9)),
    )
    assert (found.calibration.decisions, found.accuracy, found.top1) == (1, 1.0, 1.0)
    assert found.calibration.error == pytest.approx(0.1) and found.calibration.auroc is None


def test_auroc_counts_ties_half():
    inside = [("a", decision("a", value)) for value in (0.9, 0.5, 0.2)]
    outside = [(None, decision("a", value)) for value in (0.5, 0.3)]
    # Of six pairs: 0.9 beats both, 0.5 ties once and beats once, 0.2 beats none.
    assert evaluated(*inside, *outside).calibration.auroc == pytest.approx(3.5 / 6)


def test_nothing_to_evaluate_is_no_share():
    found = evaluated()
    assert (found.cases, found.accuracy, found.macro_f1, found.coverage) == (0, None, None, None)
    assert found.calibration.error is None and found.wrong == ()


def test_of_a_wrong_prompt_three_neighbours_are_kept():
    near = tuple(Neighbor("b", str(number), 0.5) for number in range(5))
    (wrong,) = evaluated(("a", decision("b", neighbors=near))).wrong
    assert (wrong.found, wrong.reason, wrong.detail, wrong.neighbors) == ("b", "match", "Why.", near[:3])


def test_batches_and_progress():
    router, said = Prepared(), []
    cases = [Case(decision("a"), "a")] * 1030
    assert evaluate(router, cases, lambda *done: said.append(done)).accuracy == 1.0
    assert sorted(router.batches) == [256, 262, 512]
    assert said == [(256, 1030), (768, 1030), (1030, 1030)]


def test_unknown_labels_are_refused_all_at_once():
    with pytest.raises(ConfigError) as caught:
        evaluate(Prepared(), [Case("x", "idel", "f", 3), Case("x", "a"), Case("x", "q", "f", 9)])
    assert [(one.file, one.line) for one in caught.value.problems] == [("f", 3), ("f", 9)]
    assert "did you mean `idle`" in str(caught.value)


def test_a_route_that_came_with_a_reload_is_an_error_like_any_other():
    found = evaluated(("a", decision("new")), (None, decision("new")))
    assert found.routes[-1].route == "new" and found.routes[0].lost == {"new": 1}


labels = st.sampled_from([None, "a", "b", "c"])
decisions = st.builds(
    decision, labels, st.floats(0, 1), st.sampled_from(["a", "b", "c"]), scored=st.booleans()
)
many = st.lists(st.tuples(labels, decisions), min_size=1, max_size=30)


@given(many)
def test_shares_are_shares_and_counts_add_up(pairs):
    found = evaluated(*pairs)
    shares = [found.accuracy, found.top1, found.right_of_served, found.coverage, found.refused_out_of_scope]
    shares += [found.macro_f1, *found.calibration[1:4]]
    shares += [share for one in (*found.routes, found.default) for share in one[-3:]]
    assert all(share is None or 0.0 <= share <= 1.0 + 1e-12 for share in shares)
    for one in (*found.routes, found.default):
        assert one.cases == one.right + one.refused + sum(one.lost.values())
    assert sum(one.served for one in (*found.routes, found.default)) == found.cases == len(pairs)
    assert sum(one.right for one in (*found.routes, found.default)) == found.cases - len(found.wrong)
    assert sum(one.decisions for one in found.calibration.bins) == found.calibration.decisions
    assert sum(found.reasons.values()) == found.cases


@given(many, st.randoms())
def test_the_order_of_the_cases_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, other = (evaluated(*some).to_dict() for some in (pairs, shuffled))
    key = str
    for found in (one, other):
        for row in found["wrong"]:
            del row["line"]
        found["wrong"].sort(key=key)
        for row in found["routes"]:
            row["lost"] = dict(sorted(row["lost"].items()))
    assert str(one).replace("-0.0", "0.0") == str(other).replace("-0.0", "0.0")


@given(many)
def test_auroc_is_the_share_of_pairs(pairs):
    found = evaluated(*pairs).calibration.auroc
    scored = [(label, made.confidence) for label, made in pairs if made.scores]
    inside = [value for label, value in scored if label is not None]
    outside = [value for label, value in scored if label is None]
    wins = [(high > low) + (high == low) / 2 for high in inside for low in outside]
    assert found == (pytest.approx(sum(wins) / len(wins)) if wins else None)


@given(many)
def test_the_json_is_plain_json(pairs):
    found = evaluated(*[(label, made) for label, made in pairs if made.route == label])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


def test_heldout_lists_become_cases(write_project):
    billing = {"utterances": ["x"], "heldout": ["p", "q"]}
    default = {"model": "big", "heldout": ["r"]}
    config = load_config(write_project({"billing": billing}, {"default": default}))
    assert heldout_cases(config) == [
        Case("p", "billing", "billing.heldout", 1),
        Case("q", "billing", "billing.heldout", 2),
        Case("r", None, "default.heldout", 1),
    ]


def test_the_column_is_that_of_the_value(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_text('{ "note": {"route": "a,:}"}, "route"  :  "nope", "prompt": "\\u00e9 \\"route\\": "}')
    with pytest.raises(ConfigError) as caught:
        read_cases(str(file), NAMES)
    (problem,) = caught.value.problems
    assert file.read_text()[problem.column - 1 :].startswith('"nope"')


def test_the_summary_fits_its_width_and_loses_nothing_without_one():
    near = (Neighbor("b", "u" * 300, 0.5),)
    made = [("a", decision("b", neighbors=near)), ("b", decision("b"))]
    cases = [Case(one, label, "f", n) for n, (label, one) in enumerate(made, 1)]
    found = evaluate(Prepared(), cases)
    texts = [wrong._replace(case=wrong.case._replace(prompt="word " * 100)) for wrong in found.wrong]
    object.__setattr__(found, "wrong", tuple(texts))
    from rich.text import Text

    fitted = [Text.from_markup(line).plain for line in summary(found, 20, 100)]
    assert max(map(len, fitted)) <= 100
    whole = "\n".join(summary(found, 20, None))
    assert "u" * 300 in whole and "word " * 99 in whole
    assert math.isclose(found.accuracy or 0.0, 0.5) and "accuracy 50.0%" in whole
