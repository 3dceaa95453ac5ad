"""docs/faults.md: each fault has a row, each row a test, and each test is there."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import REPOSITORY

COUNTS = {"I": 17, "E": 8, "C": 6, "P": 27, "S": 6}
NO_TEST = {"P21"}
ROW = re.compile(r"\| ([A-Z]\d+) \| (.+) \| (.+) \|")
TEST = re.compile(r"`(tests/test_\w+\.py)::(\w+(?:::\w+)?)`")

ROWS = [
    match
    for line in (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    if (match := ROW.fullmatch(line))
]


def names_in(file: str) -> set[str]:
    """The names of the tests in a file, those of a class as `Class::name`."""
    found = set()
    for node in ast.parse((REPOSITORY / file).read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + one.name for one in inside if isinstance(one, ast.FunctionDef)}
    return found


def test_each_fault_has_one_row():
    wanted = [f"{kind}{n}" for kind, count in COUNTS.items() for n in range(1, count + 1)]
    assert [row[1] for row in ROWS] == [name for name in wanted if name not in NO_TEST]


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_each_row_names_tests_that_are_there(row):
    named = TEST.findall(row[3])
    assert named
    assert len(named) == row[3].count("::test_")
    for file, test in named:
        assert test in names_in(file), f"{row[1]}: there is no {file}::{test}"
