"""The benchmarks that need no data of others run: what nobody runs in a while breaks in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.mark.parametrize(
    "arguments",
    [
        ("log_speed.py", "--prompts", "5", "--rounds", "1"),
        ("stores.py", "--rows", "50"),
        ("rerouting.py", "--encoder", "static", "--steps", "1", "--climb", "5"),
        ("outcomes_speed.py", "--only", "2000", "feedback"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_benchmark_prints_its_figures(arguments):
    command = [sys.executable, str(BENCH / arguments[0]), *arguments[1:]]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert any(character.isdigit() for character in ran.stdout)
