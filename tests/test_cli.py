"""The command line as its users meet it: real processes, exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, ROUTES

COMMANDS = ("init", "validate", "build", "route", "eval", "lint", "doctor", "schema")


@pytest.fixture
def semroute(tmp_path):
    """Run the command in `tmp_path`."""

    def run(*arguments, stdin: str | bytes = "", **environment):
        done = subprocess.run(
            [sys.executable, "-m", "semroute", *map(str, arguments)],
            cwd=tmp_path,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env={k: v for k, v in os.environ.items() if k != "SEMROUTE_INDEX"} | environment,
            check=False,
        )
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def project(write_project, semroute, tmp_path) -> Path:
    write_project()
    assert semroute("build").returncode == 0
    return tmp_path


def test_from_nothing_to_an_answer(semroute, tmp_path):
    made = semroute("init")
    assert made.returncode == 0
    assert made.stdout.split() == [
        *(f"routes/{name}.yaml" for name in ("billing", "coding", "semroute", "smalltalk")),
        *(f"routes/{name}.schema.json" for name in ("semroute", "route")),
    ]
    assert semroute("validate").stdout.startswith("routes: valid (3 routes, 30 utterances, 2 models)")
    built = semroute("build")
    assert (built.returncode, built.stderr) == (0, "")
    assert "30 utterances of 3 routes, 30 embedded" in built.stdout
    for prompt, route, model in (
        ("where is my refund?", "billing", "small"),
        ("my python loop is slow, make it faster", "coding", "big"),
        ("hi there, nice to see you", "smalltalk", "small"),
    ):
        decision = json.loads(semroute("route", prompt, "--json").stdout)
        assert (decision["route"], decision["model"]) == (route, model)
    assert semroute("build", "--check").returncode == 0


def test_init_writes_over_nothing(semroute, tmp_path):
    (tmp_path / "routes").mkdir()
    (tmp_path / "routes" / "coding.yaml").write_text("mine")
    done = semroute("init")
    assert done.returncode == 2
    assert "routes/coding.yaml:1:1: exists" in done.stderr
    assert [path.name for path in (tmp_path / "routes").iterdir()] == ["coding.yaml"]
    assert (tmp_path / "routes" / "coding.yaml").read_text() == "mine"


def test_an_index_is_not_built_into_a_folder_of_routes(semroute, project):
    before = sorted(path.name for path in (project / "routes").iterdir())
    done = semroute("build", "--index", "routes")
    assert done.returncode == 2 and "takes a folder of its own" in done.stderr
    assert sorted(path.name for path in (project / "routes").iterdir()) == before


# validate ------------------------------------------------------------------------------------------------------


def test_validate_names_every_problem_with_its_place(semroute, write_project, tmp_path):
    write_project({"a": {"utterances": ["x"], "modle": "small"}, "b": {"utterances": [7], "model": "nobody"}})
    done = semroute("validate")
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(("routes/000.yaml:1:", "routes/001.yaml:1:")) for line in lines)
    assert "modle" in done.stderr and "nobody" in done.stderr
    plain = json.loads(semroute("validate", "--json").stdout)
    assert plain["valid"] is False
    assert {"file", "line", "column", "message"} == set(plain["problems"][0]) and len(plain["problems"]) == 3


def test_validate_says_what_is_suspicious_and_passes(semroute, write_project):
    write_project(ROUTES | {"again": [ROUTES["billing"][0]]})
    done = semroute("validate")
    assert done.returncode == 0
    assert "routes/003.yaml:1:" in done.stderr and "warning:" in done.stderr
    assert json.loads(semroute("validate", "--json").stdout)["warnings"]


@pytest.mark.parametrize("command", ["validate", "build"])
def test_a_route_of_a_single_text_is_a_warning(semroute, write_project, command):
    write_project(ROUTES | {"thin": ["one text"], "thinner": {"description": "of one sentence"}})
    done = semroute(command)
    assert done.returncode == 0
    assert [line.split(": ")[:3] for line in done.stderr.splitlines()] == [
        ["routes/003.yaml:1:10", "warning", "a single utterance; write ten or more, as different as can be"],
        [
            "routes/004.yaml:1:10",
            "warning",
            "no utterances, so that only the description is indexed; write ten or more, as different as can be",
        ],
    ]
    assert len(json.loads(semroute(command, "--json").stdout)["warnings"]) == 2


def test_a_folder_that_is_not_there(semroute):
    for command in ("validate", "build"):
        done = semroute(command, "--routes", "nowhere")
        assert done.returncode == 2 and "nowhere" in done.stderr


# build --------------------------------------------------------------------------------------------------------


def test_build_tells_what_it_embedded(semroute, write_project, project):
    assert "up to date" in semroute("build").stdout
    write_project(ROUTES | {"billing": [*ROUTES["billing"], "I need my money"]})
    summary = json.loads(semroute("build", "--json").stdout)
    assert (summary["embedded"], summary["reused"], summary["unchanged"]) == (1, 12, False)
    assert summary["encoder"] == "static" and summary["fingerprint"].startswith("sha256:")


def test_build_of_no_routes_speaks_of_no_limits(semroute, write_project):
    write_project({}, {"default": {"models": ["big", "small"]}})
    said = semroute("build").stdout
    assert "of 0 routes" in said and "fitted" not in said and "max_distance" not in said


def test_build_names_the_same_utterance_in_two_routes(semroute, write_project):
    write_project(ROUTES | {"again": [ROUTES["billing"][0]]})
    done = semroute("build")
    assert done.returncode == 0
    assert "routes/003.yaml:1:" in done.stderr and "billing" in done.stderr


def test_check_exits_one_and_names_what_changed(semroute, write_project, project):
    fresh = semroute("build", "--check")
    assert (fresh.returncode, fresh.stderr) == (0, "")
    write_project(ROUTES | {"news": ["what happened"]}, {"vote": {"neighbors": 5}})
    stale = semroute("build", "--check")
    assert stale.returncode == 1
    assert stale.stdout.splitlines() == ["route news: added", "vote.neighbors: 20 -> 5"]
    assert "semroute build" in stale.stderr
    plain = json.loads(semroute("build", "--check", "--json").stdout)
    assert plain == {"fresh": False, "changes": ["route news: added", "vote.neighbors: 20 -> 5"]}


def test_check_without_an_index_is_stale_not_wrong(semroute, write_project):
    write_project()
    done = semroute("build", "--check")
    assert done.returncode == 1 and "there is no index" in done.stdout


def test_a_damaged_index_is_built_anew_and_that_is_said(semroute, project):
    next((project / "index").glob("vectors-*")).write_bytes(b"damaged")
    done = semroute("build")
    assert done.returncode == 0
    assert "could not be used" in done.stderr and "12 embedded" in done.stdout
    assert semroute("route", "hello there").returncode == 0


# route --------------------------------------------------------------------------------------------------------


def test_route_explains_itself_to_people(semroute, project):
    done = semroute("route", "where is my refund?")
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first.startswith("billing -> small") and "match" in first
    assert any("where is my refund" in line for line in rest) and any(
        "if that fails: big" in line for line in rest
    )
    assert "\x1b[" not in done.stdout


@pytest.mark.parametrize("command", [("route", "where is my refund?"), ("eval", "--cases", "cases.jsonl")])
def test_an_index_that_is_stale_against_routes_beside_it_is_named_once(
    semroute, write_project, project, command
):
    write_cases(project, *[{"prompt": "hello there", "route": "smalltalk"}] * 3)
    assert semroute(*command).stderr == ""
    key = "index" if command[0] == "eval" else "route"
    before = json.loads(semroute(*command, "--json").stdout)[key]
    write_project(ROUTES | {"news": ["what happened"]}, {"vote": {"neighbors": 5}})
    done = semroute(*command, "--json")
    assert done.stderr.splitlines() == [
        "note: index is stale against routes (route news: added and 1 more). Run `semroute build`."
    ]
    assert (done.returncode, json.loads(done.stdout)[key]) == (0, before)
    write_project({"a": [7]})
    done = semroute(*command)
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1
    assert "routes/000.yaml:1:" in done.stderr
    (project / "routes").rename(project / "elsewhere")
    assert semroute(*command).stderr == ""


def test_prompts_of_a_text_file_in_order(semroute, project):
    (project / "in.txt").write_text(
        "where is my refund\r\n\nhello there\nzygote quixotic\u2028flummox\n", "utf-8"
    )
    done = semroute("route", "--input", "in.txt", "--json")
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["route"] for row in rows[:3]] == ["billing", None, "smalltalk"] and len(rows) == 4
    assert rows[1]["reason"] == "empty_prompt"
    short = semroute("route", "--input", "in.txt").stdout.splitlines()
    assert [line.split("\t")[:2] for line in short][:1] == [["billing", "small"]] and len(short) == 4


def test_prompts_of_a_jsonl_file_in_order(semroute, project):
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "where is my refund"}]
    rows = [{"prompt": "hello there", "route": "ignored"}, {"prompt": messages}, {"prompt": ""}]
    (project / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = semroute("route", "--json", "--input", "in.jsonl")
    assert [json.loads(line)["route"] for line in done.stdout.splitlines()] == ["smalltalk", "billing", None]


@pytest.mark.parametrize(
    "text",
    ["hello there\nwhere is my refund\n", '{"prompt": "hello there"}\n{"prompt": "where is my refund"}'],
)
def test_prompts_from_a_pipe(semroute, project, text):
    done = semroute("route", "--json", "--input", "-", stdin=text)
    assert [json.loads(line)["route"] for line in done.stdout.splitlines()] == ["smalltalk", "billing"]


def test_bad_lines_are_named_all_at_once(semroute, project):
    (project / "in.jsonl").write_text(
        '{"prompt": "hello"}\n{"text": "x"}\nnot json\n{"prompt": 7}\n[1]\n'
        + "[" * 100_000
        + "\n"
        + "9" * 5_000
    )
    done = semroute("route", "--json", "--input", "in.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == [
        "in.jsonl:2:1:", "in.jsonl:3:1:", "in.jsonl:4:1:", "in.jsonl:5:1:", "in.jsonl:6:1:", "in.jsonl:7:1:",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give one PROMPT"),
        (("hello", "--input", "in.txt"), "Give one PROMPT"),
        (("where", "is my", "refund"), "put it in quotes, such as 'where is my refund'"),
        (("--input", "missing.txt"), "missing.txt"),
        (("--input", "in.csv"), ".jsonl"),
        (("--input", "latin.txt"), "UTF-8"),
        (("hello", "--index", "nowhere"), "`semroute build --index nowhere`"),
        (("hello", "--index", "no where"), "`semroute build --index 'no where'`"),
    ],
    ids=["nothing", "both", "no quotes", "missing", "suffix", "latin", "no index", "no index, with a space"],
)
def test_wrong_input_is_exit_code_two_and_a_sentence(semroute, project, arguments, said):
    (project / "latin.txt").write_bytes(b"caf\xe9")
    done = semroute("route", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_the_index_may_be_named_by_the_environment(semroute, project, tmp_path):
    (project / "index").rename(project / "elsewhere")
    assert semroute("route", "hello", SEMROUTE_INDEX="elsewhere").returncode == 0


def test_a_reader_that_goes_away_is_no_error(project):
    (project / "in.txt").write_text("hello there\n" * 5_000)
    command = f"{sys.executable} -m semroute route --input in.txt --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["route"] == "smalltalk"
    assert (done.returncode, done.stderr) == (0, "")


def test_an_answer_for_people_may_be_cut_short_too(project):
    command = f"{sys.executable} -m semroute route 'hello there' | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_result_that_cannot_be_written_is_an_error(project):
    command = f"{sys.executable} -m semroute route hello --json > /dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "could not be written" in done.stderr and "Traceback" not in done.stderr


def test_any_character_can_be_printed_anywhere(semroute, write_project):
    write_project({"été": ["où est mon café 😀"]})
    semroute("build")
    for encoding in ("ascii", "cp1252"):
        for arguments in (("--json",), ()):
            done = semroute("route", "où est mon café 😀", *arguments, PYTHONIOENCODING=encoding)
            assert done.returncode == 0 and "où est mon café 😀" in done.stdout


def test_a_rule_for_a_step_can_be_tried(semroute, write_project):
    rules = [{"name": "planning", "when": {"step": "plan"}, "model": "big"}]
    write_project(settings={"rules": rules})
    semroute("build")
    decision = json.loads(semroute("route", "hello there", "--step", "plan", "--json").stdout)
    assert (decision["model"], decision["rule"]) == ("big", "planning")


# eval ---------------------------------------------------------------------------------------------------------


def write_cases(project, *rows, ending="\n", start=""):
    text = start + "".join(json.dumps(row, ensure_ascii=False) + ending for row in rows)
    (project / "cases.jsonl").write_bytes(text.encode())


def test_eval_shows_what_was_wrong_and_why(semroute, project):
    write_cases(
        project,
        {"prompt": "where is my refund", "route": "billing"},
        {"prompt": "hello there", "route": "coding", "note": "ignored"},
        {"prompt": "", "route": None},
    )
    done = semroute("eval", "--cases", "cases.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 cases: 2 passed, 1 failed\naccuracy 66.7%   2 of 3 routed as labelled\n")
    assert "how often the best-scoring route is right, whether or not it was accepted" in done.stdout
    assert "cases.jsonl:2  hello there" in done.stdout and "cases.jsonl:1" not in done.stdout
    assert "expected coding, got smalltalk: match" in done.stdout
    assert "1.000  smalltalk: hello there" in done.stdout
    assert "\x1b[" not in done.stdout


def test_eval_as_json(semroute, project):
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "hello there"}]
    rows = [
        {"prompt": messages, "route": "coding"},
        {"prompt": "where is\u2028my refund", "route": "billing"},
    ]
    write_cases(project, *rows, ending="\r\n", start="\ufeff")
    done = semroute("eval", "--cases", "cases.jsonl", "--json")
    found = json.loads(done.stdout)
    assert set(found) == {
        "index", "cases", "passed", "failed", "accuracy", "macro_f1", "in_scope", "out_of_scope", "reasons", "calibration",
        "routes", "wrong", "intervals", "confusion", "tags", "models", "shadow", "floors",
    }  # fmt: skip
    assert (found["cases"], found["accuracy"], found["calibration"]["auroc"]) == (2, 0.5, None)
    assert (found["passed"], found["failed"]) == (1, 1)
    assert [row["route"] for row in found["routes"]] == ["billing", "coding", "smalltalk", None]
    (wrong,) = found["wrong"]
    assert (wrong["file"], wrong["line"], wrong["prompt"]) == ("cases.jsonl", 1, messages)
    assert (wrong["expected"], wrong["found"]) == ("coding", "smalltalk")
    assert len(wrong["neighbors"]) == 3
    assert set(wrong["neighbors"][0]) == {"route", "utterance", "similarity"}
    piped = semroute("eval", "--cases", "-", "--json", stdin=(project / "cases.jsonl").read_bytes())
    assert json.loads(piped.stdout)["accuracy"] == 0.5


def test_eval_names_every_bad_row_at_once(semroute, project):
    (project / "cases.jsonl").write_text(
        '{"prompt": "a", "route": "biling"}\n\nnot json\n{"prompt": "a"}\n{"route": "coding"}\n[]\n'
        '{"prompt": 7, "route": 8}\n{"route": "billing", "prompt": [1]}\n{}\n'
    )
    done = semroute("eval", "--cases", "cases.jsonl", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert [line.split(" ")[0].removeprefix("cases.jsonl:") for line in lines] == [
        "1:26:", "3:1:", "4:1:", "5:1:", "6:1:", "7:12:", "7:24:", "8:32:", "9:1:", "9:1:",
    ]  # fmt: skip
    assert "did you mean `billing`?" in lines[0]


def test_eval_refuses_a_key_that_stands_twice(semroute, project):
    (project / "cases.jsonl").write_text(
        '{"prompt": "a", "route": "coding"}\n'
        '{"prompt": "a", "route": "coding", "route": null}\n'
        '{"route": "coding", "prompt": [{"role": "user", "content": "a", "content": "b"}]}\n'
        '[{"prompt": "a", "prompt": "b"}]\n'
    )
    done = semroute("eval", "--cases", "cases.jsonl", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "cases.jsonl:2:36: duplicate key `route`; keep one.",
        "cases.jsonl:3:31: duplicate key `content`; keep one.",
        "cases.jsonl:4:1: duplicate key `prompt`; keep one.",
    ]


def test_eval_says_where_a_heldout_prompt_stands(semroute, write_project, project):
    billing = {"utterances": ROUTES["billing"], "heldout": ["how are you today my friend"]}
    write_project(ROUTES | {"billing": billing})
    semroute("build")
    assert "  routes/000.yaml:1  how are you today my friend\n" in semroute("eval").stdout
    write_project(ROUTES)
    done = semroute("eval")
    assert "  billing.heldout[1]  how are you today my friend\n" in done.stdout and "is stale" in done.stderr
    (project / "routes").rename(project / "elsewhere")
    assert "  billing.heldout[1]  how are you today my friend\n" in semroute("eval").stdout


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cases.jsonl:1:1: holds no case"),
        (b"\n \r\n", "cases.jsonl:1:1: holds no case"),
        (b'{"prompt": "a", "route": null}\n{"prompt": "\xc3\xa9\xff"}', "cases.jsonl:2:14: not UTF-8"),
        (None, "cases.jsonl:1:1: cannot be read"),
    ],
    ids=["empty", "blank", "latin", "missing"],
)
def test_eval_of_a_file_without_cases(semroute, project, data, said):
    if data is not None:
        (project / "cases.jsonl").write_bytes(data)
    done = semroute("eval", "--cases", "cases.jsonl")
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr


def test_eval_takes_the_heldout_lists_or_says_what_to_do(semroute, write_project, project):
    done = semroute("eval")
    assert (done.returncode, done.stdout) == (2, "")
    assert "heldout" in done.stderr and "--cases" in done.stderr
    billing = {"utterances": ROUTES["billing"], "heldout": ["my refund, where is it", "hello there friend"]}
    write_project(ROUTES | {"billing": billing}, {"default": {"model": "big", "heldout": ["zygote flummox"]}})
    semroute("build")
    found = json.loads(semroute("eval", "--json").stdout)
    assert (found["in_scope"]["cases"], found["out_of_scope"]["cases"]) == (2, 1)
    assert ("routes/000.yaml", 1) in [(row["file"], row["line"]) for row in found["wrong"]]


def test_eval_names_what_is_wrong_with_probes(semroute, project):
    write_cases(
        project,
        {"prompt": "x", "route": "billing", "model": "smal", "tags": []},
        {"prompt": [], "must_default": "yes"},
        {"prompt": "x", "must_default": True, "route": "billing"},
        {"prompt": "x", "must_default": False},
        {"prompt": "x", "model": 7, "tags": ["", 1]},
        {"prompt": "x", "route": None, "must_default": False},
        {"prompt": "x", "model": "small", "tags": [" smoke"]},
        {"prompt": "x", "model": "small", "tags": ["a\nb"]},
        {"prompt": "x", "model": "small", "tags": ["t" * 101]},
    )
    done = semroute("eval", "--cases", "cases.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(" ")[0].removeprefix("cases.jsonl:") for line in done.stderr.splitlines()] == [
        "1:46:", "1:62:", "2:12:", "2:32:", "3:33:", "4:1:", "5:26:", "5:37:",
        "6:48:", "7:43:", "8:43:", "9:43:",
    ]  # fmt: skip
    assert "did you mean `small`?" in done.stderr


def test_eval_of_probes_counts_them_by_tag(semroute, project):
    write_cases(
        project,
        {"prompt": "where is my refund", "model": "small", "tags": ["models", "smoke"]},
        {"prompt": "hello there", "model": "big", "tags": ["models"]},
        {"prompt": "", "must_default": True, "tags": ["smoke"]},
        {"prompt": "good morning", "route": "smalltalk", "model": "small"},
    )
    done = semroute("eval", "--cases", "cases.jsonl")
    assert "tags, passed           models 1/2 (50.0%), smoke 2/2 (100.0%)" in done.stdout
    assert "expected model     3   right 2" in done.stdout
    assert "expected model big, got smalltalk, model small" in done.stdout
    found = json.loads(semroute("eval", "--cases", "cases.jsonl", "--json").stdout)
    assert found["cases"] == 2 and found["accuracy"] == 1.0
    assert [(row["tag"], row["passed"]) for row in found["tags"]] == [("models", 1), ("smoke", 2)]
    assert [row["line"] for row in found["models"]["wrong"]] == [2]


def test_eval_of_cases_that_say_nothing_of_routes_speaks_of_models(semroute, project):
    write_cases(project, {"prompt": "hello there", "model": "small"}, {"prompt": "x", "model": "big"})
    done = semroute("eval", "--cases", "cases.jsonl")
    assert done.stdout.startswith(
        "2 cases: 2 passed, 0 failed\nno route measured   no case says which route is right\n"
    )
    assert "expected model     2   right 2" in done.stdout and "accuracy" not in done.stdout
    done = semroute("eval", "--cases", "cases.jsonl", "--format", "github", GITHUB_STEP_SUMMARY="")
    assert (
        "No case says which route is right; 2 of 2 are served by the model that they expect." in done.stdout
    )


def test_what_passed_and_failed_counts_every_case_and_json_keeps_the_labelled_ones_apart(semroute, project):
    rows = [{"prompt": "where is my refund", "route": "billing"}] * 6
    write_cases(project, *rows, {"prompt": "where is my refund", "model": "big"})
    told = "7 cases: 6 passed, 1 failed"
    printed = semroute("eval", "--cases", "cases.jsonl").stdout
    assert printed.startswith(f"{told}\n") and "6 of 6 routed as labelled" in printed
    summary = semroute("eval", "--cases", "cases.jsonl", "--format", "github", GITHUB_STEP_SUMMARY="").stdout
    assert f"**{told}.** 6 of 6 with a label are routed as labelled." in summary
    found = json.loads(semroute("eval", "--cases", "cases.jsonl", "--json").stdout)
    assert (found["cases"], found["passed"], found["failed"]) == (6, 6, 1)


HALVES = (
    (r'{"prompt": "a \ud800", "route": null}', 12),
    (r'{"prompt": "a", "route": null, "tags": ["\udfff"]}', 40),
    (r'{"prompt": "a", "route": null, "x\ud800": 1}', 32),
    (r'{"prompt": [{"role": "user", "content": "\ud83d\ud83d"}], "route": null}', 12),
)


def test_half_a_surrogate_pair_is_named_with_its_place(semroute, project):
    whole = r'{"prompt": "\ud83d\ude00 \\ud800", "route": null}'
    (project / "cases.jsonl").write_text("\n".join([whole, *(line for line, _ in HALVES)]))
    for command in (("eval", "--cases", "cases.jsonl", "--robustness"), ("route", "--input", "cases.jsonl")):
        done = semroute(*command)
        assert (done.returncode, done.stdout) == (2, "")
        lines = done.stderr.splitlines()
        assert [line.split(" ")[0] for line in lines] == [
            f"cases.jsonl:{number}:{column}:" for number, (_, column) in enumerate(HALVES, start=2)
        ]
        assert all("half of a surrogate pair" in line for line in lines)


STEERING = "fix :100: [bold]bugs[/bold] \x1b[31mred\x9b0m \u202eabc\r \\"


def test_what_users_wrote_is_shown_as_it_stands_and_steers_no_terminal(semroute, write_project, project):
    write_project(ROUTES | {"coding": [*ROUTES["coding"], STEERING]})
    assert semroute("build").returncode == 0
    tag = "a:smile:[bold]"
    write_cases(project, {"prompt": STEERING, "route": "billing", "tags": [tag]})
    shown = r"fix :100: [bold]bugs[/bold] \u001b[31mred\u009b0m \u202eabc"
    for command in (
        ("route", STEERING),
        ("eval", "--cases", "cases.jsonl"),
        ("eval", "--cases", "cases.jsonl", "--json"),
        ("route", STEERING, "--json"),
    ):
        done = semroute(*command)
        assert shown in done.stdout
        assert not set("\x1b\x9b\u202e\r") & set(done.stdout + done.stderr)
    assert json.loads(done.stdout)["neighbors"][0]["utterance"] == STEERING
    assert f"{tag} 0/1" in semroute("eval", "--cases", "cases.jsonl").stdout
    write_cases(project, {"prompt": "x", "route": ":smile: [red]x \x1b[2J"})
    refused = semroute("eval", "--cases", "cases.jsonl").stderr
    assert ":smile: [red]x" in refused and "\x1b" not in refused


def test_eval_exits_1_below_a_floor_and_says_which(semroute, write_project, project):
    floors = {"accuracy": 0.9, "coverage": 0.5, "tags": {"smoke": 1.0}}
    default = {"model": "big", "heldout": ["what is the airspeed of a swallow"]}
    write_project(settings={"floors": floors, "default": default})
    assert semroute("build").returncode == 0
    write_cases(
        project,
        {"prompt": "hello there", "route": "coding", "tags": ["smoke"]},
        {"prompt": "where is my refund", "route": "billing"},
    )
    done = semroute("eval", "--cases", "cases.jsonl")
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 of 3 floors held" in done.stdout
    assert "not held: accuracy must be at least 0.9 and is 0.5000" in done.stdout
    assert "not held: tags.smoke must be at least 1 and is 0.0000" in done.stdout
    done = semroute("eval", "--cases", "cases.jsonl", "--json")
    assert done.returncode == 1 and "accuracy must be" in done.stderr
    held = {row["name"]: row["holds"] for row in json.loads(done.stdout)["floors"]}
    assert held == {"accuracy": False, "coverage": True, "tags.smoke": False}
    write_cases(project, {"prompt": "hello there", "route": "smalltalk", "tags": ["smoke"]})
    done = semroute("eval", "--cases", "cases.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert "floors on tags (smoke) are not checked" in semroute("eval").stderr


def test_eval_against_another_index(semroute, write_project, project):
    (project / "index").rename(project / "old")
    write_project(ROUTES | {"smalltalk": ["what a day", "tell me a joke"], "greeting": ROUTES["smalltalk"]})
    assert semroute("build").returncode == 0
    write_cases(
        project,
        {"prompt": "hello there", "route": "greeting"},
        {"prompt": "good morning", "route": "smalltalk"},
        {"prompt": "where is my refund", "route": "billing"},
    )
    assert semroute("eval", "--cases", "cases.jsonl").returncode == 0
    done = semroute("eval", "--cases", "cases.jsonl", "--baseline", "old")
    assert done.returncode == 0
    assert "2 prompts changed against the baseline: 1 better, 1 worse" in done.stdout
    assert "smalltalk -> small (1.00), now greeting -> small" in done.stdout
    found = json.loads(semroute("eval", "--cases", "cases.jsonl", "--baseline", "old", "--json").stdout)
    assert [row["verdict"] for row in found["baseline"]["cases"]] == ["better", "worse"]
    assert found["baseline"]["p_value"] == 1.0
    done = semroute("eval", "--baseline", "nowhere")
    assert done.returncode == 2
    assert "holds the index as it was" in done.stderr and "semroute build --" not in done.stderr


def test_eval_in_the_formats_of_others(semroute, project):
    write_cases(project, {"prompt": "hello 100%\n::there", "route": "coding"})
    summary = project / "summary.md"
    summary.write_text("before\n")
    done = semroute("eval", "--cases", "cases.jsonl", "--format", "github", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0
    assert done.stdout.startswith(
        "::warning file=cases.jsonl,line=1,title=semroute eval::expected coding, got "
    )
    assert done.stdout.count("\n") == 1 and "hello 100%25 ::there" in done.stdout
    assert (
        summary.read_text().startswith("before\n## semroute eval\n") and "| accuracy |" in summary.read_text()
    )
    printed = semroute("eval", "--cases", "cases.jsonl", "--format", "github", GITHUB_STEP_SUMMARY="")
    assert "## semroute eval" in printed.stdout
    unwritable = semroute(
        "eval", "--cases", "cases.jsonl", "--format", "github", GITHUB_STEP_SUMMARY=str(project)
    )
    assert unwritable.returncode == 0 and "could not be written" in unwritable.stderr
    xml = semroute("eval", "--cases", "cases.jsonl", "--format", "junit").stdout
    assert xml.startswith('<?xml version="1.0" encoding="UTF-8"?>') and 'failures="1"' in xml
    assert json.loads(semroute("eval", "--cases", "cases.jsonl", "--format", "json").stdout)["cases"] == 1
    assert semroute("eval", "--format", "html").returncode == 2


@pytest.mark.parametrize("command", ["eval", "report"])
def test_a_folder_of_routes_that_was_named_must_be_there(semroute, project, command):
    write_cases(project, {"prompt": "where is my refund", "route": "billing"})
    done = semroute(command, "--cases", "cases.jsonl", "--routes", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--routes nope: no such folder" in done.stderr
    assert "not a folder" in semroute(command, "--routes", "cases.jsonl").stderr


@pytest.mark.parametrize(("command", "form"), [("eval", "junit"), ("eval", "table"), ("lint", "github")])
def test_json_and_another_format_contradict_each_other(semroute, project, command, form):
    done = semroute(command, "--format", form, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--json contradicts --format {form}" in done.stderr


def test_eval_under_perturbations(semroute, project):
    write_cases(project, {"prompt": "where is my refund", "route": "billing"})
    done = semroute("eval", "--cases", "cases.jsonl", "--robustness")
    assert "upper case" in done.stdout and "expensive first" in done.stdout
    found = json.loads(semroute("eval", "--cases", "cases.jsonl", "--robustness", "--json").stdout)
    assert {row["perturbation"] for row in found["robustness"]} >= {"typo", "polite before"}


def test_eval_reports_what_shadow_mode_would_change(semroute, write_project, project):
    escalations = {"store": "sqlite:outcomes.db", "mode": "shadow", "min_support": 1}
    write_project(settings={"escalations": escalations})
    assert semroute("build").returncode == 0
    for _ in range(3):
        added = semroute("escalations", "add", "where is my refund", "--model", "small", "--score", "0")
        assert added.returncode == 0, added.stderr
    write_cases(project, {"prompt": "where is my refund", "route": "billing"})
    found = json.loads(semroute("eval", "--cases", "cases.jsonl", "--json").stdout)
    assert found["shadow"]["moved"] == 1 and found["models"]["served"] == {"small": 1}
    assert found["shadow"]["now"]["usd_per_1m"] < found["shadow"]["then"]["usd_per_1m"]
    assert found["shadow"]["now"]["quality"] < 0.5
    assert "1   decisions would change model" in semroute("eval", "--cases", "cases.jsonl").stdout


def test_eval_shows_twenty_wrong_prompts_or_all_and_cuts_nothing_in_a_pipe(semroute, project):
    long = "hello there " * 30 + "[red]end[/]"
    write_cases(project, *[{"prompt": f"{number} {long}", "route": "coding"} for number in range(25)])
    done = semroute("eval", "--cases", "cases.jsonl")
    assert done.stdout.count("expected coding") == 20 and "and 5 more: --all" in done.stdout
    assert done.stdout.count("[red]end[/]") == 20
    everything = semroute("eval", "--cases", "cases.jsonl", "--all").stdout
    assert everything.count("expected coding") == 25 and "more: --all" not in everything


# doctor, schema, help --------------------------------------------------------------------------------------------


def test_doctor_looks_at_everything(semroute, project):
    done = semroute("doctor")
    assert done.returncode == 0
    for check in (
        "python",
        "faiss-cpu",
        "bundled encoders",
        "processor",
        "routes",
        "index freshness",
        "routing",
    ):
        assert check in done.stdout
    rows = json.loads(semroute("doctor", "--json").stdout)
    assert {row["status"] for row in rows} <= {"ok", "note"}


def test_doctor_notes_unset_keys_by_name_and_shows_none(semroute, write_project, project):
    write_project(settings={"models": {"small": {"api_key_env": "SEMROUTE_TEST_KEY"}, "big": {}}})
    semroute("build")
    assert "SEMROUTE_TEST_KEY" in semroute("doctor").stdout
    done = semroute("doctor", SEMROUTE_TEST_KEY="canary-secret")
    assert "SEMROUTE_TEST_KEY" not in done.stdout and "canary" not in done.stdout + done.stderr


def test_doctor_finds_what_is_broken(semroute, write_project, project):
    next((project / "index").glob("vectors-*")).write_bytes(b"")
    done = semroute("doctor")
    assert done.returncode == 1 and "broken" in done.stdout and "semroute build" in done.stdout
    write_project({"a": {"utterances": [1]}})
    assert "routes/000.yaml:1:" in semroute("doctor").stdout


def test_doctor_in_an_empty_folder_says_how_to_begin(semroute):
    done = semroute("doctor")
    assert done.returncode == 0 and "semroute init" in done.stdout


@pytest.mark.parametrize(("option", "check"), [("--routes", "routes"), ("--index", "index")])
def test_doctor_finds_a_folder_broken_that_was_named_and_is_not_there(semroute, project, option, check):
    done = semroute("doctor", option, "nope", "--json")
    assert done.returncode == 1
    (broken,) = [row for row in json.loads(done.stdout) if row["status"] == "broken"]
    assert broken["check"] == check and "nope" in broken["detail"]


def test_schemas_are_json_schemas(semroute):
    both = json.loads(semroute("schema").stdout)
    assert set(both) == {"semroute", "route"}
    assert json.loads(semroute("schema", "route").stdout) == both["route"]
    assert json.loads(semroute("schema", "semroute", "--json").stdout) == both["semroute"]
    assert semroute("schema", "other").returncode == 2


def test_version_and_help(semroute):
    assert semroute("--version").stdout.startswith("semroute 0.")
    shown = semroute("--help").stdout
    assert all(command in shown for command in COMMANDS)
    assert semroute("nonsense").returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(semroute, command):
    documented = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    shown = semroute(command, "--help", COLUMNS="200", NO_COLOR="1").stdout
    options = {word for line in shown.splitlines() for word in line.split() if word.startswith("--")} - {
        "--help"
    }
    section = documented.split(f"## semroute {command}")[1].split("\n## ")[0]
    assert options and all(option in section for option in options), options
    assert "--json" in options


@pytest.mark.parametrize(
    "extra", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}], ids=["NO_COLOR", "dumb", "no terminal"]
)
def test_no_colours_where_none_are_wanted(semroute, write_project, extra):
    write_project({"a": {"utterances": [7]}})
    done = semroute("validate", **extra)
    assert "\x1b[" not in done.stderr + done.stdout
