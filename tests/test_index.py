"""Config and encoder become an index; the index finds what it should and knows when it is stale."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
from conftest import ROUTES

from semroute import ArtifactCorrupt, ArtifactMismatch, EncodingFailed, freshness, index
from semroute.build import build_index, check_index
from semroute.config import load_config
from semroute.encoders import identify, open_encoder
from semroute.router import Router
from semroute.starter import write_starter
from semroute.testing import HashEncoder

ENCODER = HashEncoder(dim=64)


class CountingEncoder(HashEncoder):
    """Counts the texts it embeds."""

    def __init__(self, dim=64):
        super().__init__(dim)
        self.texts: list[str] = []

    def encode(self, texts, *, kind):
        self.texts += texts
        return super().encode(texts, kind=kind)


def query(text, encoder=ENCODER):
    return encoder.encode([text], kind="query")


def built(folder, encoder=ENCODER, previous=None):
    return index.build(load_config(folder), encoder, previous=previous)


def route_of(made, text):
    return made.route_names[made.entries[made.search(query(text), 1)[0].rows[0]].route]


def many_routes(count, routes=20):
    return {
        f"route_{r:02}": [f"word{r} item{i} thing{i % 7}" for i in range(count // routes)]
        for r in range(routes)
    }


@pytest.fixture
def kind(request, monkeypatch):
    """How vectors are stored; as a graph here from a size on at which fitting takes no time."""
    monkeypatch.setattr(index, "FLAT_UP_TO", 100 if request.param == "hnsw" else 4_096)
    return request.param


flat_and_graph = pytest.mark.parametrize("kind", ["flat", "hnsw"], indirect=True)
graph = pytest.mark.parametrize("kind", ["hnsw"], indirect=True)


def test_every_utterance_is_found_by_itself(write_project):
    made = built(write_project()).index
    for row, entry in enumerate(made.entries):
        found = made.search(query(entry.text), 3)[0]
        assert found.rows[0] == row and found.similarities[0] == pytest.approx(1.0, abs=1e-5)
        assert found.similarities == sorted(found.similarities, reverse=True)


def test_more_neighbours_than_utterances_gives_those_there_are(write_project):
    made = built(write_project({"only": ["one utterance"]})).index
    assert made.search(query("anything at all"), 1000)[0].rows == [0]


def test_an_index_without_utterances_finds_nothing(write_project):
    made = built(write_project({}, {"default": {"models": ["small", "big"]}})).index
    assert made.search(query("anything"), 5) == [([], [])]
    assert made.reconstruct().shape == (0, 64)


def test_a_route_without_utterances_is_indexed_by_its_description(write_project):
    routes = ROUTES | {"weather": {"utterances": [], "description": "forecast for rain and sun"}}
    made = built(write_project(routes)).index
    assert route_of(made, "forecast for rain") == "weather"


def test_a_text_repeated_in_a_route_is_indexed_once(write_project):
    made = built(write_project({"a": ["same text", "same text", "other text"], "b": ["third text"]})).index
    assert [entry.text for entry in made.entries] == ["same text", "other text", "third text"]


@flat_and_graph
def test_search_can_be_restricted_to_routes(write_project, kind):
    count = 600
    made = built(write_project(many_routes(count))).index
    assert made.manifest.vectors.kind == kind
    only = frozenset({3, 11})
    found = made.search(np.vstack([query("word5 item3 thing3"), query("word3 item1")]), 30, only)
    for nearest in found:
        assert len(nearest.rows) == len(nearest.similarities) == min(30, 2 * count // 20)
        assert {made.entries[row].route for row in nearest.rows} <= only
    assert made.entries[found[1].rows[0]].route == 3


def test_large_indexes_use_a_graph_that_finds_what_exhaustive_search_finds(write_project):
    made = built(write_project(many_routes(6_000, routes=2))).index
    assert (made.manifest.vectors.kind, len(made.entries)) == ("hnsw", 6_000)
    exact = faiss.IndexFlatIP(64)
    exact.add(made.reconstruct())
    queries = np.vstack([query(f"word{n % 2} item{n} thing{n % 7}") for n in range(0, 2_900, 30)])
    wanted = exact.search(queries, 1)[0][:, 0]
    found = np.array([nearest.similarities[0] for nearest in made.search(queries, 20)])
    assert np.mean(np.abs(found - wanted) < 1e-5) > 0.98


def test_only_new_utterances_are_embedded(write_project):
    heldout = {"default": {"model": "big", "heldout": ["open the garage", "order a pizza"]}}
    first = built(write_project(settings=heldout)).index
    encoder = CountingEncoder()
    routes = ROUTES | {"billing": [*ROUTES["billing"], "what does the premium plan cost"]}
    report = built(write_project(routes, heldout), encoder, previous=first)
    assert encoder.texts == ["what does the premium plan cost"]
    assert (report.embedded, report.reused) == (1, 12)


def test_reused_vectors_give_the_index_that_a_fresh_build_gives(write_project, tmp_path):
    first = built(write_project()).index
    routes = {"news": ["what happened today"], **ROUTES, "coding": ROUTES["coding"][1:]}
    folder = write_project(routes)
    reused = index.save(built(folder, previous=first).index, tmp_path / "reused")
    fresh = index.save(built(folder).index, tmp_path / "fresh")
    assert reused.manifest == fresh.manifest


@graph
@pytest.mark.parametrize("removed", [0, 1])
def test_a_graph_grows_by_what_is_new_and_is_rebuilt_when_something_goes(write_project, kind, removed):
    routes = many_routes(400)
    first = built(write_project(routes)).index
    before = first.search(query("word3 item1"), 5)
    routes = {"aaa": ["an entirely new route"], **routes}
    routes["route_05"] = [*routes["route_05"][removed:], "something new about word5"]
    report = built(write_project(routes), previous=first)
    made = report.index
    assert report.embedded == 2
    for text, route in (("an entirely new route", "aaa"), ("something new about word5", "route_05")):
        assert made.entries[made.search(query(text), 1)[0].rows[0]].text == text
        assert route_of(made, text) == route
    assert {(made.route_names[e.route], e.text) for e in made.entries} == {
        (name, text) for name, texts in routes.items() for text in texts
    }
    assert [made.entries[row].text for row in made.in_order()] == [
        t for texts in routes.values() for t in texts
    ]
    assert first.search(query("word3 item1"), 5) == before, "the old index changed"


def test_another_encoder_makes_every_vector_anew(write_project):
    first = built(write_project()).index
    encoder = CountingEncoder(dim=32)
    report = built(write_project(), encoder, previous=first)
    names = 3  # of the routes, which the head learns from too
    assert report.reused == 0 and len(encoder.texts) == 12 + names


def test_progress_is_told_up_to_the_end(write_project):
    told = []
    config = load_config(write_project(many_routes(1_200)))
    index.build(config, ENCODER, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (1_200, 1_200) and told == sorted(told)


def test_saved_and_loaded_it_is_the_same(write_project, tmp_path):
    heldout = {"default": {"model": "big", "heldout": ["open the garage"]}}
    saved = index.save(built(write_project(settings=heldout)).index, tmp_path / "index")
    loaded = index.load(tmp_path / "index")
    assert (loaded.manifest, loaded.config, loaded.entries) == (saved.manifest, saved.config, saved.entries)
    assert (loaded.reconstruct() == saved.reconstruct()).all() and (loaded.negatives == saved.negatives).all()
    assert (loaded.labels == saved.labels).all() and same(loaded.fitted, saved.fitted)


def same(one, other) -> bool:
    """Whether two fits hold the same numbers."""
    alone = [dataclasses.replace(fit, head=None, centroids=None, left_out=None) for fit in (one, other)]
    alike = [getattr(alone[0], f.name) == getattr(alone[1], f.name) for f in dataclasses.fields(one)]
    arrays = [
        (fit.head.weights, fit.head.bias, fit.centroids, *_arrays(fit.left_out)) for fit in (one, other)
    ]
    return all(alike) and all((a == b).all() for a, b in zip(*arrays, strict=True))


def _arrays(left_out):
    return [getattr(left_out, field.name) for field in dataclasses.fields(left_out)]


def test_an_index_of_format_1_still_loads_and_counts_as_stale(tmp_path):
    folder = Path(__file__).parent / "golden" / "format-1"
    router = Router.load(folder)
    assert router.route("where is my refund?").route == "billing"
    assert router.index.fitted.head is None
    write_starter(tmp_path / "routes")
    settings = tmp_path / "routes" / "semroute.yaml"
    settings.write_text(settings.read_text().replace("encoder: minilm", "encoder: static"))
    assert check_index(tmp_path / "routes", folder) != []


@pytest.mark.parametrize("golden", ["format-2", "format-3"])
def test_an_index_of_an_older_fit_still_loads_and_counts_as_stale(tmp_path, golden):
    folder = Path(__file__).parent / "golden" / golden
    router = Router.load(folder)
    decision = router.route("where is my refund?")
    assert (decision.route, decision.reason) == ("billing", "match")
    assert router.index.fitted.head is not None and len(router.index.fitted.left_out.rows) == 0
    write_starter(tmp_path / "routes")
    settings = tmp_path / "routes" / "semroute.yaml"
    settings.write_text(settings.read_text().replace("encoder: minilm", "encoder: static"))
    assert check_index(tmp_path / "routes", folder) == ["how routes are fitted (another semroute)"]


def test_the_head_of_minilm_sees_the_words_too_and_another_token_table_is_refused(write_project, tmp_path):
    build_index(write_project(settings={"encoder": "minilm"}), tmp_path / "index")
    loaded = index.load(tmp_path / "index")
    assert loaded.manifest.fitted.words is not None
    assert loaded.fitted.head.weights.shape[1] > loaded.manifest.encoder.dim
    assert check_index(tmp_path / "routes", tmp_path / "index") == []
    other = loaded.manifest.fitted.model_copy(update={"words": "sha256:another"})
    forged = dataclasses.replace(loaded, manifest=loaded.manifest.model_copy(update={"fitted": other}))
    with pytest.raises(ArtifactMismatch, match="another token table"):
        Router(forged, open_encoder("minilm", root=tmp_path))


def test_numbers_fitted_on_another_index_are_refused(write_project, tmp_path):
    one = index.save(built(write_project()).index, tmp_path / "one")
    other = index.save(built(write_project(settings={"vote": {"neighbors": 3}})).index, tmp_path / "two")
    assert index.load(tmp_path / "one").fingerprint == one.fingerprint
    fitted = other.manifest.files["fitted"]
    (tmp_path / "one" / fitted.name).write_bytes((tmp_path / "two" / fitted.name).read_bytes())
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    manifest["files"]["fitted"] = fitted.model_dump()
    manifest["fitted"] = other.manifest.fitted.model_dump()
    (tmp_path / "one" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactCorrupt, match="fitted on another index"):
        index.load(tmp_path / "one")


def test_the_same_inputs_give_the_same_files(write_project, tmp_path):
    for name in ("one", "two"):
        index.save(built(write_project()).index, tmp_path / name)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and len(files[0]) == 5


def test_an_older_build_leaves_nothing_behind(write_project, tmp_path):
    for routes in (ROUTES, ROUTES | {"news": ["what happened today"]}):
        index.save(built(write_project(routes)).index, tmp_path / "index")
    assert len(list((tmp_path / "index").iterdir())) == 5


def test_files_of_others_are_left_alone(write_project, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "README").write_text("ours")
    index.save(built(write_project()).index, tmp_path / "index")
    assert (tmp_path / "index" / "README").read_text() == "ours"


def test_the_distance_limit_is_fitted_between_near_and_far(write_project):
    made = built(write_project(many_routes(400))).index
    near = 1.0 - made.search(query("word3 item1 thing5"), 1)[0].similarities[0]
    far = 1.0 - made.search(query("zebra quantum lasagne"), 1)[0].similarities[0]
    assert near < made.fitted.max_distance < far


def test_negatives_move_what_counts_as_near(write_project):
    without = built(write_project(many_routes(400))).index.fitted.evidence
    strangers = [f"word{n} but something else entirely {n}" for n in range(15)]
    settings = {"default": {"model": "big", "heldout": strangers}}
    assert built(write_project(many_routes(400), settings)).index.fitted.evidence != without


@pytest.mark.parametrize(
    "routes",
    [
        {"a": ["one"]},
        {"a": ["one"], "b": ["one more"]},
        {"a": ["same words here", "Same words here."], "b": ["same words, here"]},
        {"a": ["one two three"], "b": {"utterances": [], "description": "four five six"}},
    ],
    ids=["one utterance", "one each", "all alike", "description only"],
)
def test_degenerate_routes_give_finite_numbers(write_project, routes):
    fitted = built(write_project(routes)).index.fitted
    assert 0.0 <= fitted.max_distance <= 2.0 and 0.0 <= fitted.min_confidence <= 1.0


# Freshness ---------------------------------------------------------------------------------------------------


def test_check_is_silent_on_a_fresh_index_and_names_what_changed(write_project, tmp_path):
    folder = tmp_path / "index"
    routes = write_project()
    build_index(routes, folder)
    assert check_index(routes, folder) == []
    changed = ROUTES | {"coding": [*ROUTES["coding"][1:], "new one", "newer one"], "news": ["what happened"]}
    del changed["smalltalk"]
    settings = {"vote": {"neighbors": 7}, "default": {"model": "big", "heldout": ["x y z"]}}
    assert check_index(write_project(changed, settings), folder) == [
        "default.heldout: 0 entries -> 1 entries",
        "route coding: utterances: 2 added, 1 removed",
        "route news: added",
        "route smalltalk: removed",
        "vote.neighbors: 20 -> 7",
    ]
    assert any(
        "encoder" in change for change in check_index(write_project(settings={"encoder": "minilm"}), folder)
    )
    assert check_index(write_project({**ROUTES, "billing": ROUTES["billing"][::-1]}), folder) == [
        "route billing: utterances: in another order"
    ]


def test_check_names_a_missing_and_a_damaged_index(write_project, tmp_path):
    folder = tmp_path / "index"
    routes = write_project()
    assert "semroute build" in check_index(routes, folder)[0]
    build_index(routes, folder)
    next(folder.glob("vectors-*")).write_bytes(b"")
    assert "vectors-" in check_index(routes, folder)[0]


def test_check_takes_milliseconds_and_no_model(write_project, tmp_path):
    routes = write_project()
    build_index(routes, tmp_path / "index")
    started = time.perf_counter()
    check_index(routes, tmp_path / "index")
    assert time.perf_counter() - started < 1.0


def test_an_unchanged_project_is_not_built_again(write_project, tmp_path):
    routes = write_project()
    first = build_index(routes, tmp_path / "index")
    again = build_index(routes, tmp_path / "index")
    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.index.fingerprint == first.index.fingerprint


def test_the_fingerprint_covers_inputs_alone(write_project):
    config = load_config(write_project())
    known = identify("static", root=None)
    encoder = index.artifact.EncoderRecord(
        name=known.name, revision=known.revision, dim=known.dim, preprocessing=known.preprocessing
    )
    fingerprint = freshness.fingerprint(config, encoder, None)
    assert freshness.fingerprint(load_config(write_project(name="elsewhere")), encoder, None) == fingerprint
    assert freshness.fingerprint(config, encoder, "a token table") != fingerprint
    for change in ({"revision": "other"}, {"dim": 7}, {"preprocessing": "other"}, {"name": "other"}):
        assert freshness.fingerprint(config, encoder.model_copy(update=change), None) != fingerprint
    assert (
        freshness.fingerprint(load_config(write_project(settings={"vote": {"neighbors": 3}})), encoder, None)
        != fingerprint
    )


def test_keys_that_came_later_change_no_fingerprint_while_they_say_nothing(write_project):
    config = load_config(write_project(settings={"vote": {"min_margin": 0, "blend": "auto"}, "log": None}))
    settings = config.canonical()["settings"]
    assert settings["vote"].keys() == {"neighbors", "max_distance", "min_confidence"}
    assert "log" not in settings
    told = load_config(write_project(name="said", settings={"vote": {"min_margin": 0.1, "blend": 0.5}}))
    assert told.canonical()["settings"]["vote"].items() >= {"min_margin": 0.1, "blend": 0.5}.items()


def test_the_blend_of_the_settings_is_what_is_fitted(write_project, tmp_path):
    methods = {}
    for blend in (0, 0.5, 1, "auto"):
        folder = write_project(settings={"vote": {"blend": blend}}, name=f"routes-{blend}")
        built = build_index(folder, tmp_path / f"index-{blend}").index
        methods[blend] = built.fitted.method
        assert (built.fitted.head is None) == (blend == 0)
        loaded = index.load(tmp_path / f"index-{blend}")
        assert loaded.fitted.vote_scale == built.fitted.vote_scale
        if blend == 1:
            assert built.fitted.vote_scale == 0.0
    assert methods[0].startswith("vote alone") and len(set(methods.values())) == 4


# What callers may hand in ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((1, 64), np.float64),
        np.ones((1, 63), np.float32) / 63**0.5,
        np.ones(64, np.float32) / 8,
        np.asfortranarray(np.eye(64, dtype=np.float32)),
        [[0.125] * 64],
        None,
    ],
    ids=["float64", "dim", "1-d", "order", "list", "none"],
)
def test_what_is_no_query_is_a_typed_error(write_project, vectors):
    with pytest.raises(EncodingFailed):
        built(write_project()).index.search(vectors, 5)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e30])
def test_a_query_that_is_no_unit_vector_finds_nothing(write_project, value):
    queries = np.vstack([query("hello there"), np.full((1, 64), value, np.float32), query("sort a list")])
    found = built(write_project()).index.search(queries, 5)
    assert found[1] is None and len(found[0].rows) == len(found[2].rows) == 5


@pytest.mark.parametrize("fault", ["nan", "zero", "dtype", "dim", "count"])
def test_an_encoder_that_breaks_its_promise_stops_the_build(write_project, fault):
    class Broken(HashEncoder):
        def encode(self, texts, *, kind):
            vectors = super().encode(texts, kind=kind)
            if fault == "dtype":
                return vectors.astype(np.float64)
            if fault == "dim":
                return np.ascontiguousarray(vectors[:, 1:])
            if fault == "count":
                return np.ascontiguousarray(vectors[1:])
            vectors[-1] = np.nan if fault == "nan" else 0.0
            return vectors

    with pytest.raises(EncodingFailed):
        built(write_project(), Broken(64))


# Threads and processes ---------------------------------------------------------------------------------------


@graph
def test_building_on_an_index_while_it_is_searched(write_project, kind):
    """An index that is searched never changes, so growing from it disturbs nobody."""
    routes = many_routes(400)
    base = built(write_project(routes)).index
    text = base.entries[123].text
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            row = base.search(query(text), 5)[0].rows[0]
            if base.entries[row].text != text:
                wrong.append(row)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(3):
        more = routes | {f"new_{step}": [f"a new utterance {step} {n}" for n in range(50)]}
        assert built(write_project(more), previous=base).embedded == 50
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@flat_and_graph
def test_a_forked_child_searches_and_does_not_hang(write_project, kind):
    made = built(write_project(many_routes(400))).index
    assert made.manifest.vectors.kind == kind
    queries = np.vstack([query(entry.text) for entry in made.entries[:64]])
    wanted = [nearest.rows[0] for nearest in made.search(queries, 5)]  # starts OpenMP's threads in the parent
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def child():
        answers.put([nearest.rows[0] for nearest in made.search(queries, 5)])

    process = context.Process(target=child)
    process.start()
    try:
        assert answers.get(timeout=30) == wanted
    finally:
        process.join(timeout=5)
        process.kill()
