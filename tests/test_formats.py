"""What the programs read that run checks: nothing that a user wrote may mean anything there."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evaluate import Prepared, decision

from semroute.assess import Assessment
from semroute.compare import compare
from semroute.evaluate import Case, evaluate
from semroute.floors import Floor
from semroute.formats import job_summary, junit, workflow_commands

HOSTILE = "100% of\r\n::set-output name=x::y |<b>`$1`</b> [l](http://e.vil) ![i](x) @me #1 \x00\x1b[31m\u202e\ud800]]>"


class Saying(Prepared):
    """A router that answers every prompt with `answer`."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def route_many(self, prompts):
        return [self.answer for _ in prompts]


def assessed(*cases, answer=None, before=None, floors=()):
    evaluation = evaluate(Saying(answer or decision("b")), cases)
    compared = None if before is None else compare(evaluate(Saying(before), cases), evaluation)
    return Assessment(evaluation, tuple(floors), compared)


MISSED = Floor("tags.a:b,c", 1.0, 0.5, (0.2, 0.8), 4)


def test_an_annotation_is_one_line_with_the_place():
    found = assessed(Case(HOSTILE, "a", "routes/a,b:c.yaml", 7))
    (line,) = workflow_commands(found)
    head, message = re.fullmatch(r"::warning ([^:]*)::(.*)", line).groups()
    assert head == "file=routes/a%2Cb%3Ac.yaml,line=7,title=semroute eval"
    assert "100%25 of" in message and "\x1b" not in message and "expected a, got b" in message


def test_what_floors_and_baseline_make_an_error():
    case = Case("x", "a", "f", 1)
    assert [line.split()[0] for line in workflow_commands(assessed(case))] == ["::warning"]
    assert [line.split()[0] for line in workflow_commands(assessed(case, before=decision("a")))] == [
        "::error"
    ]
    first, second = workflow_commands(assessed(case, floors=[MISSED]))
    assert first.startswith("::error title=semroute eval%3A tags.a%3Ab%2Cc::tags.a:b,c must be at least 1")
    assert second.startswith("::error file=f,line=1")
    assert list(workflow_commands(assessed(case, answer=decision("a")))) == []


def test_a_case_without_a_file_has_no_place():
    assert "file=" not in next(workflow_commands(assessed(Case("x", "a"))))
    assert "file=" not in next(workflow_commands(assessed(Case("x", "a", "-", 3))))


def test_a_heldout_prompt_whose_yaml_is_not_known_is_in_no_file():
    found = assessed(Case("x", "a", "billing.heldout", 3))
    line = next(workflow_commands(found))
    assert "file=" not in line and "billing.heldout[3]: expected a" in line
    case = ElementTree.fromstring(junit(found)).find("testsuite/testcase")
    assert case.get("file") is None and case.get("name").startswith("billing.heldout[3] ")
    assert (
        ElementTree.fromstring(junit(assessed(Case("x", "a", "f", 3)))).find("testsuite/testcase").get("file")
        == "f"
    )


def test_the_summary_shows_measures_floors_and_what_changed():
    cases = [Case("where is it", "a", "f", 1, tags=("smoke",)), Case("there", None, "f", 2)]
    text = job_summary(assessed(*cases, before=decision("a"), floors=[MISSED]))
    assert "0 of 2 with a label are routed as labelled. Floors that do not hold: tags\\.a\\:b,c." in text
    assert "| accuracy | 0.000 | 0.000 to 0.000 |  | 0.500 |" in text
    assert "| a\\:b,c | no case | 1 ❌ |" in text and "| smoke | 0 of 1 |  |" in text
    assert "2 prompts: 0 better, 1 worse, 1 neither" in text
    assert "| worse | where is it | a | a → m, 0\\.90 | b → m, 0\\.90 |" in text
    same = job_summary(assessed(*cases, before=decision("b")))
    assert "Every prompt is served by the same route and model as before." in same


@given(st.text() | st.just(HOSTILE))
def test_no_prompt_gets_out_of_its_cell(text):
    found = assessed(Case(text, "a", "f", 1), before=decision("a"))
    lines = job_summary(found).splitlines()
    plain = job_summary(assessed(Case("x", "a", "f", 1), before=decision("a"))).splitlines()
    assert len(lines) == len(plain)
    for line, other in zip(lines, plain, strict=True):
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == len(re.findall(r"(?<!\\)\|", other))
        assert not re.search(r"(?<!\\)(?:\\\\)*[`\[@$]", line)
        assert "<" not in line or line.startswith(("<details>", "</details>"))


@given(st.text(st.characters(codec=None)) | st.just(HOSTILE))
def test_junit_is_xml_whatever_the_prompt(text):
    found = assessed(Case(text, "a", "f", 3), Case("y", "b", "f", 4), floors=[MISSED])
    written = junit(found)
    suites = ElementTree.fromstring(written.encode("utf-8"))
    assert (suites.get("tests"), suites.get("failures")) == ("3", "2")
    cases, floors = suites
    assert [len(one.findall("failure")) for one in cases] == [1, 0]
    assert (cases[0].get("file"), cases[0].get("line"), cases[0].get("classname")) == ("f", "3", "semroute.a")
    assert "tags.a:b,c must be at least 1" in floors[0][0].get("message")


def test_junit_without_floors_has_no_suite_of_them():
    assert junit(assessed(Case("x", "b"))).count("<testsuite ") == 1


@pytest.mark.parametrize("rows", [101, 150])
def test_long_tables_are_cut_and_say_so(rows):
    found = assessed(*[Case(f"prompt {n}", "a", "f", n) for n in range(rows)], before=decision("a"))
    assert job_summary(found).count(f"and {rows - 100} more.") == 2
