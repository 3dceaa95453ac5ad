"""Intervals, floors, comparison and robustness: against numbers worked out otherwise, and on real indexes."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
from test_evaluate import NAMES, WORKED, Prepared, decision, evaluated

from semroute import bootstrap, load
from semroute.assess import assess
from semroute.build import build_index
from semroute.compare import compare, mcnemar
from semroute.config import Floors
from semroute.decision import Candidate, Decision
from semroute.errors import ConfigError
from semroute.evaluate import Case, _Tally, evaluate
from semroute.floors import Floor, check_floors
from semroute.perturb import PERTURBATIONS, two_typos, typo
from semroute.robustness import EXPENSIVE_FIRST, robustness

# intervals -----------------------------------------------------------------------------------------------------


def test_an_interval_is_that_of_the_binomial():
    cases = [("a", decision("a"))] * 90 + [("a", decision(None, best="b"))] * 10
    found = evaluated(*cases).intervals
    spread = 1.96 * (0.9 * 0.1 / 100) ** 0.5
    assert found["accuracy"] == pytest.approx((0.9 - spread, 0.9 + spread), abs=0.012)
    assert found["coverage"] == found["accuracy"] and found["top1"] == found["accuracy"]
    assert found["refused_in_scope"] == pytest.approx([1 - end for end in reversed(found["coverage"])])
    assert "refused_out_of_scope" not in found
    assert bootstrap.of_share(90, 100) == pytest.approx(found["accuracy"], abs=0.012)


def test_intervals_are_those_of_drawing_the_cases_themselves_again():
    generator = np.random.default_rng(7)
    expected = generator.integers(0, 6, 300)
    found = np.where(generator.random(300) < 0.8, expected, generator.integers(0, 6, 300))
    measured = []
    for draw in range(2001):
        rows = np.arange(300) if draw == 0 else generator.integers(0, 300, 300)
        scores = [
            2 * np.sum((expected[rows] == route) & (found[rows] == route))
            / (np.sum(expected[rows] == route) + np.sum(found[rows] == route))
            for route in range(1, 6)
        ]  # fmt: skip
        measured.append(np.mean(scores))
    seen, drawn = measured[0], bootstrap.of_labels(expected, found, found)["macro_f1"]
    bias = np.mean(measured) - seen
    assert drawn == pytest.approx(np.percentile(measured, [2.5, 97.5]) - bias, abs=0.01)


@pytest.mark.parametrize(("routes", "cases"), [(150, 2), (150, 5), (3, 1)])
def test_macro_f1_lies_in_its_interval_where_routes_are_many_and_cases_few(routes, cases):
    generator = np.random.default_rng(0)
    names = [f"r{number}" for number in range(routes)]
    for _ in range(5):
        said = [
            (name, name if generator.random() < 0.5 else str(generator.choice(names)))
            for name in names * cases
        ]
        tally = _Tally(names)
        for label, got in said:
            tally.add(Case("x", label), decision(got))
        found = tally.evaluation("index")
        low, high = found.intervals["macro_f1"]
        assert 0.0 <= low <= found.macro_f1 <= high <= 1.0


def test_the_interval_of_the_calibration_error_is_about_what_was_found():
    generator = np.random.default_rng(3)
    confidence = generator.random(3000)
    made = [
        ("a", decision("a" if right else "b", value))
        for value, right in zip(confidence.tolist(), generator.random(3000) < confidence, strict=True)
    ]
    found = evaluated(*made)
    low, high = found.intervals["calibration_error"]
    assert low < found.calibration.error < high < 0.05


def test_ten_thousand_cases_take_less_than_half_a_second():
    generator = np.random.default_rng(1)
    expected = generator.integers(0, 151, 10_000)
    found = np.where(generator.random(10_000) < 0.9, expected, generator.integers(0, 151, 10_000))
    confidence = generator.random(10_000)
    bins = np.minimum((confidence * 15).astype(np.int64), 14)
    times = []
    for _ in range(3):
        started = time.process_time()
        bootstrap.of_labels(expected, found, found)
        bootstrap.of_calibration(bins, confidence, generator.random(10_000) < confidence)
        times.append(time.process_time() - started)
    assert min(times) < 0.5


def test_the_same_cases_give_the_same_intervals_and_none_gives_none():
    assert evaluated(*WORKED).intervals == evaluated(*WORKED).intervals
    assert evaluated().intervals == {}


# confusion, probes, models -------------------------------------------------------------------------------------


def test_the_confusion_holds_every_case():
    found = evaluated(*WORKED).confusion
    assert {(label, got): count for label, got, count in found} == {
        ("a", "a"): 2, ("a", "b"): 1, ("a", None): 1, ("b", "b"): 1, ("b", None): 1, (None, None): 1, (None, "b"): 1,
    }  # fmt: skip
    assert found[0] == ("a", "a", 2)


def served_by(route, model, *, shadow=None, candidates=()):
    return Decision(
        "id", route, model, (), "match", 0.9, 0.5, 0.1, (), candidates, None, "i", 0.0, {"a": 0.9}, "Why.",
        shadow=shadow,
    )  # fmt: skip


class Knowing(Prepared):
    """A prepared router whose settings name two models."""

    index = SimpleNamespace(
        route_names=NAMES,
        fingerprint="sha256:0",
        config=SimpleNamespace(settings=SimpleNamespace(models={"small": None, "big": None}, floors=None)),
    )


def test_a_case_may_expect_a_model_alone():
    cases = [
        Case(served_by("a", "big"), None, "f", 1, model="big", tags=("smoke",), any_route=True),
        Case(served_by("b", "small"), None, "f", 2, model="big", tags=("smoke", "slow"), any_route=True),
        Case(served_by("a", "small"), "a", "f", 3, model="big"),
        Case(served_by("b", "big"), "a", "f", 4, model="big", tags=("slow",)),
    ]
    found = evaluate(Knowing(), cases)
    assert (found.cases, found.accuracy) == (2, 0.5)
    assert (found.model_cases, found.model_right) == (4, 2)
    assert [wrong.case.line for wrong in found.wrong] == [4]
    assert [(wrong.case.line, wrong.model) for wrong in found.wrong_models] == [(2, "small"), (3, "small")]
    assert [one[:4] for one in found.tags] == [("slow", 2, 0, 0.0), ("smoke", 2, 1, 0.5)]
    assert [one.passed for one in found.results] == [True, False, False, False]
    assert found.models == {"big": 2, "small": 2}


def test_a_model_that_is_none_is_refused():
    cases = [Case("x", None, "f", 3, model="smal", any_route=True)]
    with pytest.raises(ConfigError, match="unknown model `smal`; did you mean `small`"):
        evaluate(Knowing(), cases)


def test_what_outcomes_would_change_in_shadow_mode():
    known = (Candidate("small", 0.2, 5.0, 1.0, 5.0), Candidate("big", 0.9, 3.0, 10.0, 50.0))
    priced = (Candidate("small", None, None, 1.0, 5.0),)
    made = [
        served_by("a", "small", shadow="big", candidates=known),
        served_by("a", "small", candidates=priced),
    ]
    found = evaluate(Knowing(), [Case(one, "a") for one in made])
    assert found.shadow.moved == 1
    assert found.shadow.now == (2.0, 1, 0.2, 1) and found.shadow.then == (20.0, 1, 0.9, 1)
    assert found.estimate == (2.0, 2, 0.2, 1)
    assert found.to_dict()["shadow"]["then"]["usd_per_1m"] == 20.0


# floors --------------------------------------------------------------------------------------------------------


def test_floors_hold_or_say_what_was_found_and_by_how_much():
    evaluation = evaluated(*[("a", decision("a", 1.0))] * 93, *[("a", decision("b", 1.0))] * 7)
    held = check_floors(evaluation, Floors(accuracy=0.93, top1=0.93, max_calibration_error=0.07))
    assert all(floor.holds for floor in held)
    (missed,) = check_floors(evaluation, Floors(accuracy=0.95))
    assert not missed.holds and missed.interval == evaluation.intervals["accuracy"]
    assert "accuracy must be at least 0.95 and is 0.9300" in str(missed) and "0.02 below" in str(missed)
    (above,) = check_floors(evaluation, Floors(max_calibration_error=0.01))
    assert not above.holds and "at most 0.01" in str(above) and "0.06 above" in str(above)


def test_a_share_that_floats_put_a_hair_below_its_floor_holds():
    evaluation = evaluated(*[("a", decision("a"))] * 93, *[("a", decision(None, best="a"))] * 7)
    assert evaluation.coverage < 0.93
    assert check_floors(evaluation, Floors(coverage=0.93))[0].holds


def test_what_no_case_measures_does_not_hold():
    evaluation = evaluated(("a", decision("a")))
    floors = check_floors(evaluation, Floors(refused_out_of_scope=0.0, tags={"smoke": 0.5}))
    assert [floor.name for floor in floors if not floor.holds] == ["refused_out_of_scope", "tags.smoke"]
    assert "no case measures it" in str(floors[0])
    assert [one.name for one in check_floors(evaluation, Floors(tags={"smoke": 0.5}), tags=False)] == []


def test_a_floor_of_a_tag_is_its_pass_rate():
    cases = [Case(decision(route), "a", tags=("smoke",)) for route in ("a", "a", "b", "a")]
    (floor,) = check_floors(evaluate(Prepared(), cases), Floors(tags={"smoke": 0.75}))
    assert floor[:3] == ("tags.smoke", 0.75, 0.75) and floor.holds and floor.cases == 4
    assert Floor("tags.smoke", 1.0, 0.75, (0.2, 1.0), 4).to_dict()["holds"] is False


def test_floors_are_no_part_of_what_an_index_is_built_from(write_project, tmp_path):
    first = build_index(write_project(), tmp_path / "index")
    routes = write_project(settings={"floors": {"accuracy": 0.5, "tags": {"smoke": 1}}})
    again = build_index(routes, tmp_path / "index")
    assert (again.embedded, again.unchanged) == (0, False)
    assert again.index.fingerprint == first.index.fingerprint
    assert again.index.manifest.files["fitted"] == first.index.manifest.files["fitted"]
    assert load(tmp_path / "index").index.config.settings.floors == Floors(accuracy=0.5, tags={"smoke": 1.0})
    assert build_index(routes, tmp_path / "index").unchanged


def test_a_changed_floor_makes_an_index_stale_by_name(write_project, tmp_path):
    from semroute.build import check_index

    build_index(write_project(), tmp_path / "index")
    routes = write_project(settings={"floors": {"accuracy": 0.5}})
    assert [change.split(":")[0] for change in check_index(routes, tmp_path / "index")] == ["floors"]
    build_index(routes, tmp_path / "index")
    assert check_index(routes, tmp_path / "index") == []
    routes = write_project(settings={"floors": {"accuracy": 0.6}})
    assert check_index(routes, tmp_path / "index") == ["floors.accuracy: 0.5 -> 0.6"]
    assert [change.split(":")[0] for change in check_index(write_project(), tmp_path / "index")] == ["floors"]


def test_floors_that_are_none_are_named_with_their_place(write_project):
    from semroute.config import load_config

    with pytest.raises(ConfigError) as caught:
        load_config(
            write_project(settings={"floors": {"acuracy": 0.5, "coverage": 2, "tags": {"smoke": "all"}}})
        )
    said = str(caught.value)
    assert "did you mean `accuracy`" in said and "at most 1" in said and "must be a number" in said


# comparison ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(0, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (1, 1, 1.0), (10, 2, 0.03857421875)],
)
def test_mcnemar_is_the_exact_binomial_test(better, worse, p):
    assert mcnemar(better, worse) == pytest.approx(p)


def test_two_evaluations_prompt_by_prompt():
    labels = ["a", "a", "b", None]
    cases = [Case(number, label, "f", number) for number, label in enumerate(labels)]
    before, after = (
        evaluate(Answering(dict(enumerate(routes))), cases)
        for routes in (["a", "b", "a", None], ["b", "a", "c", None])
    )
    found = compare(before, after)
    assert [(one.after.case.line, one.verdict) for one in found.changed] == [
        (0, "worse"),
        (1, "better"),
        (2, "same"),
    ]
    assert (found.better, found.worse, found.p_value) == (1, 1, 1.0)
    assert [row["verdict"] for row in found.to_dict()["cases"]] == ["worse", "better", "same"]
    assert [one.verdict for one in found.worst_first] == ["worse", "better", "same"]
    with pytest.raises(ValueError, match="same cases"):
        compare(before, evaluate(Answering({1: "a"}), [Case(1, "a")] * 4))


class Answering(Prepared):
    """A router that answers prompt n with the n-th route."""

    def __init__(self, routes):
        super().__init__()
        self.routes = routes

    def route_many(self, prompts):
        return [decision(self.routes[prompt], best="a") for prompt in prompts]


@pytest.fixture
def old_and_new(write_project, tmp_path):
    """Two indexes of which each has a route that the other lacks."""
    from conftest import ROUTES

    build_index(write_project(), tmp_path / "old")
    build_index(
        write_project({**ROUTES, "smalltalk": ["what a nice day", "tell me a joke"],
                       "greeting": ROUTES["smalltalk"]}, {"floors": {"accuracy": 1.0}}),
        tmp_path / "new",
    )  # fmt: skip
    return load(tmp_path / "old"), load(tmp_path / "new")


def test_an_index_against_another_with_labels_of_either(old_and_new):
    old, new = old_and_new
    cases = [Case("hello there", "greeting", "f", 1), Case("where is my refund", "billing", "f", 2)]
    found = assess(new, cases, baseline=old)
    assert found.evaluation.accuracy == 1.0 and found.missed == ()
    assert found.comparison is not None and found.comparison.baseline.accuracy == 0.5
    (changed,) = found.comparison.changed
    assert (changed.verdict, changed.before.route, changed.after.route) == ("better", "smalltalk", "greeting")
    back = assess(old, cases, baseline=new)
    assert back.comparison is not None and (back.comparison.better, back.comparison.worse) == (0, 1)
    with pytest.raises(ConfigError, match="unknown route `greeting`"):
        assess(old, cases)


# robustness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_is_the_same_for_the_same_seed_and_takes_any_text(name):
    perturb = PERTURBATIONS[name]
    for text in ("where is my refund?", "", "   ", "7", "żółć", "a\n\nb", "😀"):
        assert perturb(text, random.Random(3)) == perturb(text, random.Random(3))


def test_a_slip_is_one_edit_in_a_long_word():
    for seed in range(50):
        slipped = typo("is it a refund", random.Random(seed), 5)
        assert slipped.startswith("is it a ") and slipped != "is it a refund"
        assert abs(len(slipped) - len("is it a refund")) <= 1
    assert typo("is it a", random.Random(0), 5) == "is it a"
    assert two_typos("refund", random.Random(1)) != "refund"


def test_robustness_of_a_real_index(write_project, tmp_path):
    from conftest import ROUTES

    routes = {name: {"utterances": texts} for name, texts in ROUTES.items()}
    routes["coding"] |= {"models": ["big"]}
    build_index(write_project(routes), tmp_path / "index")
    router = load(tmp_path / "index")
    cases = [Case(text, name) for name, texts in ROUTES.items() for text in texts]
    cases += [Case([{"role": "user", "content": "Where is my REFUND"}], "billing"), Case("", None)]
    evaluation = evaluate(router, cases)
    found = {one.perturbation: one for one in robustness(router, evaluation)}
    assert set(found) == {*PERTURBATIONS, EXPENSIVE_FIRST}
    for steady in ("upper case", "lower case", "question mark"):
        assert (found[steady].flips, found[steady].accuracy) == (0.0, evaluation.accuracy)
    forced = found[EXPENSIVE_FIRST]
    assert (forced.cases, forced.texts) == (14, 13)
    assert forced.upgrades > 0.2 and forced.flips >= forced.upgrades > forced.downgrades == 0.0
    robustness(router, evaluate(router, [Case("half \ud800", "billing")]))  # as Python may hold it
    again = robustness(router, evaluation)
    assert [one.to_dict() for one in again] == [one.to_dict() for one in found.values()]
    assert robustness(router, evaluation, seed=1)[0].cases == 14


def test_without_prices_nothing_is_dearer(write_project, tmp_path):
    build_index(write_project(settings={"models": {"small": {}, "big": {}}}), tmp_path / "index")
    router = load(tmp_path / "index")
    found = robustness(router, evaluate(router, [Case("where is my refund", "billing")]))
    assert [one.perturbation for one in found] == list(PERTURBATIONS)
    assert all(one.upgrades is None and one.downgrades is None for one in found)
