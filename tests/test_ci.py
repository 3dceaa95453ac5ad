"""The action, the hooks and the workflows of this repository: each command that they hold is run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from semroute.config import json_schemas, schema_text


def read(path):
    return yaml.load((REPOSITORY / path).read_text(encoding="utf-8"), yaml.BaseLoader)


@pytest.fixture
def environment(tmp_path_factory):
    """What a runner gives a step, with the `semroute` of these tests on the path."""
    scratch = tmp_path_factory.mktemp("runner")
    (scratch / "bin").mkdir()
    command = scratch / "bin" / "semroute"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m semroute "$@"\n')
    command.chmod(0o755)
    search = [str(scratch / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GITHUB_", "SEMROUTE_"))}
    names = ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
    return {
        **kept,
        "PYTHONPATH": str(REPOSITORY),
        "PATH": os.pathsep.join(search),
        "RUNNER_TEMP": str(scratch),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{name: str(scratch / name.lower()) for name in names},
    }


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


class Action:
    """Runs the steps of `action.yml` as GitHub would: only the expressions that it uses are known."""

    def __init__(self, folder, environment, **inputs):
        action = read("action.yml")
        self.folder, self.environment, self.steps = folder, environment, action["runs"]["steps"]
        assert inputs.keys() <= action["inputs"].keys()
        given = {name: one.get("default", "") for name, one in action["inputs"].items()} | inputs
        self.values = {f"inputs.{name}": value for name, value in given.items()}
        self.values |= {"github.action_path": str(REPOSITORY), "runner.temp": environment["RUNNER_TEMP"]}
        self.outcomes = {}

    def run(self, *skip):
        """Whether a step failed, and what was printed; `skip` names more steps than those that need a network."""
        printed, failed = "", False
        for step in self.steps:
            name = step["name"]
            if name in ("Python", "Install semroute", *skip) or not self.wanted(
                step.get("if", "true"), failed
            ):
                continue
            done = self.step(step)
            self.outcomes[name] = done.returncode
            printed += done.stdout + done.stderr
            failed = failed or done.returncode != 0
        return failed, printed

    def step(self, step):
        assert step["shell"] == "bash"
        Path(self.environment["GITHUB_OUTPUT"]).write_text("")
        variables = {key: self.filled(value) for key, value in step.get("env", {}).items()}
        assert "${{" not in step["run"], "an expression in a script is an injection"
        script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(
            script,
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        for line in Path(self.environment["GITHUB_OUTPUT"]).read_text().splitlines():
            key, _, value = line.partition("=")
            self.values[f"steps.{step['id']}.outputs.{key}"] = value
        return done

    def filled(self, text):
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: self.first(found[1]), text)

    def first(self, expression):
        known = ("inputs.", "github.", "steps.", "runner.")
        assert all(part.startswith(known) for part in expression.split(" || ")), expression
        return next((value for part in expression.split(" || ") if (value := self.values.get(part))), "")

    def wanted(self, condition, failed):
        always = "always()" in condition
        for part in condition.replace("always()", "true").split(" && "):
            if part == "true":
                continue
            name, operator, value = re.fullmatch(r"(\S+) (==|!=) '(.*)'", part).groups()
            if (self.values.get(name, "") == value) != (operator == "=="):
                return False
        return always or not failed


def commit_all(folder, message):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path):
    """A clone with the example routes and their index, as `actions/checkout` leaves it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("routes", "index"):
        shutil.copytree(REPOSITORY / name, folder / name)
    git(folder, "init", "--quiet")
    commit_all(folder, "base")
    return folder


def test_the_action_on_the_example_routes(checkout, environment):
    action = Action(checkout, environment, baseline="HEAD")
    failed, printed = action.run()
    assert not failed, printed
    assert set(action.outcomes) == {
        "Validate", "Is the index up to date?", "Lint", "The index to compare with", "Evaluate",
    }  # fmt: skip
    assert "::warning file=routes/semroute.yaml,line=" in printed and "::error" not in printed
    summary = Path(environment["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8")
    assert "All 4 floors hold." in summary and "Every prompt is served by the same route" in summary


@pytest.fixture
def small(tmp_path, write_project, environment):
    """A small project under git, whose second commit moves an utterance and forgets to build."""
    from conftest import ROUTES

    billing = {
        "utterances": ROUTES["billing"],
        "heldout": ["my card was charged two times", "send an invoice"],
    }
    chat = {"utterances": ROUTES["smalltalk"], "heldout": ["hello over there"]}
    write_project(ROUTES | {"billing": billing, "smalltalk": chat})
    git(tmp_path, "init", "--quiet")
    subprocess.run(["semroute", "build"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    base = commit_all(tmp_path, "base")
    taken = {"utterances": [*ROUTES["smalltalk"], "my card was charged two times!", "send an invoice now"]}
    write_project(ROUTES | {"billing": billing, "smalltalk": chat | taken})
    commit_all(tmp_path, "change")
    return tmp_path, base


def test_the_action_shows_what_a_change_does_and_fails_on_a_stale_index(small, environment):
    folder, base = small
    action = Action(folder, environment, baseline=base, robustness="true")
    failed, printed = action.run()
    assert failed and action.outcomes["Evaluate"] == 0, printed
    assert {name for name, status in action.outcomes.items() if status} == {"Fail on a stale index"}
    assert "::error title=semroute::index is stale" in printed
    assert "::error file=routes/000.yaml,line=1" in printed
    summary = Path(environment["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8")
    assert "| worse | my card was charged two times | billing | billing → small" in summary
    assert "| expensive first |" in summary


def test_the_action_writes_no_decision_into_a_log(tmp_path, write_project, environment):
    write_project(settings={"log": {"store": f"jsonl:{tmp_path / 'decisions.jsonl'}"}})
    git(tmp_path, "init", "--quiet")
    subprocess.run(["semroute", "build"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    action = Action(tmp_path, environment, baseline=commit_all(tmp_path, "base"))
    _, printed = action.run("Validate", "Lint", "Evaluate")
    assert "There is no index" not in printed
    assert not (tmp_path / "decisions.jsonl").exists()


def test_findings_are_warnings_and_with_strict_lint_errors(small, environment):
    folder, base = small
    failed, printed = Action(folder, environment, baseline=base).run("Evaluate", "Fail on a stale index")
    assert not failed
    assert (
        "::warning file=routes/001.yaml,line=1,col=10,title=semroute lint%3A thin::route `coding` has"
        in printed
    )
    assert "::error" not in printed
    # The matcher would take what a later step says of the YAML for errors.
    assert printed.count("::add-matcher::") == printed.count("::remove-matcher owner=semroute::") == 1
    action = Action(folder, environment, baseline=base, **{"strict-lint": "true"})
    failed, printed = action.run("Is the index up to date?")
    assert failed and action.outcomes["Lint"] == 1
    assert "::error file=routes/001.yaml,line=1,col=10,title=semroute lint%3A thin::" in printed


@pytest.mark.parametrize("before", ["", "0" * 40])
def test_an_event_without_a_base_compares_with_nothing(small, environment, tmp_path_factory, before):
    folder, _ = small
    clone = tmp_path_factory.mktemp("clone") / "checkout"
    git(folder, "clone", "--quiet", str(folder), str(clone))
    action = Action(clone, environment)
    action.values["github.event.before"] = before
    _, printed = action.run("Validate", "Is the index up to date?", "Lint")
    assert "There is no index to compare with." in printed and action.outcomes["Evaluate"] == 0
    action.values["github.event.merge_group.base_sha"] = git(folder, "rev-parse", "HEAD~1")
    _, printed = action.run("Validate", "Is the index up to date?", "Lint")
    assert "There is no index" not in printed


def test_the_action_without_anything_to_compare_with(small, environment):
    folder, _ = small
    action = Action(folder, environment, baseline="no-such-branch", cases="cases.jsonl")
    (folder / "cases.jsonl").write_text('{"prompt": "hello there", "route": "smalltalk"}\n')
    _, printed = action.run("Validate", "Is the index up to date?", "Lint")
    assert "There is no index to compare with." in printed and action.outcomes["Evaluate"] == 0


def test_the_action_fails_on_floors_and_on_yaml_that_is_wrong(small, environment):
    folder, base = small
    cases = [{"prompt": "hello there", "route": "coding", "tags": ["smoke"]}]
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    settings = json.loads((folder / "routes" / "semroute.yaml").read_text())
    settings["floors"] = {"tags": {"smoke": 1}}
    (folder / "routes" / "semroute.yaml").write_text(json.dumps(settings))
    action = Action(folder, environment, baseline=base, cases="cases.jsonl")
    failed, printed = action.run("Validate", "Lint", "The index to compare with")
    assert failed and action.outcomes["Evaluate"] == 1
    assert (
        "::error title=semroute eval%3A tags.smoke::" in printed
        and "::error file=cases.jsonl,line=1" in printed
    )
    (folder / "routes" / "semroute.yaml").write_text("encodr: static\n")
    action = Action(folder, environment, baseline=base)
    failed, printed = action.run()
    assert failed and "Evaluate" not in action.outcomes
    (matcher,) = json.loads((REPOSITORY / ".github" / "semroute-problems.json").read_text())["problemMatcher"]
    (pattern,) = matcher["pattern"]
    found = [re.fullmatch(pattern["regexp"], line) for line in printed.splitlines()]
    (first, *_) = [match for match in found if match]
    assert (first[pattern["file"]], first[pattern["line"]]) == ("routes/semroute.yaml", "1")


def test_the_matcher_reads_problems_warnings_and_findings():
    (matcher,) = json.loads((REPOSITORY / ".github" / "semroute-problems.json").read_text())["problemMatcher"]
    pattern = matcher["pattern"][0]["regexp"]
    for line, severity in (
        ("routes/a.yaml:3:10: unknown model `smal`", None),
        ("routes/a.yml:3:10: warning: the same text: twice", "warning"),
        ("routes/a.yaml:3:10: thin: fewer than five utterances", None),
    ):
        assert re.fullmatch(pattern, line)[4] == severity
    assert re.fullmatch(pattern, "index: up to date with routes") is None


def test_the_hooks_run_and_are_used_here(checkout, environment):
    offered = {hook["id"]: hook for hook in read(".pre-commit-hooks.yaml")}
    assert set(offered) == {f"semroute-{name}" for name in ("validate", "build-check", "lint", "eval")}
    (local,) = read(".pre-commit-config.yaml")["repos"]
    used = {hook["id"]: hook for hook in local["hooks"]}
    for name, hook in offered.items():
        alike = ("name", "entry", "files", "pass_filenames")
        assert [used[name][key] for key in alike] == [hook[key] for key in alike]
        assert re.search(hook["files"], "routes/billing.yaml")
    for hook in (*offered.values(), *used.values()):
        folder = checkout if hook["entry"].startswith("semroute") else REPOSITORY
        command = shlex.split(hook["entry"])
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (hook["id"], done.stdout, done.stderr)
    (checkout / "routes" / "coding.yaml").unlink()
    for name, status in (("semroute-validate", 0), ("semroute-build-check", 1)):
        command = shlex.split(offered[name]["entry"])
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False)
        assert done.returncode == status


def test_the_workflows_use_the_action_and_run_what_is_there():
    steps = [
        step
        for path in sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
        for job in read(path)["jobs"].values()
        for step in job["steps"]
    ]
    assert "./" in [step.get("uses") for step in steps]
    for step in steps:
        assert step.keys() & {"uses", "run"}
        if "run" in step:
            assert os.access(REPOSITORY / step["run"], os.X_OK)


@pytest.mark.parametrize("name", ["semroute", "route"])
def test_the_committed_schemas_are_those_of_the_models(name):
    committed = (REPOSITORY / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(json_schemas()[name]), (
        "run: semroute schema NAME > schemas/NAME.schema.json"
    )


@pytest.mark.parametrize("folder", ["routes", "semroute/starter"])
def test_every_yaml_file_names_a_schema_that_is_there(folder, tmp_path):
    from semroute.starter import write_starter

    at = tmp_path if folder == "semroute/starter" else REPOSITORY / folder
    if at == tmp_path:
        write_starter(tmp_path)
    files = sorted(at.glob("*.yaml"))
    assert len(files) > 3
    for file in files:
        first = file.read_text(encoding="utf-8").splitlines()[0]
        named = first.removeprefix("# yaml-language-server: $schema=")
        schema = json.loads((file.parent / named).read_text(encoding="utf-8"))
        assert schema["title"] == ("semroute.yaml" if file.stem == "semroute" else "A route file")
