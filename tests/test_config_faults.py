"""What a bad configuration is told: every problem at once, at its place, with what would be right (C1 to C5)."""

from __future__ import annotations

import json
import os
import re
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semroute.config import load_config
from semroute.errors import ConfigError

GOOD_SETTINGS = "default: {model: m}\nmodels: {m: {}, n: {}}\n"
GOOD_ROUTE = "name: a\nmodel: m\nutterances: [hello]\n"


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Write files, load them, and give back the lines that the user sees."""
    monkeypatch.chdir(tmp_path)

    def load(**files: str | bytes) -> list[str]:
        folder = Path("routes")
        folder.mkdir()
        for name, content in {"semroute": GOOD_SETTINGS, "a": GOOD_ROUTE, **files}.items():
            data = textwrap.dedent(content).encode() if isinstance(content, str) else content
            (folder / f"{name}.yaml").write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            load_config(folder)
        return [str(problem) for problem in caught.value.problems]

    return load


Refusal = Callable[..., list[str]]


class TestC1Scalars:
    """What PyYAML turns into booleans, octal and sexagesimal numbers and dates."""

    @pytest.mark.parametrize(
        "written", ["NO", "on", "012", "12:30", "1_000", "2001-01-01", "2001-01-01T12:30:00Z"]
    )
    def test_is_text(self, tmp_path: Path, written: str) -> None:
        (tmp_path / "semroute.yaml").write_text(GOOD_SETTINGS)
        (tmp_path / "a.yaml").write_text(f"name: {written}\nmodel: m\nutterances: [{written}]\n")
        route = load_config(tmp_path).route(written)
        assert route.utterances == (written,)

    @pytest.mark.parametrize(
        ("written", "kind"),
        [
            ("1e3", "a number with a point or an exponent"),
            ("5", "a number"),
            ("-0.5", "a number with a point or an exponent"),
            ("true", "true or false"),
            ("False", "true or false"),
        ],
    )
    def test_or_is_refused_with_a_line(self, refusal: Refusal, written: str, kind: str) -> None:
        route = f"name: a\nmodel: m\nutterances:\n  - fine\n  - {written}\n"
        assert refusal(a=route) == [f"routes/a.yaml:5:5: must be text, not {kind}; put it in quotes"]

    @pytest.mark.parametrize("written", ["", "~", "null"])
    def test_nothing_is_no_text(self, refusal: Refusal, written: str) -> None:
        (problem,) = refusal(a=f"name: a\nmodel: m\nutterances:\n  - fine\n  - {written}\n")
        assert "must be text, not nothing; fill it or delete it" in problem
        assert problem.startswith("routes/a.yaml:5:")

    def test_words_are_no_booleans_and_no_numbers(self, refusal: Refusal) -> None:
        text = GOOD_SETTINGS + (
            "vote: {neighbors: 012, max_distance: 1_0}\nrules: [{name: r, when: {has_code: yes}, model: m}]\n"
        )
        assert refusal(semroute=text) == [
            "routes/semroute.yaml:3:19: must be a whole number, not text; write it as in 20, without quotes",
            "routes/semroute.yaml:3:38: must be auto, or a number from 0 to 2 without quotes",
            "routes/semroute.yaml:4:36: must be true or false, not text; write true or false, without quotes",
        ]


class TestC2DuplicateKeys:
    def test_are_refused_with_both_places(self, refusal: Refusal) -> None:
        route = "name: a\nmodel: m\nutterances: [x]\nname: b\n"
        text = "default: {model: m, heldout: [], model: n}\nmodels: {m: {}, n: {}}\n"
        assert refusal(a=route, semroute=text) == [
            "routes/a.yaml:4:1: duplicate key `name`, which stands at routes/a.yaml:1:1 already; keep one",
            "routes/semroute.yaml:1:34: duplicate key `model`, which stands at routes/semroute.yaml:1:11 already;"
            " keep one",
        ]

    def test_of_models_too(self, refusal: Refusal) -> None:
        text = "default: {model: m}\nmodels:\n  m: {}\n  'm': {quality: 5}\n"
        (problem,) = refusal(semroute=text)
        assert problem.startswith("routes/semroute.yaml:4:3: duplicate key `m`")


def _billion_laughs(levels: int = 9) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def _merge_bomb(levels: int = 30) -> str:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: v}}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def _deep_aliases() -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} {'[' * 20}*a{i - 1}{']' * 20}" for i in range(1, 200)]
    return "\n".join(lines) + "\n"


class TestC3Bombs:
    @pytest.mark.parametrize(
        ("bomb", "reason"),
        [
            pytest.param(_merge_bomb(), "merge keys", id="merge-key bomb of 1 KB"),
            pytest.param(_billion_laughs(), "aliases repeat more than 100,000 values", id="billion laughs"),
            pytest.param("a: " + "[" * 3000 + "]" * 3000, "deeper than 32", id="3,000 lists"),
            pytest.param("a: " + "{k: " * 3000 + "}" * 3000, "deeper than 32", id="3,000 mappings"),
            pytest.param("- " * 3000 + "x", "deeper than 32", id="3,000 dashes"),
            pytest.param(
                "".join(f"{' ' * i}k:\n" for i in range(3000)), "deeper than 32", id="3,000 indentations"
            ),
            pytest.param("? " * 3000, "a key must be text", id="3,000 complex keys"),
            pytest.param(_deep_aliases(), "deeper than 32 levels by aliases", id="depth by aliases"),
            pytest.param("a: &a [*a]", "stands inside what it repeats", id="recursion"),
        ],
    )
    def test_are_refused_in_50_ms(self, tmp_path: Path, bomb: str, reason: str) -> None:
        (tmp_path / "semroute.yaml").write_text(GOOD_SETTINGS)
        (tmp_path / "bomb.yaml").write_text(bomb)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            with pytest.raises(ConfigError) as caught:
                load_config(tmp_path)
            seconds.append(time.perf_counter() - started)
        assert any(reason in problem.message for problem in caught.value.problems)
        assert min(seconds) < 0.05

    def test_a_file_over_the_limit_is_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "semroute.yaml").write_text(GOOD_SETTINGS)
        with (tmp_path / "a.yaml").open("wb") as stream:
            stream.truncate(17 * 2**20)
        with pytest.raises(ConfigError, match="larger than 16 MiB; split it into several route files"):
            load_config(tmp_path)

    def test_half_a_million_values_are_the_limit_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "semroute.yaml").write_text(GOOD_SETTINGS)
        (tmp_path / "a.yaml").write_text("utterances: [" + "x," * 500_001 + "]")
        with pytest.raises(ConfigError, match="more than 500,000 values"):
            load_config(tmp_path)


class TestC4Tags:
    @pytest.mark.parametrize(
        "written",
        ["!!str 5", "!x y", "! z", "!!python/object/apply:os.system [ls]", "!!binary aGk=", "!!map {}"],
    )
    def test_are_refused(self, refusal: Refusal, written: str) -> None:
        assert refusal(a=f"name: a\nmodel: m\nutterances:\n  - fine\n  - {written}\n") == [
            "routes/a.yaml:5:5: tags (`!`) are not read; put it in quotes if it is a text"
        ]

    def test_on_keys_and_whole_files_too(self, refusal: Refusal) -> None:
        problems = refusal(a="--- !!map\n!!str name: a\nmodel: m\nutterances: [x]\n")
        assert [problem.split(": ")[0] for problem in problems] == ["routes/a.yaml:1:5", "routes/a.yaml:2:1"]


class TestC5:
    """One message per problem. Each case alone; all of them at once stand in TestAllAtOnce."""

    @pytest.mark.parametrize(
        ("route", "expected"),
        [
            pytest.param(
                "name: a\nmodel: m\nutterances: [x]\nmax_distanse: 0.5\n",
                "4:1: unknown key `max_distanse`; did you mean `max_distance`? known here: model, models,"
                " cascade, name, description, utterances, heldout, max_distance, min_confidence",
                id="unknown key",
            ),
            pytest.param(
                "name: a\nmodel: m\nutterances: [x]\nmax_distance: '0.5'\n",
                "4:15: must be a number, not text; write it as in 0.5, without quotes",
                id="threshold as text",
            ),
            pytest.param(
                "name: a\nmodel: m\nutterances: [x]\nmax_distance: .nan\n",
                "4:15: must be a finite number",
                id="NaN",
            ),
            pytest.param(
                "name: a\nmodel: m\nutterances: [x]\nmin_confidence: 1e999\n",
                "4:17: must be a finite number",
                id="infinite",
            ),
            pytest.param(
                "name: a\nmodel: m\nutterances: [x]\nmax_distance: 2.5\n",
                "4:15: must be at most 2",
                id="out of range",
            ),
            pytest.param(
                "name: a\nmodels: [m, n, m]\nutterances: [x]\n",
                "2:16: `m` is named twice, so that fallbacks go in a circle; name it once",
                id="fallback cycle",
            ),
            pytest.param(
                "name: a\nmodels: []\nutterances: [x]\n",
                "2:9: must not be empty; fill it or delete the key",
                id="no models",
            ),
            pytest.param(
                "name: a\nutterances: [x]\n",
                "1:1: `model` or `models` is missing; give exactly one",
                id="no model",
            ),
            pytest.param(
                "name: a\nmodel: m\nmodels: [n]\nutterances: [x]\n",
                "3:9: `model` and `models` are given; keep one of them",
                id="two ways to name models",
            ),
            pytest.param(
                "model: m\nutterances: [x]\n",
                "1:1: `name` is missing: What a decision calls the route; unique.",
                id="no name",
            ),
            pytest.param(
                "name: a\nmodel: m\n",
                "1:1: a route needs utterances, or at least a description",
                id="nothing to match",
            ),
            pytest.param(
                "name: a\nmodel: m\nutterances:\n  - ask: me\n",
                "4:5: must be text, not a mapping (`key: value`); put it in quotes if it is a text, as one with `: `"
                " in it or at its end must be",
                id="colon in an utterance",
            ),
            pytest.param(
                "name: a\nmodel: m\nutterances:\n  - ' '\n",
                "4:5: must not be blank; write the text or delete it",
                id="blank utterance",
            ),
            pytest.param(
                "name: a\nmodel: m\nutterances: hello\n",
                "3:13: must be a list, not text; write `- ` before each item",
                id="one text for a list",
            ),
            pytest.param(
                "name: a\nmodel: large\nutterances: [x]\n",
                "2:8: unknown model `large`; add it under `models:` in routes/semroute.yaml,"
                " or name one of `m`, `n`",
                id="unknown model",
            ),
            pytest.param(
                "name: ' a'\nmodel: m\nutterances: [x]\n",
                "1:7: a name must not be empty, or begin or end with white space",
                id="space at the end of a name",
            ),
            pytest.param(
                "name: default\nmodel: m\nutterances: [x]\n",
                "1:7: `default` is what serves where no route wins; give the route another name",
                id="a route called default",
            ),
            pytest.param(
                f"name: {'a' * 101}\nmodel: m\nutterances: [x]\n",
                "1:7: a name has at most 100 characters, not 101",
                id="long name",
            ),
            pytest.param(
                'name: "a\\nb"\nmodel: m\nutterances: [x]\n',
                "1:7: a name must not hold control characters, such as a line break",
                id="line break in a name",
            ),
            pytest.param(
                "name: a\nmodel: m\nutterances: [x]\nencoder: static\n",
                "4:1: unknown key `encoder`; it belongs in semroute.yaml",
                id="a setting in a route",
            ),
            pytest.param(
                "- name: a\n  model: m\n",
                "1:1: a list of routes goes under the key `routes:`",
                id="bare list",
            ),
            pytest.param(
                "routes: []\n",
                "1:9: must be a list of routes, each beginning with `- name: `",
                id="empty list of routes",
            ),
            pytest.param("just words\n", "1:1: must be a mapping (`key: value`), not text", id="text"),
            pytest.param(
                "# later\n", "1:1: nothing in it; write a route or delete the file", id="comments only"
            ),
        ],
    )
    def test_routes(self, refusal: Refusal, route: str, expected: str) -> None:
        assert refusal(a=route) == [f"routes/a.yaml:{expected}"]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param(
                "models: {m: {}}\n",
                "1:1: `default` is missing: What serves a prompt that no route wins.",
                id="missing default",
            ),
            pytest.param("- x\n", "1:1: must be a mapping (`key: value`), not a list", id="list"),
            pytest.param(
                "default: m\nmodels: {m: {}}\n", "1:10: must be a mapping (`key: value`), not text", id="text"
            ),
            pytest.param(
                "encoder: minlm\n" + GOOD_SETTINGS,
                "1:10: unknown encoder `minlm`; did you mean `minilm`? it is one of minilm, static,"
                " sentence-transformers:NAME_OR_PATH, onnx:PATH, openai:MODEL",
                id="unknown encoder",
            ),
            pytest.param(
                "encoder: 'openai:'\n" + GOOD_SETTINGS,
                "1:10: `openai:` lacks what comes after the colon; it is one of minilm, static,"
                " sentence-transformers:NAME_OR_PATH, onnx:PATH, openai:MODEL",
                id="encoder without its model",
            ),
            pytest.param(
                "default: {model: m}\nmodels: {m: {id: '${MODEL}'}}\n",
                "2:18: environment variables are not read into YAML; write the value itself, and for a key the"
                " variable's name under api_key_env",
                id="unset environment variable",
            ),
            pytest.param(
                "default: {model: m}\nmodels: {m: {prompt_usd_per_1m: '${PRICE}'}}\n",
                "2:33: environment variables are not read into YAML; write the value itself, and for a key the"
                " variable's name under api_key_env",
                id="unset environment variable for a number",
            ),
            pytest.param(
                "default: {model: m}\nmodels: {m: {base_url: 'http://example.com/v1', api_key_env: KEY}}\n",
                "2:24: must begin with https://, or the key of `api_key_env` travels in the clear",
                id="key in the clear",
            ),
            pytest.param(
                GOOD_SETTINGS + "select: cheapest\n",
                "3:9: must be first, or weights such as {quality: 1, cost: 0.005}",
                id="unknown way to select",
            ),
            pytest.param(
                GOOD_SETTINGS + "select: {cost: -1}\n", "3:16: must be at least 0", id="negative weight"
            ),
            pytest.param(
                GOOD_SETTINGS + "select: {price: 1}\n",
                "3:10: unknown key `price`; known here: quality, cost, ttft, itl",
                id="unknown weight",
            ),
            pytest.param(
                GOOD_SETTINGS + "vote: {neighbors: 0}\n", "3:19: must be at least 1", id="no neighbours"
            ),
            pytest.param(
                GOOD_SETTINGS + "escalations: {store: mysql://x}\n",
                "3:22: must be sqlite:PATH or postgresql://HOST/DATABASE",
                id="unknown store",
            ),
            pytest.param(
                GOOD_SETTINGS + "rules: [{name: r, when: {step: x}, route: b}]\n",
                "3:43: unknown route `b`; write a file for it, or name one of `a`",
                id="unknown route",
            ),
            pytest.param(
                GOOD_SETTINGS + "rules: [{name: r, when: {step: x}, model: m, route: a}]\n",
                "3:9: `route` and `model` are given; keep one of them",
                id="two outcomes",
            ),
            pytest.param(
                GOOD_SETTINGS + "rules: [{name: r, when: {}, model: m}]\n",
                "3:25: a rule needs a condition; give one of min_chars, max_chars, has_code, any_regex,"
                " multi_step, metadata, step",
                id="no condition",
            ),
            pytest.param(
                GOOD_SETTINGS + "rules: [{name: r, when: {min_chars: 9, max_chars: 8}, model: m}]\n",
                "3:51: must be at least min_chars, which is 9; as it is the rule never holds",
                id="never holds",
            ),
            pytest.param(
                GOOD_SETTINGS + "rules: [{name: r, when: {any_regex: ['ok', 'a(b']}, model: m}]\n",
                "3:44: not a regex: missing ), unterminated subpattern at character 2 of the regex",
                id="bad regex",
            ),
            pytest.param(
                GOOD_SETTINGS + "rules: [{name: r, when: {any_regex: [(a+)+$]}, model: m}]\n",
                "3:38: a choice or a repetition of varying length inside a repetition, or a backreference, can take"
                r" for ever on a hostile prompt; make it possessive, as in (?:\w++ )+, or write two regexes",
                id="catastrophic regex",
            ),
            pytest.param(
                GOOD_SETTINGS + "rules: [{name: r, when: {step: []}, model: m}]\n",
                "3:32: a rule needs a condition; give one of min_chars, max_chars, has_code, any_regex,"
                " multi_step, metadata, step",
                id="empty condition",
            ),
            pytest.param(
                GOOD_SETTINGS + "rules: [{name: r, when: {has_code: true}, only: [a, a]}]\n",
                "3:53: `a` is named twice; name it once",
                id="route named twice",
            ),
            pytest.param(
                GOOD_SETTINGS
                + "rules: [{name: r, when: {step: x}, model: m}, {name: r, when: {step: y}, model: m}]\n",
                "3:54: a rule named `r` stands at routes/semroute.yaml:3:16 already; rename one",
                id="two rules of one name",
            ),
            pytest.param(
                GOOD_SETTINGS + "utterances: [x]\n",
                "3:1: unknown key `utterances`; it belongs in the file of a route, beside semroute.yaml",
                id="route in the settings",
            ),
        ],
    )
    def test_settings(self, refusal: Refusal, text: str, expected: str) -> None:
        assert refusal(semroute=text) == [f"routes/semroute.yaml:{expected}"]

    def test_empty_settings(self, refusal: Refusal) -> None:
        assert refusal(semroute="# later\n") == [
            "routes/semroute.yaml:1:1: `default` is missing: What serves a prompt that no route wins.",
            "routes/semroute.yaml:1:1: `models` is missing: The models that may serve, by name.",
        ]

    def test_no_routes_and_one_model(self, tmp_path: Path) -> None:
        (tmp_path / "semroute.yaml").write_text(GOOD_SETTINGS)
        with pytest.raises(
            ConfigError, match=r"semroute.yaml:1:10: no routes and one default model leave nothing"
        ):
            load_config(tmp_path)

    def test_two_routes_of_one_name(self, refusal: Refusal) -> None:
        assert refusal(b="name: a\nmodel: m\nutterances: [x]\n") == [
            "routes/b.yaml:1:7: a route named `a` stands at routes/a.yaml:1:7 already; rename one"
        ]

    def test_indexed_and_held_out(self, refusal: Refusal) -> None:
        text = "default: {model: m, heldout: [one, fine]}\nmodels: {m: {}}\n"
        a = "name: a\nmodel: m\nutterances: [One, two]\nheldout: [' TWO', three]\n"
        b = "name: b\nmodel: m\nutterances: [four]\nheldout: [two]\n"
        cure = "what is indexed cannot be held out, so delete one of the two"
        assert refusal(semroute=text, a=a, b=b) == [
            f"routes/a.yaml:4:11: also an utterance, at routes/a.yaml:3:19; {cure}",
            f"routes/b.yaml:4:11: also an utterance, at routes/a.yaml:3:19; {cure}",
            f"routes/semroute.yaml:1:31: also an utterance, at routes/a.yaml:3:14; {cure}",
        ]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_utf_16(self, refusal: Refusal, encoding: str) -> None:
        (problem,) = refusal(a=GOOD_ROUTE.encode(encoding))
        assert problem.startswith("routes/a.yaml:1:")
        assert "save the file as UTF-8" in problem

    def test_latin_1(self, refusal: Refusal) -> None:
        route = "name: a\r\nmodel: m\r\nutterances: [x, déjà vu]\r\n".encode("latin-1")
        assert refusal(a=route) == ["routes/a.yaml:3:18: not UTF-8 from here on; save the file as UTF-8"]

    def test_tabs(self, refusal: Refusal) -> None:
        assert refusal(a="name: a\nmodel: m\nutterances:\n\t- x\n") == [
            "routes/a.yaml:4:1: a tab in the indentation; indent with spaces"
            " (the parser says: found character that cannot start any token)"
        ]

    def test_invisible_characters(self, refusal: Refusal) -> None:
        route = "name: a\nmodel: m\nutterances:\n  - be\x07ep\n  - 'a\u2028b'\n  - x\ufeffy\n"
        cure = 'delete it, or write "{}" inside double quotes'
        assert refusal(a=route) == [
            f"routes/a.yaml:4:7: invisible character U+0007; {cure.format(chr(92) + 'u0007')}",
            f"routes/a.yaml:5:7: invisible character U+2028; {cure.format(chr(92) + 'u2028')}",
            f"routes/a.yaml:6:6: invisible character U+FEFF; {cure.format(chr(92) + 'ufeff')}",
        ]


class TestSyntax:
    @pytest.mark.parametrize(
        ("route", "expected"),
        [
            ("name: a: b\n", "1:8: put it in quotes: a value with a second `: `"),
            ("name: a\nutterances:\n  - 'x\n  - y\n", "3:5: a quote that is never closed begins here"),
            ('name: a\nutterances:\n  - "x\n---\n', "3:5: a quote that is never closed begins here"),
            ("name: a\nutterances: [x, y\nmodel: m\n", "2:13: the list that begins here with ["),
            ("name: a\nutterances:\n  - *bold text\n", "3:5: nothing is named `&bold` above;"),
            ('name: a\nutterances:\n  - "C:\\dir"\n', "3:8: a backslash in double quotes starts an escape"),
            ("name: a\nmodel\nutterances: [x]\n", "2:1: a key without its `: `"),
            ("name: a\n---\nname: b\n", "2:1: a second document begins here"),
            ("%YAML 3.0\n---\nname: a\n", "1:1: the %YAML line asks for a version that is not read"),
            ("name: a\nutterances: ]\n", "2:13: no value where one must be"),
            ("name: a\n[x, y]: 1\n", "2:1: a key must be text"),
        ],
    )
    def test_is_told_in_plain_words_where_it_must_change(
        self, refusal: Refusal, route: str, expected: str
    ) -> None:
        (problem,) = refusal(a=route)
        assert problem.startswith(f"routes/a.yaml:{expected}")

    @pytest.mark.parametrize("more", ["", "  - another one\nheldout:\n  - it's a third\n"])
    @pytest.mark.parametrize(
        ("written", "column"),
        [
            ("note: this is broken", 5),
            ("note: this is broken: help", 25),
            ("so it goes:", 5),
            (": first", 5),
            ('error: "x" failed', 16),
            ("# a heading", 4),
            ("#hashtag", 4),
            ("*bold* request", 5),
            ("*bold request", 5),
            ("* item", 5),
            ("&and more", 5),
            ("&", 5),
            ("@you", 5),
            ("%50 off", 5),
            ("`ls` does what", 5),
            ("fix this: `ls`", 15),
            ('"quoted" and more', 14),
            ("'quoted' and more", 14),
            ("! do it", 5),
            ("> quoted", 5),
            ("| piped", 5),
            ("? asked", 5),
            ("[link] to what", 5),
            ("[link]", 5),
            ("{name} of what", 5),
            (", then", 5),
            ("- dash", 5),
            ("404", 5),
        ],
    )
    def test_of_a_text_that_lacks_quotes_they_are_the_cure(
        self, refusal: Refusal, written: str, column: int, more: str
    ) -> None:
        (problem,) = refusal(a=f"name: a\nmodel: m\nutterances:\n  - fine\n  - {written}\n{more}")
        assert problem.startswith(f"routes/a.yaml:5:{column}: ")
        assert re.search("put (it|all of it) in quotes", problem)

    def test_a_quote_that_only_a_later_one_closes(self, refusal: Refusal) -> None:
        (problem,) = refusal(a="name: a\nmodel: m\nutterances:\n  - 'til noon\n  - what's up\n")
        assert problem.startswith("routes/a.yaml:5:10: text follows a closing quote; put all of it in quotes")

    def test_a_broken_file_hides_nothing_in_the_others_and_is_not_told_twice(self, refusal: Refusal) -> None:
        text = (
            GOOD_SETTINGS
            + "rules: [{name: r, when: {step: x}, route: z}, {name: s, when: {step: x}, model: q}]\n"
        )
        problems = refusal(
            semroute=text,
            a="name: a\nutterances: [x\n",
            b="name: b\nmodel: q\nutterances: [x]\n",
            c="name: c\nmodel: m\n",
        )
        assert [problem.partition(";")[0] for problem in problems] == [
            "routes/a.yaml:2:13: the list that begins here with [ has no `,` or `]` where one must be",
            "routes/b.yaml:2:8: unknown model `q`",
            "routes/c.yaml:1:1: a route needs utterances, or at least a description",
            "routes/semroute.yaml:3:81: unknown model `q`",
        ]

    def test_broken_settings_call_no_model_unknown(self, refusal: Refusal) -> None:
        problems = refusal(
            semroute="models: {m: {}}\ndefault: {model: m\n", a="name: a\nmodel: zzz\nutterances: [x]\n"
        )
        assert [problem.partition(": ")[0] for problem in problems] == ["routes/semroute.yaml:2:10"]

    def test_a_misspelt_key_hides_neither_its_own_mistakes_nor_those_beside_it(
        self, refusal: Refusal
    ) -> None:
        route = 'model: m\nutterance:\n  - hello\n  - 12\n  - ""\nmax_distanse: 9\n'
        told = refusal(semroute="defualt: {model: 1}\nmodels: {m: {qualiti: 7}}\n", a=route)
        assert [problem.split(" ")[0] for problem in told] == [
            "routes/a.yaml:1:1:",  # `name` is missing
            "routes/a.yaml:2:1:", "routes/a.yaml:4:5:", "routes/a.yaml:5:5:",
            "routes/a.yaml:6:1:", "routes/a.yaml:6:15:",
            "routes/semroute.yaml:1:1:", "routes/semroute.yaml:1:18:",
            "routes/semroute.yaml:2:14:", "routes/semroute.yaml:2:23:",
        ]  # fmt: skip
        assert "`name` is missing" in told[0] and "must be text, not a number" in told[2]
        assert "must be at most" in told[5] and "must be text" in told[7]

    def test_a_misspelt_key_is_not_called_missing_as_well(self, refusal: Refusal) -> None:
        (problem,) = refusal(a="name: a\nmodle: m\nutterances: [x]\n")
        assert problem.startswith("routes/a.yaml:2:1: unknown key `modle`; did you mean `model`?")

    @pytest.mark.parametrize("route", ["- name: z\n", "routes: {name: z}\n", "name: z\n\tmodel: m\n"])
    def test_a_route_that_cannot_be_read_is_not_called_unknown(self, refusal: Refusal, route: str) -> None:
        text = GOOD_SETTINGS + "rules: [{name: r, when: {step: x}, route: z}]\n"
        (problem,) = refusal(semroute=text, a=route)
        assert problem.startswith("routes/a.yaml:")

    def test_a_route_without_a_name_makes_no_route_unknown(self, refusal: Refusal) -> None:
        text = GOOD_SETTINGS + "rules: [{name: r, when: {step: x}, route: a}]\n"
        (problem,) = refusal(semroute=text, a="nam: a\nmodel: m\nutterances: [x]\n")
        assert problem.startswith("routes/a.yaml:1:1: unknown key `nam`; did you mean `name`?")


class TestFiles:
    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / "none")
        assert (
            str(caught.value)
            == f"{tmp_path}/none:1:1: no such folder; `semroute init` writes one to start from"
        )

    def test_a_file_for_a_folder(self, tmp_path: Path) -> None:
        file = tmp_path / "semroute.yaml"
        file.write_text(GOOD_SETTINGS)
        with pytest.raises(ConfigError, match=r"not a folder; name the folder that holds semroute\.yaml"):
            load_config(file)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path)
        missing = "missing; it names the default model, and `semroute init` writes one"
        assert str(caught.value) == f"{tmp_path}/semroute.yaml:1:1: {missing}"

    def test_two_files_of_settings(self, tmp_path: Path) -> None:
        for name in ("semroute.yaml", "semroute.yml"):
            (tmp_path / name).write_text(GOOD_SETTINGS)
        (tmp_path / "a.yaml").write_text(GOOD_ROUTE)
        with pytest.raises(ConfigError, match=r"semroute.yml:1:1: the settings stand in "):
            load_config(tmp_path)

    def test_yaml_in_a_sub_folder_is_not_silently_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "semroute.yaml").write_text(GOOD_SETTINGS)
        (tmp_path / "a.yaml").write_text(GOOD_ROUTE)
        (tmp_path / "more" / "deep").mkdir(parents=True)
        (tmp_path / "more" / "deep" / "b.yml").write_text(GOOD_ROUTE)
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}/more:1:1: holds YAML files, and sub-folders are not read; "
            "move the files up or elsewhere"
        )

    def test_what_cannot_be_read_is_named_beside_the_rest(self, tmp_path: Path) -> None:
        (tmp_path / "semroute.yaml").write_text("models: {m: {}}\n")
        (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
        (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
        os.mkfifo(tmp_path / "pipe.yaml")
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path)
        assert [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == [
            "gone.yaml:1:1: cannot be read: No such file or directory",
            "loop.yaml:1:1: cannot be read: Too many levels of symbolic links",
            "pipe.yaml:1:1: not a regular file",
            "semroute.yaml:1:1: `default` is missing: What serves a prompt that no route wins.",
        ]


class TestSecrets:
    CANARY = "sk-canary-5f3a9c"

    @pytest.mark.parametrize(
        "card",
        [
            "api_key_env: {}",
            "api_key_env: '${{{}}}'",
            "api_key: {}",
            "base_url: 'https://me:{}@example.com/v1'",
            "base_url: 'https://example.com/v1?key={}'",
            "base_url: 'http://example.com/{}', api_key_env: KEY",
            "base_url: '{} '",
            "context_tokens: {}",
            "id: [{}]",
        ],
    )
    def test_a_pasted_key_is_refused_and_not_repeated(self, refusal: Refusal, card: str) -> None:
        problems = refusal(semroute=f"default: {{model: m}}\nmodels:\n  m:\n    {card.format(self.CANARY)}\n")
        # The key `api_key` does not exist, and its value would not be one of `api_key_env` either.
        assert len(problems) == (2 if card.startswith("api_key: ") else 1)
        assert problems[0].startswith("routes/semroute.yaml:4:")
        assert "canary" not in "".join(problems)

    def test_utterances_are_not_repeated_either(self, refusal: Refusal) -> None:
        a = "name: a\nmodel: m\nutterances: [the canary sings, {canary: x}]\nheldout: [The  Canary sings, 5]\n"
        problems = refusal(a=a)
        assert len(problems) == 3
        assert "canary" not in "".join(problems).lower()


class TestAllAtOnce:
    def test_a_folder_with_everything_wrong(self, refusal: Refusal) -> None:
        settings_text = """\
            encodr: minilm
            default:
              model: bg
              heldout: ["Where is  my REFUND", 5]
            vote:
              neighbors: "20"
              max_distance: .nan
            models:
              small: {base_url: "file://example.com/v1", quality: 1.5}
              big: {api_key_env: sk-abc123, itl_ms: -1}
            rules:
              - {name: long, when: {min_chars: 10, max_chars: 5}, model: big}
              - {name: long, when: {any_regex: ["("]}, route: bilingual}
              - {name: none, when: {metadata: {plan: {a: b}}}}
            vote: {}
        """
        billing = """\
            name: billing
            modle: small
            utterances:
              - where is my refund
              - 5
              - ""
            max_distance: "0.5"
        """
        several = """\
            routes:
              - name: billing
                models: [small, big, small]
                utterances: hi
              - name: x
                model: tiny
            other: 1
        """
        problems = refusal(semroute=settings_text, billing=billing, a=several, broken=b"name: c\nmodel: [\n")
        assert [problem.removeprefix("routes/").partition(";")[0] for problem in problems] == [
            "a.yaml:3:26: `small` is named twice, so that fallbacks go in a circle",
            "a.yaml:4:17: must be a list, not text",
            "a.yaml:5:5: a route needs utterances, or at least a description",
            "a.yaml:6:12: unknown model `tiny`",
            "a.yaml:7:1: unknown key `other`",
            "billing.yaml:1:7: a route named `billing` stands at routes/a.yaml:2:11 already",
            "billing.yaml:2:1: unknown key `modle`",
            "billing.yaml:5:5: must be text, not a number",
            "billing.yaml:6:5: must not be blank",
            "billing.yaml:7:15: must be a number, not text",
            "broken.yaml:3:1: no value where one must be, or a bracket above that is never closed",
            "semroute.yaml:1:1: unknown key `encodr`",
            "semroute.yaml:3:10: unknown model `bg`",
            "semroute.yaml:4:13: also an utterance, at routes/billing.yaml:4:5",
            "semroute.yaml:4:36: must be text, not a number",
            "semroute.yaml:6:14: must be a whole number, not text",
            "semroute.yaml:7:17: must be auto, or a number from 0 to 2 without quotes",
            "semroute.yaml:9:21: must be an address such as https://api.openai.com/v1",
            "semroute.yaml:9:55: must be at most 1",
            "semroute.yaml:10:22: must be the NAME of a variable, such as OPENAI_API_KEY, in capitals",
            "semroute.yaml:10:41: must be at least 0",
            "semroute.yaml:12:51: must be at least min_chars, which is 10",
            "semroute.yaml:13:12: a rule named `long` stands at routes/semroute.yaml:12:12 already",
            "semroute.yaml:13:37: not a regex: missing ), unterminated subpattern at character 1 of the regex",
            "semroute.yaml:14:5: `route` or `model` or `models` or `only` is missing",
            "semroute.yaml:14:42: must be a text, number, true or false, or a list of some of those",
            "semroute.yaml:15:1: duplicate key `vote`, which stands at routes/semroute.yaml:5:1 already",
        ]


def _load(settings_file: bytes, route_file: bytes) -> None:
    """Load two files; only a ConfigError, whose lines name a place and a reason, may come of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "semroute.yaml").write_bytes(settings_file)
        (folder / "a.yaml").write_bytes(route_file)
        try:
            load_config(folder)
        except ConfigError as error:
            assert error.problems == tuple(sorted(set(error.problems)))
            for problem in error.problems:
                assert problem.message.strip()
                assert problem.file.startswith(scratch)
                assert str(problem).isprintable()


_PIECES = st.sampled_from(
    ["name", "model", "models", "m", "utterances", "heldout", "default", "rules", "when", "only", "routes", "select",
     ": ", ":", "- ", "-", "\n", "\n  ", "\n    ", " ", "&x ", "*x", "!t ", "<<: ", "{", "}", "[", "]", ", ", '"', "'",
     "|", ">", "#", "?", "\n---\n", "\n...\n", "\t", r"\ud83d\ude00", "\\", "%YAML 1.2", "\u2028", "\x00", "é", "\r\n",
     "🦜", ".nan", "1e999", "-", "null", "true", "[key]", "<first>", "<weights>", "${X}"]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_PIECES | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
_KEYS = ["encoder", "default", "vote", "escalations", "select", "models", "rules", "name", "model", "routes",
         "utterances", "description", "max_distance", "<first>", "[key]"]  # fmt: skip


class TestWhatNobodyMeant:
    """Whatever the files hold, the answer is a config or a ConfigError, never another exception."""

    @given(st.binary(max_size=300), st.binary(max_size=300))
    @settings(max_examples=150, deadline=None)
    def test_bytes(self, one: bytes, two: bytes) -> None:
        _load(one, two)

    @given(st.lists(_PIECES, max_size=40), st.lists(_PIECES, max_size=40))
    @settings(max_examples=250, deadline=None)
    def test_scraps_of_yaml(self, one: list[str], two: list[str]) -> None:
        _load("".join(one).encode(), "".join(two).encode())

    @given(
        st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=5),
        st.dictionaries(st.sampled_from(_KEYS), _JSON),
    )
    @settings(max_examples=250, deadline=None)
    def test_any_value_under_any_key(self, one: dict[str, object], two: dict[str, object]) -> None:
        _load(json.dumps(one).encode(), json.dumps(two).encode())

    @given(st.sampled_from(["default", "vote", "escalations", "select", "models", "rules"]), _JSON, _JSON)
    @settings(max_examples=250, deadline=None)
    def test_any_value_inside_a_section(self, section: str, value: object, other: object) -> None:
        inside = {
            "vote": {"max_distance": value, "neighbors": other},
            "models": {"m": value, "n": {"id": other}},
        }
        inside |= {"rules": [value, {"name": "r", "when": {"metadata": {"k": other}, "any_regex": value}}]}
        inside |= {"default": {"model": "m", "heldout": value}, "select": {"cost": value, "[key]": other}}
        inside |= {"escalations": {"store": value, "min_support": other}}
        top = {"default": {"model": "m"}, "models": {"m": {}}, section: inside[section]}
        _load(json.dumps(top).encode(), GOOD_ROUTE.encode())
