"""What a good configuration means: the YAML contract, defaults, canonical form, places, warnings, schemas."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from semroute.config import (
    Config,
    EscalationSettings,
    LogSettings,
    ModelCard,
    Place,
    Route,
    Rule,
    RuleCondition,
    Settings,
    Shape,
    Weights,
    json_schemas,
    load_config,
)
from semroute.editors import EditorSchema
from semroute.errors import ConfigError

SETTINGS = """\
# routes/semroute.yaml
encoder: minilm                 # minilm (bundled, the default) | static (bundled)
default:
  model: big                    # or models: [big, other]
  heldout: ["what is the airspeed of an unladen swallow"]     # prompts that must land on the default
vote:
  neighbors: 20
  max_distance: auto            # cosine distance to the nearest utterance above which the default serves
  min_confidence: auto          # calibrated probability below which the default serves
escalations:
  store: sqlite:semroute.db     # a path from the folder that holds index/ | postgresql://...
  max_risk: 0.5
  min_support: 3
  half_life_days: 90
select: first
models:
  small: {provider: openai, id: gpt-5-mini,
          base_url: "https://api.openai.com/v1", api_key_env: OPENAI_API_KEY,
          prompt_usd_per_1m: 0.25, completion_usd_per_1m: 2.0, ttft_ms: 400, itl_ms: 8,
          context_tokens: 400000, capabilities: [tools, vision, json], quality: 0.6}
  big: {provider: openai, id: gpt-5, base_url: "https://api.openai.com/v1", api_key_env: OPENAI_API_KEY,
        prompt_usd_per_1m: 1.25, completion_usd_per_1m: 10.0, ttft_ms: 900, itl_ms: 14,
        context_tokens: 400000, capabilities: [tools, vision, json], quality: 0.9}
rules:
  - {name: long, when: {min_chars: 20000}, model: big}
  - {name: code, when: {has_code: true, any_regex: ["(?i)stack ?trace"]}, route: coding}
"""
BILLING = """\
# routes/billing.yaml
name: billing
description: Invoices, refunds and payment methods        # also what an arbiter model reads
model: small                    # or models: [small, big]
utterances:
  - where is my refund
heldout:
  - my money has not come back yet
max_distance: 0.55              # optional, overrides
min_confidence: 0.6             # optional, overrides
"""
CODING = "name: coding\nmodels: [small, big]\nutterances:\n  - write a function that sorts\n"
MINIMAL = "default: {model: m}\nmodels: {m: {}}\n"


def folder_of(path: Path, **files: str) -> Path:
    """A folder with these files: `billing="..."` is billing.yaml."""
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / f"{name}.yaml").write_text(textwrap.dedent(text), encoding="utf-8", newline="")
    return path


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "routes", semroute=SETTINGS, billing=BILLING, coding=CODING)


def with_utterance(written: str) -> str:
    """The utterance that comes out when `written` is the only one in the YAML."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "semroute.yaml").write_text(MINIMAL)
        route = f"name: a\nmodel: m\nutterances:\n  - {written}\n"
        (folder / "a.yaml").write_text(route, encoding="utf-8", newline="")
        (utterance,) = load_config(folder).route("a").utterances
    return utterance


class TestContract:
    def test_the_documented_example_loads(self, example: Path) -> None:
        config = load_config(example)
        assert [route.name for route in config.routes] == ["billing", "coding"]
        billing = config.route("billing")
        assert billing.utterances == ("where is my refund",)
        assert billing.heldout == ("my money has not come back yet",)
        assert (billing.max_distance, billing.min_confidence) == (0.55, 0.6)
        small = config.settings.models["small"]
        assert (small.id, small.prompt_usd_per_1m, small.context_tokens) == ("gpt-5-mini", 0.25, 400000)
        assert small.capabilities == ("tools", "vision", "json")
        assert config.settings.default.heldout == ("what is the airspeed of an unladen swallow",)
        assert config.settings.escalations is not None
        assert config.settings.escalations.store == "sqlite:semroute.db"
        code = config.settings.rules[1]
        assert (code.name, code.route, code.when.has_code) == ("code", "coding", True)
        assert code.when.any_regex == ("(?i)stack ?trace",)

    def test_model_names_hides_whether_one_or_several_were_given(self, example: Path) -> None:
        config = load_config(example)
        assert config.route("billing").model_names == ("small",)
        assert config.route("coding").model_names == ("small", "big")
        assert config.settings.default.model_names == ("big",)
        assert [rule.model_names for rule in config.settings.rules] == [("big",), ()]

    def test_defaults(self, tmp_path: Path) -> None:
        config = load_config(folder_of(tmp_path, semroute=MINIMAL, a="name: a\nmodel: m\ndescription: d\n"))
        settings = config.settings
        assert settings.encoder == "minilm"
        assert (settings.vote.neighbors, settings.vote.max_distance, settings.vote.min_confidence) == (
            20,
            "auto",
            "auto",
        )
        assert settings.escalations is None
        assert settings.select == "first"
        assert settings.rules == ()
        assert settings.models["m"] == ModelCard()
        assert settings.models["m"].provider == "openai"

    def test_a_model_may_be_named_without_a_word_about_it(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path, semroute="default: {models: [m, n]}\nmodels:\n  m:\n  n:\n")
        assert load_config(folder).settings.models == {"m": ModelCard(), "n": ModelCard()}

    def test_no_routes_and_several_default_models(self, tmp_path: Path) -> None:
        config = load_config(
            folder_of(tmp_path, semroute="default: {models: [m, n]}\nmodels: {m: {}, n: {}}\n")
        )
        assert config.routes == ()
        assert config.settings.default.model_names == ("m", "n")

    def test_select_by_weights(self, tmp_path: Path) -> None:
        weights = "select: {quality: 1, cost: 0.00465, ttft: 0.0000208, itl: 2.07e-3}\n"
        config = load_config(
            folder_of(tmp_path, semroute=MINIMAL + weights, a="name: a\nmodel: m\ndescription: d\n")
        )
        assert config.settings.select == Weights(quality=1, cost=0.00465, ttft=0.0000208, itl=0.00207)

    def test_every_condition_and_every_outcome_of_a_rule(self, tmp_path: Path) -> None:
        rules = """
            rules:
              - {name: a, when: {min_chars: 10, max_chars: 20, multi_step: false}, models: [m]}
              - {name: b, when: {step: rewrite}, only: [r]}
              - name: c
                when: {step: [plan, act], metadata: {plan: pro, seats: [1, 2.5], beta: true}}
                route: r
        """
        text = MINIMAL + textwrap.dedent(rules)
        config = load_config(folder_of(tmp_path, semroute=text, r="name: r\nmodel: m\ndescription: d\n"))
        a, b, c = config.settings.rules
        assert (a.when.min_chars, a.when.max_chars, a.when.multi_step, a.when.has_code) == (
            10,
            20,
            False,
            None,
        )
        assert a.model_names == ("m",)
        assert (b.when.step, b.only) == (("rewrite",), ("r",))
        assert c.when.step == ("plan", "act")
        assert c.when.metadata == {"plan": "pro", "seats": (1, 2.5), "beta": True}

    def test_both_example_folders_of_the_project_load(self) -> None:
        import semroute

        starter = Path(semroute.__file__).parent / "starter"
        assert load_config(starter).routes
        assert load_config(Path(__file__).parent.parent / "routes").routes


class TestFolder:
    def test_routes_are_in_the_order_of_file_names_then_as_written(self, tmp_path: Path) -> None:
        listed = "routes:\n  - {name: z, model: m, description: d}\n  - {name: y, model: m, description: d}\n"
        files = {
            "b": listed,
            "a": "name: x\nmodel: m\ndescription: d\n",
            "c": "name: w\nmodel: m\ndescription: d\n",
        }
        one, two = tmp_path / "one", tmp_path / "two"
        folder_of(one, semroute=MINIMAL, **files)
        folder_of(two, **dict(reversed(files.items())), semroute=MINIMAL)
        assert [route.name for route in load_config(one).routes] == ["x", "z", "y", "w"]
        assert load_config(one).canonical() == load_config(two).canonical()

    def test_yml_is_read_and_what_editors_leave_behind_is_not(self, tmp_path: Path) -> None:
        folder_of(tmp_path, semroute=MINIMAL)
        (tmp_path / "a.yml").write_text("name: a\nmodel: m\ndescription: d\n")
        for name in (".hidden.yaml", "#a.yaml", ".#a.yaml", "a.yaml~", "a.yaml.swp", "~a.yaml", "README.md"):
            (tmp_path / name).write_text("}{")
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "x.yaml").write_text("}{")
        (tmp_path / "notes").mkdir()
        assert [route.name for route in load_config(tmp_path).routes] == ["a"]

    def test_a_link_to_a_file_elsewhere_is_read(self, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere.txt"
        elsewhere.write_text("name: a\nmodel: m\ndescription: d\n")
        folder = folder_of(tmp_path / "routes", semroute=MINIMAL)
        (folder / "a.yaml").symlink_to(elsewhere)
        assert [route.name for route in load_config(folder).routes] == ["a"]

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="byte-order-mark"),
            pytest.param(lambda data: data.replace(b"\n", b"\r\n"), id="CRLF"),
            pytest.param(lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"), id="both"),
        ],
    )
    def test_what_windows_editors_write_means_the_same(self, example: Path, damage: object) -> None:
        before = load_config(example)
        for file in example.iterdir():
            file.write_bytes(damage(file.read_bytes()))
        after = load_config(example)
        assert after == before
        assert after.place("billing", "utterances", 0) == Place(str(example / "billing.yaml"), 6, 5)

    def test_pyyaml_without_libyaml_reads_the_same(self, example: Path) -> None:
        script = (
            "import sys, json, pathlib\n"
            "sys.modules['yaml._yaml'] = None\n"
            "from semroute.config import load_config\n"
            "json.dump(load_config(pathlib.Path(sys.argv[1])).canonical(), sys.stdout)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, example], capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout) == load_config(example).canonical()


class TestScalars:
    @pytest.mark.parametrize(
        "written",
        [
            "NO",
            "no",
            "on",
            "Off",
            "yes",
            "y",
            "012",
            "0o14",
            "0x1F",
            "12:30",
            "1_000",
            "1e",
            "2001-01-01",
            "2001-12-14t21:59:43.10-05:00",
            "NaN",
            "inf",
            "nil",
            "None",
            "=",
            "1.2.3",
            "٣",
        ],
    )
    def test_what_reads_like_no_number_is_text(self, written: str) -> None:
        assert with_utterance(written) == written

    @pytest.mark.parametrize("written", [".5", "0.5", "+0.5", "5.0e-1", "5e-1"])
    def test_numbers_may_be_written_as_yaml_has_them(self, written: str, tmp_path: Path) -> None:
        settings = f"default: {{models: [m, n]}}\nmodels: {{m: , n: }}\nvote: {{max_distance: {written}}}\n"
        (tmp_path / "semroute.yaml").write_text(settings)
        assert load_config(tmp_path).settings.vote.max_distance == 0.5

    @pytest.mark.parametrize("text", ["5", "1e3", "true", "null", "~", ".nan", "2001-01-01", "<<", "- x"])
    def test_quotes_make_text(self, text: str) -> None:
        assert with_utterance(f"'{text}'") == with_utterance(f'"{text}"') == text

    @given(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
    @settings(max_examples=150, deadline=None)
    def test_any_text_comes_back_from_json_quotes(self, text: str) -> None:
        assert with_utterance(json.dumps(text)) == text

    def test_json_escapes_stay_as_they_are_outside_double_quotes(self) -> None:
        assert with_utterance(r"'a \ud83d\ude00 b'") == r"a \ud83d\ude00 b"
        assert with_utterance(r"a \ud83d\ude00 b # \ud83d\ude00") == r"a \ud83d\ude00 b"
        assert with_utterance(r'"\\ud83d\\ude00 \ud83d\ude00"') == "\\ud83d\\ude00 \U0001f600"

    def test_block_texts_and_anchors(self, tmp_path: Path) -> None:
        route = """\
            name: a
            model: &model m
            utterances:
              - |-
                two
                lines
              - >-
                folded
                into one
            heldout: &texts
              - a text
        """
        other = "routes:\n  - &r {name: b, model: m, description: d, utterances: &u [x y, z]}\n"
        config = load_config(folder_of(tmp_path, semroute=MINIMAL, a=route, b=other))
        assert config.route("a").utterances == ("two\nlines", "folded into one")
        assert config.route("b").utterances == ("x y", "z")

    def test_an_alias_repeats_a_value(self, tmp_path: Path) -> None:
        routes = """\
            routes:
              - {name: a, models: &cheap [m, n], description: d}
              - {name: b, models: *cheap, description: d}
        """
        text = "default: {model: m}\nmodels: {m: {}, n: {}}\n"
        config = load_config(folder_of(tmp_path, semroute=text, all=routes))
        assert config.route("b").models == ("m", "n")


class TestPlaces:
    def test_where_each_text_stands(self, example: Path) -> None:
        config = load_config(example)
        billing, settings_file = str(example / "billing.yaml"), str(example / "semroute.yaml")
        assert config.place("billing", "utterances", 0) == Place(billing, 6, 5)
        assert config.place("billing", "heldout", 0) == Place(billing, 8, 5)
        assert config.place(None, "heldout", 0) == Place(settings_file, 5, 13)
        assert str(config.place("billing", "utterances", 0)) == f"{billing}:6:5"

    def test_nothing_stands_where_there_is_no_text(self, example: Path) -> None:
        config = load_config(example)
        assert config.place("billing", "utterances", 1) is None
        assert config.place("nowhere", "utterances", 0) is None
        assert config.place(None, "utterances", 0) is None

    def test_canonical_json_has_no_places(self, example: Path) -> None:
        config = Config.from_canonical(load_config(example).canonical())
        assert config.place("billing", "utterances", 0) is None

    def test_the_file_is_named_as_the_caller_named_the_folder(
        self, example: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(example.parent)
        assert load_config(Path("routes")).place("billing", "utterances", 0) == Place(
            "routes/billing.yaml", 6, 5
        )
        monkeypatch.chdir(example)
        assert load_config(Path()).place("billing", "utterances", 0) == Place("billing.yaml", 6, 5)


class TestWarnings:
    def test_the_same_utterance_twice(self, tmp_path: Path) -> None:
        a = "name: a\nmodel: m\nutterances: [hello, one, hello, ' Hello ']\n"
        b = "name: b\nmodel: m\nutterances:\n  - two\n  - one\n"
        folder = folder_of(tmp_path, semroute=MINIMAL, a=a, b=b)
        said = [str(warning).replace(str(folder), "routes") for warning in load_config(folder).warnings]
        also = "also an utterance of route `a`, at routes/a.yaml:3:21; declared first, that route wins"
        assert said == [
            "routes/a.yaml:3:26: the same utterance as at routes/a.yaml:3:14; it is indexed once",
            "routes/a.yaml:3:33: but for case and white space the same utterance as at routes/a.yaml:3:14",
            f"routes/b.yaml:5:5: {also}",
        ]

    def test_the_same_heldout_prompt_twice(self, tmp_path: Path) -> None:
        text = "default: {model: m, heldout: [Out there]}\nmodels: {m: {}}\n"
        folder = folder_of(
            tmp_path, semroute=text, a="name: a\nmodel: m\nutterances: [d, e]\nheldout: [out  THERE]\n"
        )
        (warning,) = load_config(folder).warnings
        assert (warning.line, warning.column) == (4, 11)
        assert f"held out at {folder}/semroute.yaml:1:31 already" in warning.message

    def test_a_route_of_a_single_text(self, example: Path) -> None:
        said = [str(warning).removeprefix(f"{example}/") for warning in load_config(example).warnings]
        cure = "write ten or more, as different as can be"
        assert said == [
            f"billing.yaml:2:7: a single utterance; {cure}",
            f"coding.yaml:1:7: a single utterance; {cure}",
        ]
        (example / "coding.yaml").write_text(CODING + "  - why does this loop never end\n")
        (example / "billing.yaml").write_text("name: billing\ndescription: Invoices\nmodel: small\n")
        (warning,) = load_config(example).warnings
        assert (warning.line, warning.column) == (1, 7)
        assert warning.message.startswith("no utterances, so that only the description is indexed; ")

    def test_a_password_would_travel_in_the_index(self, tmp_path: Path) -> None:
        text = MINIMAL + "escalations: {store: 'postgresql://me:hunter2@db/x'}\n"
        config = load_config(folder_of(tmp_path, semroute=text, a="name: a\nmodel: m\nutterances: [d, e]\n"))
        (warning,) = config.warnings
        assert "PGPASSWORD" in warning.message
        assert "hunter2" not in str(config.warnings)


MODEL_NAMES = ("m", "n", "o")
_NAMES = st.sampled_from(MODEL_NAMES)
_SERVED = st.one_of(
    _NAMES.map(lambda name: {"model": name}),
    st.lists(_NAMES, min_size=1, unique=True).map(lambda names: {"models": names}),
)
_CONDITION = st.fixed_dictionaries(
    {"step": st.lists(st.text("abc", min_size=1), min_size=1)},
    optional={
        "min_chars": st.integers(0, 10),
        "max_chars": st.integers(10, 10**9),
        "has_code": st.booleans(),
        "metadata": st.dictionaries(
            st.text(max_size=5),
            st.one_of(st.text(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e9, 1e9)),
            min_size=1,
        ),
    },
)
_SETTINGS = st.fixed_dictionaries(
    {"default": _SERVED, "models": st.just({name: {} for name in MODEL_NAMES})},
    optional={
        "encoder": st.sampled_from(["static", "openai:text-embedding-3-small", "onnx:models/x"]),
        "vote": st.fixed_dictionaries(
            {},
            optional={"neighbors": st.integers(1, 1000), "max_distance": st.floats(0, 2) | st.just("auto")},
        ),
        "select": st.just("first") | st.fixed_dictionaries({"cost": st.floats(0, 1e6)}),
        "rules": st.lists(_CONDITION, max_size=3).map(
            lambda found: [{"name": f"r{i}", "when": when, "model": "m"} for i, when in enumerate(found)]
        ),
    },
)
_ROUTES = st.lists(
    st.fixed_dictionaries(
        {"served": _SERVED, "utterances": st.lists(st.text(min_size=1).filter(str.strip), min_size=1)},
        optional={"max_distance": st.floats(0, 2)},
    ),
    min_size=1,
    max_size=4,
)


class TestCanonical:
    def test_defaults_are_filled_in(self, tmp_path: Path) -> None:
        config = load_config(folder_of(tmp_path, semroute=MINIMAL, a="name: a\nmodel: m\ndescription: d\n"))
        canonical = config.canonical()
        assert canonical["settings"]["vote"] == {
            "neighbors": 20,
            "max_distance": "auto",
            "min_confidence": "auto",
        }
        assert canonical["routes"][0]["utterances"] == []

    def test_the_example_comes_back(self, example: Path) -> None:
        config = load_config(example)
        again = Config.from_canonical(json.loads(json.dumps(config.canonical())))
        assert again == config
        assert again.canonical() == config.canonical()
        assert again.warnings == ()

    def test_a_number_written_two_ways_is_one_number(self, tmp_path: Path) -> None:
        route = "name: a\nmodel: m\ndescription: d\nmax_distance: {}\n"
        one = folder_of(tmp_path / "one", semroute=MINIMAL, a=route.format("1"))
        two = folder_of(tmp_path / "two", semroute=MINIMAL, a=route.format("1.0"))
        assert json.dumps(load_config(one).canonical()) == json.dumps(load_config(two).canonical())

    def test_places_and_warnings_are_not_part_of_it(self, example: Path, tmp_path: Path) -> None:
        before = load_config(example)
        moved = example.rename(tmp_path / "moved")
        (moved / "billing.yaml").write_text("\n\n" + BILLING)
        assert load_config(moved) == before

    @given(_SETTINGS, _ROUTES)
    @settings(max_examples=60, deadline=None)
    def test_whatever_loads_comes_back_through_json(self, top: dict[str, object], found: list[dict]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "semroute.yaml").write_text(json.dumps(top))
            routes = [
                {"name": f"route {i}", **one.pop("served"), **one} for i, one in enumerate(map(dict, found))
            ]
            (folder / "all.yaml").write_text(json.dumps({"routes": routes}))
            config = load_config(folder)
        again = Config.from_canonical(json.loads(json.dumps(config.canonical())))
        assert again == config
        assert json.dumps(again.canonical()) == json.dumps(config.canonical())
        for i, route in enumerate(routes):
            assert config.route(f"route {i}").utterances == tuple(route["utterances"])

    @pytest.mark.parametrize(
        "damage",
        [
            {},
            {"settings": {}, "routes": []},
            {"settings": None, "routes": None},
            {"settings": {"default": {"model": "m"}, "models": {"m": {}}}, "routes": [3]},
            {"settings": {"default": {"model": "m"}, "models": {"m": {}}}, "routes": [], "more": 1},
        ],
    )
    def test_damage_is_refused(self, damage: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            Config.from_canonical(damage)

    def test_damage_is_named_by_its_path(self, example: Path) -> None:
        canonical = load_config(example).canonical()
        canonical["routes"][1]["models"][1] = "bog"
        canonical["settings"]["vote"]["neighbors"] = 0
        with pytest.raises(ConfigError) as caught:
            Config.from_canonical(canonical)
        assert [problem.file for problem in caught.value.problems] == [
            "routes[1].models[1]",
            "settings.vote.neighbors",
        ]


class TestShapes:
    def test_a_config_cannot_be_changed(self, example: Path) -> None:
        config = load_config(example)
        with pytest.raises(ValidationError):
            config.route("billing").model = "big"
        with pytest.raises(AttributeError):
            config.routes = ()

    def test_shapes_are_strict_from_python_too(self) -> None:
        assert Route(name="a", model="m", utterances=("x",)).model_names == ("m",)
        assert Rule(name="r", when=RuleCondition(step=("plan",)), only=("a",)).model_names == ()
        for wrong in (
            {"name": "a"},
            {"name": "a", "model": 1},
            {"name": "a", "model": "m", "models": ("m",)},
        ):
            with pytest.raises(ValidationError):
                Route(**wrong, description="d")

    @pytest.mark.parametrize(
        "pattern",
        [
            r"(?i)stack ?trace",
            r"\b(?:foo|bar)+\b",
            r"(\d{1,3}\.){3}\d{1,3}",
            r"(?:\w++ )+x",
            r"(?>a+)+b",
            r"(?:ab?)+",
            r"(?s)^.{0,200}Traceback",
        ],
    )
    def test_harmless_patterns(self, pattern: str) -> None:
        assert RuleCondition(any_regex=(pattern,)).any_regex == (pattern,)

    @pytest.mark.parametrize(
        "pattern",
        [
            "(a+)+",
            "(a*)*b",
            "(?:a+b?)*",
            "([a-z]+,?)+$",
            "((ab)+|c)+",
            "(a{1,9}){2,40}",
            "(?=(x+)+)y",
            "(a|a)*b",
            "(a|aa)+$",
            r"(?:.|\s)*foo",
            "(a?){15}a{15}b",
            r"(.*)\1x",
            "(?:a*b?){15}c",
        ],
    )
    def test_patterns_that_a_prompt_could_stall(self, pattern: str) -> None:
        with pytest.raises(ValidationError, match="possessive"):
            RuleCondition(any_regex=(pattern,))


class TestSchemas:
    def test_every_key_is_explained(self) -> None:
        schemas = json_schemas()
        assert set(schemas) == {"semroute", "route"}
        json.dumps(schemas)
        for schema in schemas.values():
            assert schema["title"]
            assert schema["description"]
            objects = [schema, *schema["$defs"].values()]
            for name, key in (pair for one in objects for pair in one.get("properties", {}).items()):
                assert key.get("description") or "$ref" in key, name

    def test_unknown_keys_are_unknown_to_editors(self) -> None:
        schemas = json_schemas()
        assert schemas["semroute"]["additionalProperties"] is False
        assert {"Route", "RouteList"} <= set(schemas["route"]["$defs"])
        route = schemas["route"]["$defs"]["Route"]
        assert route["additionalProperties"] is False
        assert route["oneOf"] == [{"required": ["model"]}, {"required": ["models"]}]
        assert set(route["required"]) == {"name"}

    @pytest.mark.parametrize(
        ("shape", "key", "bad", "good"),
        [
            (Rule, "name", ["", " a", "a ", "a" * 101, "a\nb", "a\x9bb"], ["a", "é ü", "a" * 100, "a/b"]),
            (Settings, "encoder", ["minilm2", "onnx:", "onnx: ", "x:y"], ["static", "onnx: a b", "openai:m"]),
            (
                ModelCard,
                "base_url",
                [
                    "ftp://x",
                    "x.y",
                    "https://",
                    "https://u:p@x.y",
                    "https://x.y/?a",
                    "https://x.y/#a",
                    "https://x y",
                ],
                ["https://x.y", "HTTP://x:80/v1", "http://[::1]:8/v1/", "https://x.y/a@b"],
            ),
            (ModelCard, "api_key_env", ["sk-abc", "key", "", "1A", "A" * 101], ["KEY", "_K1", "A" * 100]),
            (EscalationSettings, "store", ["mysql:x", "sqlite:", "jsonl:x"], ["sqlite:x", "postgres://h"]),
            (LogSettings, "store", ["mysql:x", "jsonl:"], ["jsonl:x", "postgresql://h/d"]),
        ],
    )
    def test_an_editor_marks_what_a_build_refuses(
        self, shape: type[Shape], key: str, bad: list[str], good: list[str]
    ) -> None:
        schema = shape.model_json_schema(schema_generator=EditorSchema)["properties"][key]
        (texts,) = [one for one in (schema, *schema.get("anyOf", ())) if one.get("type") == "string"]

        def marked(text: str) -> bool:
            fits = texts.get("minLength", 0) <= len(text) <= texts.get("maxLength", len(text))
            return not (fits and re.search(texts["pattern"], text))

        def refused(text: str) -> bool:
            try:
                shape.model_validate({key: text})
            except ValidationError as error:
                return any(one["loc"] == (key,) for one in error.errors())
            return False

        assert all(map(marked, bad)) and all(map(refused, bad))
        assert not any(map(marked, good)) and not any(map(refused, good))

    def test_lists_and_mappings_too(self) -> None:
        schemas = json_schemas()
        route, settings = schemas["route"]["$defs"]["Route"], schemas["semroute"]
        rule, when = (settings["$defs"][name]["properties"] for name in ("Rule", "RuleCondition"))
        assert "uniqueItems" in json.dumps(route["properties"]["models"])
        assert route["properties"]["utterances"]["items"] == {"pattern": r"\S", "type": "string"}
        asked = [one["required"] for one in route["allOf"][0]["anyOf"]]
        assert asked == [["utterances"], ["description"]]
        assert rule["only"]["minItems"] == when["any_regex"]["minItems"] == when["step"]["minItems"] == 1
        # What no name is, is no key: a pattern of keys alone would let others have any value.
        for named in (settings["properties"]["models"], settings["$defs"]["Floors"]["properties"]["tags"]):
            assert "patternProperties" not in named and named["additionalProperties"] is not True
            assert not re.search(named["propertyNames"]["pattern"], " a")


def test_fifteen_thousand_utterances(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(500)]
    chosen = random.Random(7)
    files = {}
    for r in range(150):
        lines = "".join(f"  - {' '.join(chosen.choices(words, k=8))}\n" for _ in range(100))
        files[f"r{r:03}"] = f"name: r{r}\nmodel: m\nutterances:\n{lines}"
    folder = folder_of(tmp_path, semroute=MINIMAL, **files)
    started = time.perf_counter()
    config = load_config(folder)
    loaded = time.perf_counter()
    text = json.dumps(config.canonical())
    dumped = time.perf_counter()
    again = Config.from_canonical(json.loads(text))
    assert again == config
    # Far above what is measured (0.11 s and 0.04 s), and far below what PyYAML's own loader takes (3 s).
    assert loaded - started < 1.0
    assert time.perf_counter() - dumped < 0.5


def test_a_text_that_swallows_the_item_below_it_is_a_warning(tmp_path):
    """One space too many before `- `, and YAML reads two utterances as one."""
    (tmp_path / "semroute.yaml").write_text("default: {model: m}\nmodels: {m: }\n")
    (tmp_path / "a.yaml").write_bytes(
        b"name: a\nmodel: m\nutterances:\n"
        b"  - one\n"
        b"    - two\n"
        b"  - three\n"
        b"    goes on -\n"
        b"    here\n"
        b"  - 'four\n"
        b"  - five'\n"
        b"  - |\n"
        b"    a list:\n"
        b"    - in a block\n"
        b"heldout:\n"
        b"    - six\r\n"
        b"       - seven\r\n"
    )
    config = load_config(tmp_path)
    assert [(warning.line, warning.column) for warning in config.warnings] == [(5, 5), (10, 3), (16, 8)]
    assert f"that begins at {tmp_path}/a.yaml:4:5; indent each `- ` alike" in config.warnings[0].message
    assert config.routes[0].utterances[:2] == ("one - two", "three goes on - here")


def test_a_text_that_a_comment_cuts_is_a_warning(tmp_path):
    """The likeliest slip of people who write prompts into YAML: ` #` begins a comment."""
    (tmp_path / "semroute.yaml").write_text("default: {model: m}\nmodels: {m: }\n")
    (tmp_path / "a.yaml").write_text(
        "name: a  # a remark\nmodel: m\nutterances:\n"
        "  - see invoice # 5\n"
        "  - 'see invoice # 6'\n"
        "  - see bill #7\n"
        "  - c# and f# and issue#8\n"
        "  # a line of its own\n"
        "  - last one\t# with a tab\n"
        "heldout: [pay it # now\n  ]\n"
    )
    config = load_config(tmp_path)
    assert [(warning.line, warning.column) for warning in config.warnings] == [
        (4, 5),
        (6, 5),
        (9, 5),
        (10, 11),
    ]
    assert all("quote" in warning.message for warning in config.warnings)
    assert config.routes[0].utterances[0] == "see invoice"
