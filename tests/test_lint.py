"""`lint.examine`: each weakness is found where it stands, a sound project has none, nothing makes it fail."""

from __future__ import annotations

import json
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SETTINGS
from hypothesis import given, settings
from hypothesis import strategies as st

from semroute.build import build_index
from semroute.config import load_config
from semroute.encoders.base import EncoderIdentity
from semroute.errors import ConfigError, EncodingFailed
from semroute.lint import examine, same_cut
from semroute.starter import write_starter
from semroute.testing import FailingEncoder, HashEncoder


class Table:
    """An encoder of stated vectors: what a text is about, as an angle in degrees, and what is its own.

    Two texts of the same angle have cosine 0.6; texts of the same angle and the same `like` have 1. Unknown
    texts all have the same vector.
    """

    identity = EncoderIdentity("table", "1", 66, "none")

    def __init__(self, points=None):
        self.points = points or {}

    def encode(self, texts, *, kind):
        rows = np.zeros((len(texts), 66))
        axes = sorted({like for _, like in self.points.values()})
        for row, text in zip(rows, texts, strict=True):
            angle, like = self.points.get(text, (0.0, None))
            row[:2] = np.sqrt(0.6) * np.cos(np.radians(angle)), np.sqrt(0.6) * np.sin(np.radians(angle))
            row[2 + axes.index(like) if like else 65] = np.sqrt(0.4)
        return rows.astype(np.float32)


def about(angle, *texts):
    """Texts about one thing, each in its own words."""
    return {text: (angle, text) for text in texts}


A = about(0, *(f"alpha {n}" for n in range(6)))
B = about(90, *(f"beta {n}" for n in range(6)))


def sound(points=None, **more):
    """Two routes far apart, with a heldout prompt each."""
    table = A | B | about(0, "a held out") | about(90, "b held out") | (points or {})
    routes = {
        "a": {"utterances": list(A), "heldout": ["a held out"]},
        "b": {"utterances": list(B), "heldout": ["b held out"]},
    }
    return routes | more, Table(table)


@pytest.fixture
def lint(write_project, tmp_path):
    def run(routes, encoder, settings=None):
        return examine(write_project(routes, settings), tmp_path / "index", encoder=encoder)

    return run


def kinds(findings):
    return [finding.kind for finding in findings]


def text_at(place):
    """The JSON string that begins at a place."""
    line = Path(place.file).read_text("utf-8").split("\n")[place.line - 1]
    return json.JSONDecoder().raw_decode(line[place.column - 1 :])[0]


def test_a_sound_project_has_no_finding(lint):
    assert lint(*sound()) == []


def test_the_same_text_in_two_routes(lint):
    routes, table = sound({"Alpha 0!": (0, "alpha 0")})
    routes["b"]["utterances"] = [*B, "Alpha 0!"]
    (found,) = [one for one in lint(routes, table) if "duplicate" in one.kind]
    assert (found.kind, found.route, found.other, found.count) == ("duplicate", "a", "b", 1)
    (example,) = found.examples
    assert text_at(found.place) == text_at(example.place) == "alpha 0"
    assert text_at(example.other_place) == "Alpha 0!"
    assert str(found).startswith(f"{found.place.file}:{found.place.line}:{found.place.column}: duplicate: ")


def test_symbols_that_carry_meaning_make_texts_differ(lint):
    routes, table = sound(about(0, "write c++") | about(90, "write c#"))
    routes["a"]["utterances"] = [*A, "write c++"]
    routes["b"]["utterances"] = [*B, "write c#"]
    assert lint(routes, table) == []


def test_nearly_the_same_text_in_two_routes_is_grouped(lint):
    same = about(200, *(f"gamma {n}" for n in range(5)))
    again = {f"delta {n}": (201, f"gamma {n}") for n in range(5)}
    routes, table = sound(same | again, c=list(same), d=list(again))
    found = [one for one in lint(routes, table) if one.kind == "near-duplicate"]
    assert [(one.route, one.other, one.count, len(one.examples)) for one in found] == [("c", "d", 5, 3)]
    for example in found[0].examples:
        assert text_at(example.place) == example.text
        assert text_at(example.other_place) == example.other_text


def test_the_cut_follows_the_scale_of_the_encoder():
    routes = np.arange(4)
    apart = np.eye(4, dtype=np.float32)
    narrow = apart * 0.5 + 0.433
    narrow = (narrow / np.linalg.norm(narrow, axis=1, keepdims=True)).astype(np.float32)
    assert same_cut(apart, routes) == pytest.approx(0.9)
    usual = 1.0 - float(narrow[0] @ narrow[1])
    assert same_cut(narrow, routes) == pytest.approx(1.0 - usual / 10, abs=1e-6) and usual < 0.5
    assert same_cut(np.ones((3, 1), np.float32), np.zeros(3, np.int64)) == pytest.approx(0.99)


def test_utterances_that_another_route_takes(lint):
    strays = about(90, "stray 0", "stray 1")
    routes, table = sound(strays)
    routes["a"]["utterances"] = [*A, *strays]
    found_all = lint(routes, table, {"vote": {"max_distance": 0.9}})
    (found,) = [one for one in found_all if one.kind == "steals"]
    assert (found.route, found.other, found.count) == ("a", "b", 2)
    assert [example.text for example in found.examples] == ["stray 0", "stray 1"]
    assert all(text_at(example.place) == example.text for example in found.examples)


def test_one_stray_is_not_called_a_theft(lint):
    routes, table = sound(about(90, "stray"))
    routes["a"]["utterances"] = [*A, "stray"]
    assert "steals" not in kinds(lint(routes, table))


def test_a_route_inside_another_is_shadowed(lint):
    inside = about(90, *(f"gamma {n}" for n in range(5)))
    routes, table = sound(inside, c=list(inside))
    (found,) = [
        one
        for one in lint(routes, table, {"vote": {"max_distance": 0.9}})
        if one.kind in ("steals", "shadowed")
    ]
    assert (found.kind, found.route, found.other, found.count, len(found.examples)) == (
        "shadowed",
        "c",
        "b",
        5,
        3,
    )
    assert "merge" in found.suggestion and "5 of 5" in found.message


def test_routes_that_take_from_each_other_are_one_finding(lint):
    routes, table = sound(about(180, *(f"gamma {n}" for n in range(16))))
    texts = [f"gamma {n}" for n in range(16)]
    routes |= {"c": texts[:8], "d": texts[8:]}
    wanted = {"vote": {"max_distance": 0.9, "min_confidence": 0.2}}
    (found,) = [one for one in lint(routes, table, wanted) if one.kind in ("steals", "shadowed")]
    assert (found.kind, {found.route, found.other}, len(found.examples)) == ("shadowed", {"c", "d"}, 3)
    told = re.search(
        r"(\d) of 8 utterances of `[cd]`.* go to `[cd]`, and (\d) of 8 the other way", found.message
    )
    assert found.count == sum(map(int, told.groups())) and int(told[1]) >= int(told[2])


def test_of_thin_routes_no_theft_is_told(lint):
    texts = [f"gamma {n}" for n in range(8)]
    routes, table = sound(about(180, *texts))
    routes |= {"c": texts[:4], "d": texts[4:]}
    assert {one.kind for one in lint(routes, table)} == {"thin", "no-heldout"}


def test_the_starter_project_is_sound(tmp_path):
    """Of ten utterances a route, left out by turns, the neighbours alone would send some astray."""
    write_starter(tmp_path / "routes")
    assert examine(tmp_path / "routes", tmp_path / "index") == []


def test_utterances_go_where_the_fit_saw_them_go_and_the_router_serves_them(write_project, tmp_path):
    strays = about(90, "stray 0", "stray 1")
    routes, table = sound(strays)
    routes["a"]["utterances"] = [*A, *strays]
    for least, told in ((0.0, True), (1.0, False)):
        wanted = {"vote": {"max_distance": 2, "min_confidence": least}}
        found = examine(write_project(routes, wanted), tmp_path / "index", encoder=table)
        assert ("steals" in kinds(found)) == told


def test_an_utterance_far_from_its_route(lint):
    routes, table = sound(about(225, "odd"))
    routes["a"]["utterances"] = [*A, "odd"]
    (found,) = lint(routes, table)
    assert (found.kind, found.route, text_at(found.place)) == ("outlier", "a", "odd")


def test_thin_routes(lint):
    routes, table = sound(
        about(180, "gamma", "c held out") | about(270, "about delta", "d held out"),
        c={"utterances": ["gamma"], "heldout": ["c held out"]},
        d={"description": "about delta", "heldout": ["d held out"]},
    )
    found = lint(routes, table)
    assert [(one.kind, one.route, text_at(one.place)) for one in found] == [
        ("thin", "c", "c"),
        ("thin", "d", "d"),
    ]
    assert "at least 4 more" in found[0].suggestion and "description" in found[1].message


def test_missing_heldout_is_one_finding(lint):
    routes, table = sound()
    del routes["b"]["heldout"]
    (found,) = lint(routes, table)
    assert (found.kind, found.route, found.count) == ("no-heldout", "b", 1)
    del routes["a"]["heldout"]
    (found,) = lint(routes, table)
    assert (found.kind, found.route, found.count) == ("no-heldout", None, 2)


def test_heldout_that_is_too_easy(lint):
    routes, table = sound({"an alpha": (1, "alpha 0")})
    routes["a"]["heldout"] = ["a held out", "an alpha"]
    (found,) = lint(routes, table, {"vote": {"max_distance": 1}})
    assert (found.kind, found.route, found.count, text_at(found.place)) == (
        "easy-heldout",
        "a",
        1,
        "an alpha",
    )


@pytest.mark.parametrize("owner", [None, "a"])
def test_heldout_that_contradicts_an_utterance(lint, owner):
    routes, table = sound({"like beta": (91, "beta 0")})
    wanted = {"default": {"model": "big", "heldout": ["like beta"] if owner is None else []}}
    if owner:
        routes["a"]["heldout"] = ["like beta"]
    (found,) = [one for one in lint(routes, table, wanted) if one.kind == "contradiction"]
    assert (found.route, found.other, text_at(found.place)) == (owner, "b", "like beta")
    assert text_at(found.examples[0].other_place) == found.examples[0].other_text


@pytest.mark.parametrize("owner", [None, "a"])
def test_heldout_that_another_route_takes(lint, owner):
    routes, table = sound(about(90, "towards beta"))
    wanted = {
        "vote": {"max_distance": 1},
        "default": {"model": "big", "heldout": ["towards beta"] if owner is None else []},
    }
    if owner:
        routes["a"]["heldout"] = ["towards beta"]
    (found,) = [one for one in lint(routes, table, wanted) if one.kind == "steals-heldout"]
    assert (found.route, found.other, text_at(found.place)) == (owner, "b", "towards beta")


def test_a_route_that_says_one_thing(lint):
    same = {f"gamma {n}": (180 + n, "gamma") for n in range(6)}
    routes, table = sound(
        same | about(180, "c held out"), c={"utterances": list(same), "heldout": ["c held out"]}
    )
    (found,) = lint(routes, table)
    assert (found.kind, found.route, text_at(found.place)) == ("one-note", "c", "c")


def test_equal_vectors_and_a_single_route(lint):
    routes, _ = sound()
    assert kinds(lint(routes, Table())) == ["degenerate"]
    assert "one-route" in kinds(lint({"a": routes["a"]}, Table(A | about(0, "a held out"))))
    assert set(kinds(lint({"a": ["same"], "b": ["same"]}, Table()))) == {
        "degenerate", "duplicate", "no-heldout", "thin",
    }  # fmt: skip


def test_no_route_at_all(lint):
    assert lint({}, Table(), {"default": {"models": ["big", "small"]}}) == []


def test_what_is_wrong_is_raised(lint, write_project, tmp_path):
    with pytest.raises(ConfigError):
        lint({"a": [7]}, Table())
    with pytest.raises(EncodingFailed):
        lint(sound()[0], FailingEncoder())


def test_a_heldout_prompt_that_cannot_be_embedded_is_no_finding_but_an_error(write_project, tmp_path):
    class Broken(HashEncoder):
        def encode(self, texts, *, kind):
            return super().encode(texts, kind=kind) * np.float32(kind == "document")

    with pytest.raises(EncodingFailed, match=r"000\.yaml:1:"):
        examine(write_project(sound()[0]), tmp_path / "index", encoder=Broken())


@pytest.mark.parametrize("state", ["missing", "fresh", "stale", "damaged"])
def test_the_index_is_used_but_never_needed_nor_written(write_project, tmp_path, state):
    routes, index = write_project(sound()[0], {"encoder": "static"}), tmp_path / "index"
    expected = examine(routes, index)
    if state != "missing":
        build_index(routes, index)
    fitted = []
    if state == "stale":
        routes = write_project(sound(c=["something else"])[0], {"encoder": "static"})
        expected = examine(routes, tmp_path / "none")
    if state == "damaged":
        next(index.glob("vectors-*")).write_bytes(b"")
    before = {path: path.read_bytes() for path in index.glob("*")}
    assert examine(routes, index, fitting=lambda *step: fitted.append(step)) == expected
    assert (fitted == []) == (state == "fresh")
    assert {path: path.read_bytes() for path in index.glob("*")} == before


def test_findings_become_json(lint):
    routes, table = sound({"alpha 0!": (0, "alpha 0")})
    routes["b"]["utterances"] = [*B, "alpha 0!"]
    rows = json.loads(json.dumps([one.to_dict() for one in lint(routes, table)]))
    assert rows[0]["examples"][0]["other_text"] == "alpha 0!"
    assert {"kind", "route", "file", "line", "column", "message", "suggestion"} <= rows[0].keys()


TEXTS = st.lists(
    st.sampled_from(["refund", "Refund!", "refund now", "hello", "?", "😀", "a b c"]), max_size=4
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4), TEXTS, st.sampled_from([HashEncoder(), Table()]))
def test_any_project_that_is_valid_can_be_linted_and_twice_alike(routes, default, encoder):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        serving = {"default": {"models": ["big", "small"], "heldout": default}}
        (folder / "semroute.yaml").write_text(json.dumps(SETTINGS | serving))
        for number, (utterances, heldout) in enumerate(routes):
            row = {"name": f"r{number}", "description": "d", "model": "small"}
            row |= {"utterances": utterances, "heldout": heldout}
            (folder / f"{number}.yaml").write_text(json.dumps(row))
        try:
            load_config(folder)
        except ConfigError:
            return
        found = examine(folder, folder / "index", encoder=encoder)
        assert found == examine(folder, folder / "index", encoder=encoder)
        assert [one.place for one in found] == sorted(one.place for one in found)
        assert not any("nan" in str(one) for one in found)
        for finding in found:
            for example in finding.examples:
                assert text_at(example.place) in (example.text, finding.route)
        if any(not held for _, held in routes):
            assert "no-heldout" in kinds(found)


def test_three_thousand_utterances_take_seconds(write_project, tmp_path):
    generator = np.random.default_rng(1)

    class Random(Table):
        identity = EncoderIdentity("random", "1", 64, "none")

        def encode(self, texts, *, kind):
            rows = generator.normal(size=(len(texts), 64))
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    routes = write_project({f"r{n}": [f"{n} {m}" for m in range(60)] for n in range(50)})
    started = time.perf_counter()
    examine(routes, tmp_path / "index", encoder=Random())
    assert time.perf_counter() - started < 20
