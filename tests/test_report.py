"""The report: what is on the page, what must not be, and that a browser shows it without the network."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from datetime import date
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import Browser
from typer.testing import CliRunner

from semroute.build import build_index
from semroute.cli import app
from semroute.decision import Decision
from semroute.decisionlog import LoggedDecision
from semroute.decisionlog.savings import savings
from semroute.errors import ConfigError
from semroute.escalations.importing import GradedPrompt
from semroute.evaluate import Case, heldout_cases
from semroute.report import gather, render
from semroute.report.coverage import curve
from semroute.report.layout import between, layout, positions
from semroute.report.savings import saved_over_time
from semroute.report.spreadsheet import cell, wrong_csv
from semroute.router import Router

EVIL = [
    "</script><img src=x onerror=alert(1)>",
    "</style><svg onload=alert(2)>",
    "<!-- <script> & 'quotes' \"double\"",
    "line\u2028separator\u2029paragraph",
    "\u202eevil\u202c right to left",
    "{{ 7 * 7 }} ${7*7}",
    "a" * 5_000,
]
ROUTES = {
    "billing": {
        "utterances": ["where is my refund", "cancel my subscription", "my card was charged twice"],
        "heldout": ["i want my money back", "charged two times"],
        "models": ["small", "big"],
    },
    "coding": {
        "utterances": ["write a python function", "fix this bug in my code", "explain this stack trace"],
        "heldout": ["my code is broken", "sort a list in python"],
    },
    "evil": {
        "utterances": EVIL,
        "heldout": ["</textarea><script>alert(3)</script>", '=HYPERLINK("http://example.com")'],
        "description": "</title><b onmouseover=alert(4)>bold</b>",
    },
}
MODELS = {
    "small": {"prompt_usd_per_1m": 1.0, "completion_usd_per_1m": 5.0, "quality": 0.6},
    "big": {"prompt_usd_per_1m": 4.0, "completion_usd_per_1m": 20.0, "quality": 0.9},
}
SETTINGS = {"default": {"model": "big", "heldout": ["what is the airspeed of a swallow"]}, "models": MODELS}


def logged(time, model, usd=None, **said) -> LoggedDecision:
    """A call of 1,000 and 100 tokens, for which `usd` was paid, and the big model would cost 0.006."""
    told = {"prompt_tokens": 1_000, "completion_tokens": 100, "attempts": 1, "served_by": model} | said
    return LoggedDecision(
        **{"id": "", "time": time, "route": None, "best": None, "model": model, "reason": "match"},
        **{"rule": None, "confidence": 1.0, "similarity": None, "margin": None, "candidates": ()},
        **{"fallbacks": (), "shadow": None, "index": "", "elapsed_ms": 0.0, "usd": usd},
        **told,
    )


def router_of(write_project, tmp_path, routes=None, settings=None):
    folder = write_project(ROUTES if routes is None else routes, SETTINGS | (settings or {}))
    build_index(folder, tmp_path / "index")
    return Router.load(tmp_path / "index")


@pytest.fixture
def router(write_project, tmp_path):
    return router_of(write_project, tmp_path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def page_of(router, cases=None, log=None):
    return render(gather(router, heldout_cases(router.index.config) if cases is None else cases, log))


class Tags(HTMLParser):
    """Every tag with its attributes, the text of each script, and the text beside."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts, self.text, self._in = [], [], [], None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        (self.scripts if self._in == "script" else self.text).append(data)


def data_of(page):
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(block[1])


# What users wrote


def test_what_users_wrote_is_text_everywhere(router):
    page = page_of(router)
    parsed = Tags(page)
    known = (
        "a b bdi body button circle code dd details div dl dt em footer h1 h2 h3 head header html i input label li "
        "link main meta nav noscript ol option p path q rect script section select span strong style summary svg "
        "table tbody td th thead title tr ul"
    )
    assert {tag for tag, _ in parsed.tags} <= set(known.split())
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert sum(tag == "script" for tag, _ in parsed.tags) == 3
    assert EVIL[0] in data_of(page)["map"]["utterances"]["text"]
    assert "</title><b onmouseover=alert(4)>bold</b>" in " ".join(parsed.text)


def test_nothing_in_the_block_of_data_can_end_it_or_turn_the_text_around(router):
    page = page_of(router)
    block = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert block.isascii()
    assert not set(block) & set("<>&")
    assert "\u202e" not in page
    assert "\u2028" not in page


def test_long_texts_are_cut(router):
    assert max(map(len, data_of(page_of(router))["map"]["utterances"]["text"])) <= 200


def test_a_prompt_that_no_utf_8_holds_is_shown_all_the_same(router):
    page = page_of(router, [Case("half \ud800 a pair", "billing"), Case([{"role": "user"}], None)])
    assert "half � a pair" in page
    page.encode()


def test_spreadsheets_take_no_cell_for_a_formula(router):
    report = gather(router, [Case('=HYPERLINK("http://example.com")', "billing"), Case("+1", "coding")])
    rows = list(csv.DictReader(io.StringIO(wrong_csv(report.evaluation.wrong))))
    assert rows
    assert all(row["prompt"].startswith(("'=", "'+")) for row in rows)
    assert [cell(text) for text in ("=1", "+1", "-1", "@a", "\tx", "＝1", "fine")] == [
        "'=1", "'+1", "'-1", "'@a", "'\tx", "'＝1", "fine",
    ]  # fmt: skip


def test_a_case_about_a_model_alone_says_nothing_of_routes(router):
    about_model = Case("my refund, where is it", None, "f", 1, "big", ("smoke",), any_route=True)
    labelled = [Case("where is my refund", "billing"), about_model]
    alone, both = (gather(router, cases) for cases in (labelled[:1], labelled))
    assert both.curve == alone.curve
    (wrong,) = both.evaluation.wrong_models
    page = render(both)
    assert "1 prompt of 1 that expect a model" in page and "<bdi>smoke</bdi>" in page
    assert "2 cases: 1 passed, 1 failed." in page and "best route right</th>" in page
    assert all(one.label == one.found for one in both.map.prompts)
    (row,) = csv.DictReader(io.StringIO(wrong_csv([wrong])))
    assert (row["expected"], row["expected_model"], row["model"]) == ("(any)", "big", "small")
    assert row["tags"] == "smoke"


# What the page may do


def test_the_page_refers_to_nothing_outside_itself(router):
    for tag, attributes in Tags(page_of(router)).tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href", "background"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), (tag, attributes)
        assert "style" not in attributes, (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", page_of(router), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_lets_the_page_fetch_nothing(router):
    policies = [a["content"] for t, a in Tags(page_of(router)).tags if a.get("http-equiv")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policies[0]


def test_the_same_report_is_the_same_page(write_project, tmp_path):
    one = page_of(router_of(write_project, tmp_path))
    assert one == page_of(Router.load(tmp_path / "index"))


# What is on it


def test_each_figure_stands_where_it_says(router):
    report = gather(router, heldout_cases(router.index.config))
    page, data = render(report), data_of(render(report))
    assert report.evaluation.cases == 7
    assert [route["name"] for route in data["routes"]] == ["billing", "coding", "evil"]
    assert len(data["map"]["utterances"]["x"]) == 13
    assert len(data["map"]["prompts"]["x"]) == 7
    assert sorted(data["square"]["routes"]) == [-1, 0, 1, 2]
    assert sum(map(sum, data["square"]["confusion"])) == 7
    assert sum(one[2] for one in data["bins"]) == 7
    assert [one["name"] for one in data["costs"]["models"]] == ["small", "big"]
    for heading in (
        "The map",
        "Overlap and confusion",
        "Confidence",
        "Cost",
        "Past outcomes",
        "Wrong prompts",
        "Routes",
    ):
        assert f">{heading}</h2>" in page


def test_a_report_without_cases_log_or_outcomes_says_how_to_get_them(router):
    page = page_of(router, cases=[])
    assert "There were no labelled prompts" in page
    assert "Add heldout prompts to the routes" in page
    assert "No decision log." in page
    assert "No store of outcomes." in page
    assert data_of(page)["curve"] is None


@pytest.mark.parametrize(
    "routes",
    [{}, {"only": {"utterances": ["one"]}}, {"a": {"description": "nothing but words", "utterances": []}}],
    ids=["no route", "one utterance", "no utterance"],
)
def test_a_report_of_next_to_nothing_is_a_report(write_project, tmp_path, routes):
    settings = {"default": {"models": ["big", "small"], "heldout": ["hello"]}}
    page = page_of(router_of(write_project, tmp_path, routes, settings))
    assert "</html>" in page


def text_of(page):
    return " ".join(" ".join(Tags(page).text).split())


def test_what_is_missing_of_prices_and_qualities_is_named_with_its_models(write_project, tmp_path):
    text = text_of(page_of(router_of(write_project, tmp_path, settings={"models": {"small": {}, "big": {}}})))
    assert "No model has both a price and a quality." in text
    assert "completion_usd_per_1m ): big, small . No quality , and too few" in text
    priced = {name: card | {"quality": None} for name, card in MODELS.items()}
    text = text_of(page_of(router_of(write_project, tmp_path, settings={"models": priced})))
    assert "No price" not in text
    assert "No quality , and too few outcomes to estimate one: big, small ." in text
    some = {**MODELS, "odd": {"quality": 0.5}}
    text = text_of(page_of(router_of(write_project, tmp_path, settings={"models": some})))
    assert "No model has both" not in text and "Not all are shown. No price" in text
    assert "completion_usd_per_1m ): odd ." in text and "No quality" not in text


# The map


def test_like_utterances_stand_near_each_other():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 32))
    vectors = np.repeat(centres, 200, axis=0) + rng.normal(scale=0.4, size=(1_200, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    places = positions(vectors)
    assert places.shape == (1_200, 2)
    assert np.abs(places).max() <= 1.0
    middles = places.reshape(6, 200, 2).mean(axis=1)
    nearest = np.linalg.norm(places[:, None] - middles[None], axis=2).argmin(axis=1)
    assert (nearest == np.repeat(range(6), 200)).mean() > 0.98


@pytest.mark.parametrize("count", [0, 1, 2, 5, 13, 40])
def test_any_number_of_utterances_gets_a_place(count):
    vectors = np.eye(48, dtype=np.float32)[:count]
    assert np.isfinite(positions(vectors)).all()
    assert np.isfinite(positions(np.repeat(vectors[:1], count, axis=0))).all()


@pytest.mark.parametrize("count", [1, 4, 40])
def test_a_vector_of_the_layout_is_placed_where_it_stands(count):
    vectors = np.eye(48, dtype=np.float32)[:count]
    found, places = layout(vectors)
    assert found.place(vectors) == pytest.approx(places, abs=1e-6)


def test_a_prompt_stands_at_its_nearest_utterance_or_between_equals():
    places = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert between(places, [0.9, 0.1]) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert between(places, [0.5, 0.5]) == (0.5, 0.5)


# Coverage, cost, savings


def decided(route, confidence, scores):
    return Decision("x", route, "m", (), "match", confidence, 0.5, 0.1, (), (), None, "i", 0.0, scores)


def test_coverage_and_precision_are_exact():
    judged = [
        (Case("1", "a"), decided("a", 0.9, {"a": 0.9})),
        (Case("2", "a"), decided("b", 0.8, {"b": 0.8})),
        (Case("3", None), decided("a", 0.7, {"a": 0.7})),
        (Case("4", "b"), decided(None, 0.2, {"b": 0.2})),
        (Case("5", "b"), decided("b", 0.0, {})),  # by a rule: served whatever the bound is
        (Case("6", "b"), decided(None, 0.0, {})),  # by a rule for a model: never served by a route
    ]
    found = curve(judged)
    assert [tuple(round(v, 4) for v in point) for point in found.points] == [
        (0.9, 0.4, 1.0),
        (0.8, 0.6, 0.6667),
        (0.7, 0.6, 0.5),
        (0.2, 0.8, 0.6),
    ]
    assert found.chosen == (0.6, 0.5)
    assert curve([(Case("1", None), decided(None, 0.1, {"a": 0.1}))]) is None


def test_what_the_routing_costs_lies_between_the_models_it_chooses(router):
    found = gather(router, heldout_cases(router.index.config)).costs
    small, big = found.models
    assert (small.usd, big.usd) == (2.0, 8.0)
    assert (small.quality, big.quality) == pytest.approx((0.6, 0.9))
    assert found.baseline.name == "big"
    assert small.usd <= found.routed.usd <= big.usd
    assert found.routed.estimated == 0.0


def test_the_routing_is_held_against_random_length_and_an_oracle(write_project, tmp_path):
    shadow = {"escalations": {"store": "sqlite:outcomes.db", "mode": "shadow", "min_support": 0.5}}
    router = router_of(write_project, tmp_path, settings=shadow)
    cases = heldout_cases(router.index.config)
    graded = [
        GradedPrompt(n, case.prompt, {"small": float(n % 2), "big": 0.9}, None, None)
        for n, case in enumerate(cases)
    ]
    router.import_outcomes(graded)
    found = gather(router, cases).costs
    small, big = found.models
    assert found.random.usd == pytest.approx((small.usd + big.usd) / 2)
    assert found.random.quality == pytest.approx((small.quality + big.quality) / 2)
    share = len(cases) // 2 / len(cases)
    assert found.length.usd == pytest.approx(share * big.usd + (1 - share) * small.usd)
    everyone = (small, big, found.random, found.length, found.routed, found.moved)
    assert found.oracle.quality >= max(one.quality for one in everyone) - 1e-9
    assert small.usd <= found.oracle.usd <= big.usd
    page = render(gather(router, cases))
    for told in ("random: every model as often", "length: the longer half", "oracle: the best expected"):
        assert told in page
    router.memory.close()


def test_in_shadow_mode_the_report_compares_with_what_outcomes_would_have_done(write_project, tmp_path):
    shadow = {"escalations": {"store": "sqlite:outcomes.db", "mode": "shadow", "min_support": 0.5}}
    router = router_of(write_project, tmp_path, settings=shadow)
    cases = heldout_cases(router.index.config)
    graded = [
        GradedPrompt(n, case.prompt, {"small": 0.0, "big": 1.0}, None, None) for n, case in enumerate(cases)
    ]
    router.import_outcomes(graded)
    report = gather(router, cases)
    assert report.moves.mode == "shadow"
    assert report.moves.cases > 0
    (move,) = report.moves.by_model
    assert (move.before, move.after, move.cases) == ("small", "big", report.moves.cases)
    assert move.quality_before < move.quality_after
    assert report.costs.moved.quality > report.costs.routed.quality
    assert report.costs.moved.usd > report.costs.routed.usd
    assert report.costs.routed.estimated > 0.5
    assert "Had outcomes counted" in render(report)
    router.memory.close()


def test_savings_are_those_of_the_log_and_estimates_are_labelled(router):
    settings, day = router.index.config.settings, 86_400.0
    log = [
        logged(0.0, "small", 0.0015, score=0.5),
        logged(1.0, "big", 0.006, score=1.0),
        logged(2.0 * day, "small", 0.001),  # the price of that time counts, not that of the list
        logged(2.0 * day, "small", prompt_tokens=None),
        logged(2.0 * day, "nobody knows it", unpriced=("nobody knows it",)),
    ]
    found = saved_over_time(iter(log), settings)
    assert found.total == savings(log, settings.models, "big")
    assert (found.total.decisions, found.total.estimated.decisions, found.days) == (5, 3, 1)
    assert [(one.start, one.decisions) for one in found.periods] == [
        (date(1970, 1, 1), 2), (date(1970, 1, 2), 0), (date(1970, 1, 3), 1),
    ]  # fmt: skip
    assert sum(one.spent for one in found.periods) == pytest.approx(0.0085)
    assert sum(one.baseline for one in found.periods) == pytest.approx(3 * 0.006)
    assert saved_over_time([], settings) is None
    assert saved_over_time([log[0], logged(400 * day, "small", 0.1)], settings).days == 7
    page = page_of(router, log=log)
    assert "2 decisions of 5 cannot be compared" in page
    assert "Measured: $0.0085 spent for 3 decisions. Estimated: $0.0180 for 3 decisions of them" in page
    assert len(data_of(page)["savings"]["periods"]) == 3


# The command


def test_the_command_writes_the_page_and_says_where(router, tmp_path):
    command = [sys.executable, "-m", "semroute", "report", "--json", "--csv", "wrong.csv"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert "routes/semroute.yaml" in (tmp_path / "report.html").read_text(
        encoding="utf-8"
    )  # the prompt's place
    (tmp_path / "elsewhere").mkdir()
    command += ["--routes", "elsewhere"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    told = json.loads(done.stdout)
    assert told["path"] == "report.html"
    assert told["bytes"] == (tmp_path / "report.html").stat().st_size
    assert told["cases"] == 7
    assert told["csv"] == {"path": "wrong.csv", "bytes": (tmp_path / "wrong.csv").stat().st_size}
    # Another process, the same bytes.
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page_of(router)
    assert (tmp_path / "wrong.csv").read_text().startswith("file,line,prompt")


def test_the_command_takes_cases_and_names_what_is_wrong(router, tmp_path):
    def report(*arguments):
        return CliRunner().invoke(app, ["report", "--index", str(tmp_path / "index"), *arguments])

    cases, page = tmp_path / "cases.jsonl", tmp_path / "other.html"
    cases.write_text('{"prompt": "charged twice", "route": "billing"}\n')
    done = report("--cases", str(cases), "--output", str(page))
    assert done.stdout.startswith(f"{page}: ")
    sheet = tmp_path / "wrong.csv"
    announced = report("--cases", str(cases), "--output", str(page), "--csv", str(sheet)).stdout.splitlines()[
        1
    ]
    wrong = len(sheet.read_text().splitlines()) - 1
    assert announced.startswith(f"{sheet}: {wrong} wrong prompt")
    assert announced.endswith(f"{sheet.stat().st_size / 1e3:.1f} KB")
    assert data_of(page.read_text(encoding="utf-8"))["map"]["prompts"]["text"] == ["charged twice"]
    done = report("--output", str(tmp_path / "no" / "page.html"))
    assert done.exit_code == 2
    assert "no/page.html" in done.stderr.replace("\n", "")
    cases.write_text('{"prompt": "x", "route": "nowhere"}\n')
    with pytest.raises(ConfigError, match="nowhere"):
        CliRunner().invoke(
            app, ["report", "--index", str(tmp_path / "index"), "--cases", str(cases)], catch_exceptions=False
        )


# In a browser


def assert_quiet(browser):
    assert browser.happened("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    assert browser.happened("Page.javascriptDialogOpening") == []
    fetched = [one["request"]["url"] for one in browser.happened("Network.requestWillBeSent")]
    assert [url for url in fetched[1:] if not url.startswith("data:")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_the_page_without_errors_or_the_network(browser, router, tmp_path, width, scheme):
    page = tmp_path / "page.html"
    page.write_text(
        page_of(router, log=[logged(0.0, "small", 0.1), logged(9e4, "big", 0.4)]), encoding="utf-8"
    )
    browser.open(page, width=width, scheme=scheme)
    assert_quiet(browser)
    assert browser.value("document.documentElement.dataset.drawn") == "yes"
    assert (
        browser.value(
            "[...document.querySelectorAll('.chart')].filter(one => one.querySelector('canvas')).length"
        )
        == 6
    )
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.body.innerText").count("alert(4)") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_legend_says_which_colour_and_shape_is_which_route(browser, write_project, tmp_path, scheme):
    routes = {f"route_{n}": {"utterances": [f"word{n} other{n}", f"third{n}"]} for n in range(20)}
    page = tmp_path / "page.html"
    page.write_text(page_of(router_of(write_project, tmp_path, routes)), encoding="utf-8")
    browser.open(page, width=390, scheme=scheme)
    keys = browser.value(
        "[...document.querySelectorAll('#map-routes button')].map(one => { const mark = one.querySelector('path');"
        " return [one.innerText, getComputedStyle(mark).fill, mark.getAttribute('d')] })"
    )
    assert [name for name, _, _ in keys] == list(routes)
    assert len({(fill, shape) for _, fill, shape in keys}) == len(routes)
    assert browser.value("document.documentElement.scrollWidth") <= 390
    browser.value("document.querySelectorAll('#map-routes button')[3].click()")
    pressed = "[...document.querySelectorAll('#map-routes [aria-pressed=true]')].map(one => one.innerText)"
    assert browser.value(pressed) == ["route_3"]
    assert browser.value("document.getElementById('map-route').value") == "3"
    browser.value("document.querySelectorAll('#map-routes button')[3].click()")
    assert browser.value(pressed) == [] and browser.value("document.getElementById('map-route').value") == ""
    assert_quiet(browser)


def test_hovering_shows_the_text_of_an_utterance_as_text(browser, router, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(page_of(router), encoding="utf-8")
    browser.open(page)
    utterances = data_of(page_of(router))["map"]["utterances"]
    place = utterances["text"].index(EVIL[0])
    x, y = utterances["x"][place], utterances["y"][place]
    box = browser.value(
        "(() => { const chart = document.getElementById('map-chart'); chart.scrollIntoView({behavior: 'instant'});"
        " const box = chart.getBoundingClientRect(); return [box.x, box.y, box.width, box.height] })()"
    )
    across, down = (x + 1.08) / 2.16, 1 - (y + 1.08) / 2.16
    browser.value("document.getElementById('map-prompts').click()")
    browser.move_mouse(box[0] + across * box[2], box[1] + down * box[3])
    browser.value("new Promise(done => setTimeout(done, 300))")
    assert browser.value("document.querySelector('.tip').innerText").startswith(EVIL[0])
    assert browser.value("document.querySelectorAll('.tip img').length") == 0
    assert_quiet(browser)


def test_a_page_of_nothing_draws_too(browser, router, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(page_of(router, cases=[]), encoding="utf-8")
    browser.open(page)
    assert_quiet(browser)
    assert (
        browser.value(
            "[...document.querySelectorAll('.chart')].filter(one => one.querySelector('canvas')).length"
        )
        == 2
    )


# Size


def test_five_thousand_utterances_make_a_page_of_less_than_5_mb_in_seconds(write_project, tmp_path):
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(300)]
    texts = [" ".join(rng.choice(words[n // 500 * 25 : n // 500 * 25 + 60], 14)) for n in range(5_000)]
    routes = {
        f"route_{n}": {
            "utterances": texts[500 * n : 500 * n + 500],
            "heldout": [f"{text} please" for text in texts[500 * n : 500 * n + 40]],
        }
        for n in range(10)
    }
    router = router_of(write_project, tmp_path, routes)
    assert len(router.index.entries) == 5_000
    started = time.process_time()
    page = page_of(router)
    assert time.process_time() - started < 10.0
    assert len(page.encode()) < 5_000_000
