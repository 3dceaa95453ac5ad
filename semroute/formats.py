"""An `Assessment` for the programs that run checks: GitHub Actions and whatever reads JUnit's XML.

What users wrote is escaped for where it goes: workflow commands, Markdown and XML alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as Xml

from semroute.assess import Assessment
from semroute.compare import Changed, Comparison
from semroute.evaluate import Case, CaseResult, Evaluation, Wrong
from semroute.floors import CEILING, Floor
from semroute.text import Prompt, PromptError, counted, routed_text

if TYPE_CHECKING:
    from semroute.lint import Finding

_LONGEST = 200  # characters of a prompt that are shown
_ROWS = 100  # of a table in a summary, which GitHub takes up to 1 MiB of


# GitHub Actions: annotations


def workflow_commands(found: Assessment) -> Iterator[str]:
    """Workflow commands: an annotation for each floor that does not hold and each case that does not pass.

    What GitHub shows of one step is ten errors and ten warnings: floors come first, then the cases, the
    surest first. A case is an error where a floor does not hold or where the baseline has it right; else a
    warning: few routers are right about every case, and a check that holds should not be red.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    for floor in found.missed:
        yield _command("error", {"title": f"semroute eval: {floor.name}"}, f"{floor}.")
    worse = _worse(found.comparison)
    wrong = [*found.evaluation.wrong, *found.evaluation.wrong_models]
    for one in sorted(wrong, key=lambda wrong: -wrong.confidence):
        level = "error" if found.missed or id(one.case) in worse else "warning"
        case = one.case
        where = f"{case.where}: " if case.where and not case.is_in_file else ""
        yield _command(level, _location(case), f"{where}{_sentence(one)}")


def _worse(comparison: Comparison | None) -> set[int]:
    """The ids of the cases that the baseline has right; a prompt may be a list, which has no hash."""
    changed = () if comparison is None else comparison.changed
    return {id(one.after.case) for one in changed if one.verdict == "worse"}


def _location(case: Case) -> dict[str, str]:
    place = {"file": case.file, "line": str(case.line)} if case.is_in_file else {}
    return {**place, "title": "semroute eval"}


def _sentence(one: Wrong) -> str:
    got = f"{one.found or 'default'} ({one.model}; {one.reason}, confidence {one.confidence:.2f})"
    return f"expected {_wanted(one.case)}, got {got}: {_prompt(one.case.prompt)}"


def _wanted(case: Case) -> str:
    """What a case expects: its route, its model, or both."""
    route = [] if case.any_route else [case.route or "default"]
    model = [] if case.model is None else [f"model {case.model}"]
    return ", ".join([*route, *model])


def finding_commands(findings: Sequence[Finding], level: str) -> Iterator[str]:
    """What `semroute lint` found, as workflow commands of `level`: error, warning or notice."""
    for one in findings:
        place = {"file": one.place.file, "line": str(one.place.line), "col": str(one.place.column)}
        known = {key: value for key, value in place.items() if value != "0"}
        message = f"{one.message}; {one.suggestion}"
        yield _command(level, {**known, "title": f"semroute lint: {one.kind}"}, message)


def _command(name: str, properties: dict[str, str], message: str) -> str:
    given = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {given}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# GitHub Actions: the summary of a job


class _Row(NamedTuple):
    """A measure: its name, the key of its floor or None, and how to read it from an evaluation."""

    title: str
    key: str
    value: float | None
    before: float | None


def job_summary(found: Assessment) -> str:
    """Markdown for `$GITHUB_STEP_SUMMARY`: measures and floors, what changed, and what is wrong."""
    return "\n".join(_summary_lines(found)) + "\n"


def _summary_lines(found: Assessment) -> Iterator[str]:
    evaluation = found.evaluation
    yield "## semroute eval"
    yield ""
    yield f"**{evaluation.outcome}.** {_outcome(evaluation)} {_verdict(found)}"
    yield ""
    yield from _measures(found)
    yield from _tag_table(found)
    yield from _changes(found.comparison)
    yield from _robustness(found)
    yield from _wrong_table(evaluation)


def _outcome(evaluation: Evaluation) -> str:
    if evaluation.cases:
        right = evaluation.cases - len(evaluation.wrong)
        return f"{right} of {evaluation.cases} with a label are routed as labelled."
    served = f"{evaluation.model_right} of {evaluation.model_cases}"
    return f"No case says which route is right; {served} are served by the model that they expect."


def _verdict(found: Assessment) -> str:
    if not found.floors:
        return "No floor is set."
    if not found.missed:
        return "The floor holds." if len(found.floors) == 1 else f"All {len(found.floors)} floors hold."
    return "Floors that do not hold: " + ", ".join(_cell(floor.name) for floor in found.missed) + "."


def _measures(found: Assessment) -> Iterator[str]:
    compared = found.comparison is not None
    floors = {floor.name: floor for floor in found.floors}
    yield "| measure | value | 95 % | floor |" + (" baseline |" if compared else "")
    yield "|---|---|---|---|" + ("---|" if compared else "")
    for row in _rows(found):
        interval = found.evaluation.intervals.get(row.key.removeprefix("max_"))
        cells = [row.title, _share(row.value), _span(interval), _floor(floors.get(row.key))]
        yield _table_row([*cells, _share(row.before)] if compared else cells)


def _rows(found: Assessment) -> Iterator[_Row]:
    now = found.evaluation
    before = None if found.comparison is None else found.comparison.baseline
    for key, title in (
        ("accuracy", "accuracy"),
        ("macro_f1", "macro-F1"),
        ("top1", "top-1 in scope"),
        ("coverage", "coverage in scope"),
        ("right_of_served", "right of those served"),
        ("refused_out_of_scope", "refused out of scope"),
    ):
        yield _Row(title, key, getattr(now, key), getattr(before, key, None))
    error = None if before is None else before.calibration.error
    yield _Row("calibration error", CEILING, now.calibration.error, error)


def _floor(floor: Floor | None) -> str:
    if floor is None:
        return ""
    bound = "at most " if floor.name == CEILING else ""
    return f"{bound}{floor.wanted:g} {'✅' if floor.holds else '❌'}"


def _tag_table(found: Assessment) -> Iterator[str]:
    floors = {floor.name: floor for floor in found.floors}
    rows = [
        [_cell(one.tag), f"{one.passed} of {one.cases}", _floor(floors.pop(f"tags.{one.tag}", None))]
        for one in found.evaluation.tags
    ]
    rows += [
        [_cell(name.removeprefix("tags.")), "no case", _floor(floor)]
        for name, floor in floors.items()
        if name.startswith("tags.")
    ]
    if rows:
        yield ""
        yield "| tag | passed | floor |"
        yield "|---|---|---|"
        yield from map(_table_row, rows)


def _changes(comparison: Comparison | None) -> Iterator[str]:
    if comparison is None:
        return
    yield ""
    yield "### What changed"
    yield ""
    if not comparison.changed:
        yield "Every prompt is served by the same route and model as before."
        return
    same = len(comparison.changed) - comparison.better - comparison.worse
    yield (
        f"{counted(len(comparison.changed), 'prompt')}: "
        f"{comparison.better} better, {comparison.worse} worse, "
        f"{same} neither (McNemar's exact test, p = {comparison.p_value:.3g})."
    )
    yield ""
    yield "| | prompt | expected | before | now |"
    yield "|---|---|---|---|---|"
    yield from (_changed_row(one) for one in comparison.worst_first[:_ROWS])
    yield from _rest(len(comparison.changed))


def _changed_row(one: Changed) -> str:
    case = one.after.case
    cells = (_prompt(case.prompt), _wanted(case), _served(one.before), _served(one.after))
    return _table_row([one.verdict, *map(_cell, cells)])


def _served(result: CaseResult) -> str:
    return f"{result.route or 'default'} → {result.model}, {result.confidence:.2f}"


def _robustness(found: Assessment) -> Iterator[str]:
    if not found.robustness:
        return
    yield ""
    yield "| perturbation | another route | dearer model | cheaper model | accuracy |"
    yield "|---|---|---|---|---|"
    for one in found.robustness:
        shares = (one.flips, one.upgrades, one.downgrades, one.accuracy)
        yield _table_row([one.perturbation, *map(_share, shares)])


def _wrong_table(evaluation: Evaluation) -> Iterator[str]:
    wrong = sorted([*evaluation.wrong, *evaluation.wrong_models], key=lambda one: -one.confidence)
    if not wrong:
        return
    yield ""
    yield f"<details><summary>{len(wrong)} that do not pass, the surest first</summary>"
    yield ""
    yield "| where | prompt | expected | got | confidence |"
    yield "|---|---|---|---|---|"
    for one in wrong[:_ROWS]:
        case, got = one.case, f"{one.found or 'default'} → {one.model}"
        cells = (case.where, _prompt(case.prompt), _wanted(case), got)
        yield _table_row([*map(_cell, cells), f"{one.confidence:.2f}"])
    yield from _rest(len(wrong))
    yield ""
    yield "</details>"


def _rest(rows: int) -> Iterator[str]:
    if rows > _ROWS:
        yield ""
        yield f"and {rows - _ROWS} more."


def _table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_MEANINGFUL = re.compile(r"([\\`*_\[\](){}!|~#@:.$])")


def _cell(text: str) -> str:
    """`text` as Markdown that shows it and does nothing else: no link, no image, no HTML, no new cell."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    parts = re.split(r"(&(?:amp|lt|gt);)", escaped)
    return "".join(part if place % 2 else _MEANINGFUL.sub(r"\\\1", part) for place, part in enumerate(parts))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _prompt(prompt: Prompt) -> str:
    """A prompt on one line, cut, with nothing in it that does not show or turns text around."""
    try:
        text = routed_text(prompt) or "(no text)"
    except PromptError:  # a case made in Python may hold anything
        return "(no prompt)"
    line = " ".join(text[: 10 * _LONGEST].split())
    shown = "".join("�" if unicodedata.category(one)[0] == "C" else one for one in line)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 4].rstrip() + " ..."


# JUnit

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(found: Assessment) -> str:
    """JUnit's XML: a suite with a test case for each case, and one with the floors.

    Whatever XML 1.0 cannot hold becomes U+FFFD.
    """
    wrong = {id(one.case): one for one in (*found.evaluation.wrong, *found.evaluation.wrong_models)}
    suites = Xml.Element("testsuites", name="semroute eval")
    cases = Xml.SubElement(suites, "testsuite", name="cases")
    for result in found.evaluation.results:
        _case_element(cases, result, wrong.get(id(result.case)))
    if found.floors:
        floors = Xml.SubElement(suites, "testsuite", name="floors")
        for floor in found.floors:
            _floor_element(floors, floor)
    for suite in suites:
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suites.set("tests", str(len(suites.findall("testsuite/testcase"))))
    suites.set("failures", str(len(suites.findall("testsuite/testcase/failure"))))
    Xml.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(suites, encoding="unicode")


def _floor_element(suite: Xml.Element, floor: Floor) -> None:
    one = Xml.SubElement(suite, "testcase", classname="semroute.floors", name=_legal(floor.name))
    if not floor.holds:
        Xml.SubElement(one, "failure", message=_legal(str(floor)), type="floor")


def _case_element(suite: Xml.Element, result: CaseResult, wrong: Wrong | None) -> None:
    case = result.case
    where = case.where
    place = {"file": _legal(case.file), "line": str(case.line)} if case.is_in_file else {}
    one = Xml.SubElement(
        suite,
        "testcase",
        classname=_legal(f"semroute.{case.route or ('model' if case.any_route else 'default')}"),
        name=_legal(f"{where} {_prompt(case.prompt)}"),
        attrib=place,
    )
    if wrong is not None:
        failure = Xml.SubElement(one, "failure", message=_legal(_sentence(wrong)), type="route")
        failure.text = _legal(wrong.detail)


def _legal(text: str) -> str:
    return _ILLEGAL.sub("�", text)
